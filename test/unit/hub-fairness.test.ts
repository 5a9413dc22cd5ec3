import { expect } from 'chai';
import { silentLogger } from '../../src/base/logger.js';
import type { Connection } from '../../src/hub/connection.js';
import { Hub } from '../../src/hub/hub.js';
import { type Session, sessionOpener } from '../../src/hub/session.js';
import { eventually } from '../support/eventually.js';
import { HUB_OPTIONS } from '../support/hub-options.js';

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** A hub whose snapshots, one at a time, and look-ups end when the test says so. */
class Stage {
  /** Rooms whose snapshots were begun, and whose owners were asked for, in order. */
  readonly snapshots: string[] = [];
  readonly lookups: string[] = [];
  readonly answered: string[] = [];
  private readonly open: (keyId: string) => Session;
  private readonly ends: Array<() => void> = [];

  constructor({ slowLookups }: { slowLookups: boolean }) {
    const later = <T>(value: T): Promise<T> => new Promise((resolve) => this.ends.push(() => resolve(value)));
    const hub = new Hub(
      { up: true, onUp() {}, onDown() {}, subscribe: async () => {}, unsubscribe: async () => {} },
      {
        heads: async (userIds) => new Map(userIds.map((userId) => [userId, { seq: 0, epoch: 'e' }])),
        read: () => Promise.reject(new Error('nothing is missing')),
        state: () => Promise.reject(new Error('nothing is asked for')),
        snapshot: (room) => {
          this.snapshots.push(room.name);
          return later({ seq: 0, epoch: 'e', userId: 'u', tasks: '[]', truncated: false, oldest: undefined });
        },
      },
      { ...HUB_OPTIONS, REPLAY_CONCURRENCY: 1 },
      silentLogger,
    );
    const open = sessionOpener(hub, {
      resolve: (_identity, room) => {
        this.lookups.push(room.name);
        return slowLookups ? later({ userId: 'u' }) : Promise.resolve({ userId: 'u' });
      },
      authenticate: () => Promise.reject(new Error('nobody sends AUTH')),
      limits: { MAX_ROOMS_PER_CONNECTION: 10 },
    });
    this.open = (keyId) =>
      open({
        id: keyId,
        identity: { keyId, owner: 'u', role: 'user', rateLimit: 1 },
        backlog: 0,
        deliver() {},
        close() {},
      } as Connection);
  }

  /** A new connection of a key asks for a room. */
  async ask(keyId: string, room: string): Promise<void> {
    this.open(keyId).handle('SUBSCRIBE', { room }, () => this.answered.push(room));
    await turn();
  }

  async endOne(): Promise<void> {
    this.ends.shift()?.();
    await turn();
    await turn();
  }
}

describe('keys take turns', () => {
  it('for snapshots: whoever has one waiting is served after at most one of each other key', async () => {
    const stage = new Stage({ slowLookups: false });
    for (let job = 1; job <= 20; job += 1) {
      await stage.ask('greedy', `job:${job}`);
    }
    await stage.ask('modest', 'job:100');
    await stage.ask('other', 'job:200');
    await eventually(() => expect(stage.snapshots).to.deep.equal(['job:1']));
    await stage.endOne();
    await stage.endOne();
    await stage.endOne();
    await stage.endOne();
    expect(stage.snapshots.slice(0, 4)).to.include.members(['job:100', 'job:200']);
    expect(stage.answered).to.include.members(['job:1', 'job:100']);
  });

  it('for a snapshot that several ask for: it is read in the first of their turns', async () => {
    const stage = new Stage({ slowLookups: false });
    for (let job = 1; job <= 20; job += 1) {
      await stage.ask('greedy', `job:${job}`);
    }
    await stage.ask('modest', 'job:20');
    await stage.endOne();
    await stage.endOne();
    await stage.endOne();
    expect(stage.snapshots.slice(0, 3)).to.include('job:20');
    expect(stage.snapshots.filter((room) => room === 'job:20')).to.have.length(1);
  });

  it('for look-ups and joins, which run some at a time', async () => {
    const stage = new Stage({ slowLookups: true });
    for (let job = 1; job <= 100; job += 1) {
      await stage.ask('greedy', `job:${job}`);
    }
    const begun = stage.lookups.length;
    expect(begun).to.be.below(100);
    await stage.ask('modest', 'job:500');
    expect(stage.lookups).to.have.length(begun);
    await stage.endOne();
    await stage.endOne();
    expect(stage.lookups.slice(begun, begun + 2)).to.include('job:500');
  });
});
