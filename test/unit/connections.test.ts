import { expect } from 'chai';
import { silentLogger } from '../../src/base/logger.js';
import { Maintenance } from '../../src/door/key-watch.js';
import { Connections, type GatewayConnection, type Place } from '../../src/gateways/connections.js';
import type { Identity } from '../../src/protocol/tasks.js';

/** A connection that ends when it is closed, as its client's does. */
class Guest implements GatewayConnection {
  readonly transport = 'websocket';
  readonly backlog = 0;
  place: Place | undefined;
  closedWith: string | undefined;

  constructor(
    readonly id: string,
    readonly identity: Identity,
  ) {}

  deliver(): void {}

  close(code: string): void {
    this.closedWith = code;
    this.place?.release();
  }

  terminate(): void {
    this.close('cut off');
  }
}

describe('connections of a worker', () => {
  let connections: Connections;
  let released: string[];
  let ended: string[];

  beforeEach(() => {
    released = [];
    ended = [];
    connections = new Connections(
      ({ id }) => ({ handle() {}, fallBehind() {}, close: () => ended.push(id) }),
      silentLogger,
    );
  });

  const enter = (id: string, keyId: string, token?: Identity['token']): Guest => {
    const identity: Identity = { keyId, owner: 'ada', role: 'user', rateLimit: 1, ...(token ? { token } : {}) };
    const guest = new Guest(id, identity);
    guest.place = connections.enter(guest, { identity, address: '127.0.0.1', release: () => released.push(id) });
    return guest;
  };

  it('are sent away by a drain, and let nobody in any more', async () => {
    const guests = ['one', 'two', 'three'].map((id) => enter(id, 'key'));
    await connections.drain(0);
    expect(connections.draining).to.equal(true);
    expect(guests.map(({ closedWith }) => closedWith)).to.deep.equal(Array(3).fill('SERVER_DRAINING'));
    expect(connections.size).to.equal(0);
  });

  it('give back what they held once', () => {
    const guest = enter('one', 'key');
    guest.place!.release();
    guest.place!.release();
    expect({ released, ended, left: connections.size }).to.deep.equal({ released: ['one'], ended: ['one'], left: 0 });
  });

  it('end with their key, by themselves or by a token that it made', () => {
    const [own, made, other] = [
      enter('own', 'key'),
      enter('made', 'token:1', { expiresAt: Date.now() + 60_000, keyId: 'key' } as Identity['token']),
      enter('other', 'another'),
    ];
    expect(connections.keyIds().sort()).to.deep.equal(['another', 'key']);
    connections.closeByKey('key', 'INACTIVE_API_KEY');
    expect([own, made, other].map(({ closedWith }) => closedWith)).to.deep.equal([
      'INACTIVE_API_KEY',
      'INACTIVE_API_KEY',
      undefined,
    ]);
  });

  it('end when a look at their keys finds them revoked', async () => {
    const [good, revoked] = [enter('one', 'good'), enter('two', 'revoked')];
    const maintenance = new Maintenance({
      log: { trim: async () => 0 },
      cleanWriteKeys: async () => 0,
      apiKeys: { active: async () => new Set(['good']) },
      connections,
      retentionHours: 1,
      checkMs: 60_000,
      logger: silentLogger,
    });
    await maintenance.checkKeys();
    expect([good.closedWith, revoked.closedWith]).to.deep.equal([undefined, 'INACTIVE_API_KEY']);
  });
});
