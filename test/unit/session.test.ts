import { expect } from 'chai';
import type { Connection } from '../../src/hub/connection.js';
import type { CredentialPorts } from '../../src/hub/credential-life.js';
import type { Hub } from '../../src/hub/hub.js';
import type { HubClient } from '../../src/hub/hub-client.js';
import type { Success } from '../../src/hub/reply.js';
import { type OpenSession, type Session, sessionOpener } from '../../src/hub/session.js';
import type { Subscription } from '../../src/hub/subscription.js';
import { type ErrorCode, TaskwireError } from '../../src/protocol/errors.js';
import { parseRoom, type Room } from '../../src/protocol/rooms.js';
import type { Identity } from '../../src/protocol/tasks.js';
import type { RoomOwner } from '../../src/repository/log.js';
import { eventually } from '../support/eventually.js';

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** A session on a hub that only notes what it is asked, in turns. */
class Stage {
  /** Names of the rooms that were joined, those of one turn together. */
  readonly joined: string[][] = [];
  readonly left: string[] = [];
  readonly session: Session;
  readonly open: OpenSession;
  private readonly lookups = new Map<string, { resolve(owner: RoomOwner): void; reject(error: unknown): void }>();
  private readonly in = new Set<string>();
  private together: string[] | undefined;

  /** @param authenticate answers AUTH messages */
  constructor(
    authenticate: CredentialPorts['authenticate'] = () => Promise.reject(new TaskwireError('INVALID_TOKEN')),
  ) {
    const rooms = this.in;
    const client = {
      get roomCount() {
        return rooms.size;
      },
      has: (room: Room) => rooms.has(room.name),
      subscribe: (_owner: string, subscription: Subscription) => this.join(subscription),
      leave: (room: Room) => {
        rooms.delete(room.name);
        this.left.push(room.name);
      },
      get rooms() {
        return [...rooms].map(parseRoom);
      },
      positions: () => [],
      close() {},
    };
    const hub = { connect: () => client as unknown as HubClient } as unknown as Hub;
    this.open = sessionOpener(hub, {
      resolve: (_identity, room) =>
        new Promise((resolve, reject) => {
          this.lookups.set(room.name, { resolve, reject });
        }),
      authenticate,
      limits: { MAX_ROOMS_PER_CONNECTION: 3 },
    });
    this.session = this.open(this.connection);
  }

  readonly closed: ErrorCode[] = [];
  readonly connection = {
    id: 'c',
    identity: { owner: 'ada' },
    close: (code: ErrorCode) => this.closed.push(code),
  } as unknown as Connection;

  get rooms(): string[] {
    return [...this.in];
  }

  async ask(type: string, data: unknown): Promise<Success | TaskwireError> {
    return new Promise((resolve) => this.session.handle(type, data, resolve));
  }

  /** Lets the look-up of a room end. */
  async owns(room: string, outcome: string | ErrorCode): Promise<void> {
    await turn();
    const lookup = this.lookups.get(room)!;
    if (/^[A-Z_]+$/.test(outcome)) {
      lookup.reject(new TaskwireError(outcome as ErrorCode));
    } else {
      lookup.resolve({ userId: outcome });
    }
    await turn();
  }

  private join(subscription: Subscription): void {
    const { name } = subscription.room;
    if (this.together === undefined) {
      this.together = [];
      this.joined.push(this.together);
      setImmediate(() => {
        this.together = undefined;
      });
    }
    this.together.push(name);
    this.in.add(name);
    subscription.answer({ room: name, seq: 7, epoch: 'e', recovered: true, replayed: 0 });
  }
}

describe('session', () => {
  it('joins in one turn what was asked for in one turn, whenever it is known whose the rooms are', async () => {
    const stage = new Stage();
    const many = stage.ask('SUBSCRIBE', { rooms: ['job:1', 'user:ada'] });
    const one = stage.ask('SUBSCRIBE', { room: 'task:9' });
    await stage.owns('user:ada', 'ada');
    await stage.owns('task:9', 'ada');
    expect(stage.joined).to.deep.equal([]);
    await stage.owns('job:1', 'ada');
    expect(stage.joined).to.deep.equal([['job:1', 'user:ada', 'task:9']]);
    expect(await many).to.have.nested.property('data.rooms.length', 2);
    expect(await one).to.have.nested.property('data.room', 'task:9');
  });

  it('joins none while one of them cannot be looked up', async () => {
    const stage = new Stage();
    const answer = stage.ask('SUBSCRIBE', { rooms: ['job:1', 'user:ada'] });
    await stage.owns('job:1', 'ada');
    await stage.owns('user:ada', 'DATABASE_UNAVAILABLE');
    expect(stage.joined).to.deep.equal([]);
    const { data } = (await answer) as { data: { rooms: Array<{ room: string; error: { code: string } }> } };
    expect(data.rooms.map(({ room, error }) => [room, error.code])).to.deep.equal([
      ['job:1', 'DATABASE_UNAVAILABLE'],
      ['user:ada', 'DATABASE_UNAVAILABLE'],
    ]);
  });

  it('refuses for good only the room that is refused', async () => {
    const stage = new Stage();
    const answer = stage.ask('SUBSCRIBE', { rooms: ['job:1', 'user:eve', 'nonsense'] });
    await stage.owns('job:1', 'ada');
    await stage.owns('user:eve', 'ACCESS_DENIED');
    expect(stage.joined).to.deep.equal([['job:1']]);
    const { data } = (await answer) as { data: { rooms: Array<{ error?: { code: string } }> } };
    expect(data.rooms.map(({ error }) => error?.code)).to.deep.equal([undefined, 'ACCESS_DENIED', 'INVALID_ROOM']);
  });

  it('lets an UNSUBSCRIBE wait for the SUBSCRIBE before it, and a second SUBSCRIBE too', async () => {
    const stage = new Stage();
    const first = stage.ask('SUBSCRIBE', { room: 'job:1' });
    const leave = stage.ask('UNSUBSCRIBE', { room: 'job:1' });
    await turn();
    expect(stage.left).to.deep.equal([]);
    await stage.owns('job:1', 'ada');
    await Promise.all([first, leave]);
    expect(stage.left).to.deep.equal(['job:1']);

    const again = [stage.ask('SUBSCRIBE', { room: 'job:2' }), stage.ask('SUBSCRIBE', { room: 'job:2', since: 3 })];
    await stage.owns('job:2', 'ada');
    await stage.owns('job:2', 'ada');
    await Promise.all(again);
    expect(stage.joined.slice(1)).to.deep.equal([['job:2'], ['job:2']]);
  });

  it('leaves each room of a list in its turn, and none that was asked for after it', async () => {
    const stage = new Stage();
    const slow = stage.ask('SUBSCRIBE', { room: 'job:1' });
    const quick = stage.ask('SUBSCRIBE', { room: 'job:2' });
    await stage.owns('job:2', 'ada');
    const leave = stage.ask('UNSUBSCRIBE', { rooms: ['job:1', 'job:2', 'job:3'] });
    expect(stage.left, 'rooms of which nothing waits').to.deep.equal(['job:3']);
    const again = stage.ask('SUBSCRIBE', { room: 'job:2' });
    await stage.owns('job:1', 'ada');
    await Promise.all([slow, quick, leave]);
    expect([...stage.left].sort()).to.deep.equal(['job:1', 'job:2', 'job:3']);
    await stage.owns('job:2', 'ada');
    await again;
    expect(stage.rooms, 'what was asked for last').to.deep.equal(['job:2']);
  });

  it('does not let one room wait for another', async () => {
    const stage = new Stage();
    void stage.ask('SUBSCRIBE', { room: 'job:1' });
    await turn();
    const other = stage.ask('SUBSCRIBE', { room: 'job:2' });
    await stage.owns('job:2', 'ada');
    expect(await other).to.have.nested.property('data.room', 'job:2');
    await stage.ask('UNSUBSCRIBE', { room: 'job:2' });
    expect(stage.left).to.deep.equal(['job:2']);
  });

  it('refuses requests that pile up behind one room', async () => {
    const stage = new Stage();
    void stage.ask('SUBSCRIBE', { room: 'job:1' });
    const piled = Array.from({ length: 12 }, () => stage.ask('UNSUBSCRIBE', { room: 'job:1' }));
    const refused = (await Promise.race(piled)) as TaskwireError;
    expect(refused.code).to.equal('RATE_LIMIT_EXCEEDED');
  });

  it('counts rooms that are on their way in', async () => {
    const stage = new Stage();
    void stage.ask('SUBSCRIBE', { rooms: ['job:1', 'job:2', 'job:3'] });
    const answer = await stage.ask('SUBSCRIBE', { room: 'job:4' });
    expect(answer).to.have.property('code', 'TOO_MANY_ROOMS');
  });

  it('lets a connection with all the rooms that it may have start one of them anew, and take another when it left one', async () => {
    const stage = new Stage();
    const full = stage.ask('SUBSCRIBE', { rooms: ['job:1', 'job:2', 'job:3'] });
    for (const room of ['job:1', 'job:2', 'job:3']) {
      await stage.owns(room, 'ada');
    }
    await full;
    const again = stage.ask('SUBSCRIBE', { rooms: ['job:1', 'job:2', 'job:3'] });
    for (const room of ['job:1', 'job:2', 'job:3']) {
      await stage.owns(room, 'ada');
    }
    const { data } = (await again) as { data: { rooms: Array<{ seq?: number }> } };
    expect(data.rooms.map(({ seq }) => seq)).to.deep.equal([7, 7, 7]);
    expect(await stage.ask('SUBSCRIBE', { room: 'job:4' })).to.have.property('code', 'TOO_MANY_ROOMS');

    // The room that is started anew is left before it is asked for a third time.
    const anew = stage.ask('SUBSCRIBE', { room: 'job:1' });
    const leave = stage.ask('UNSUBSCRIBE', { room: 'job:1' });
    const third = stage.ask('SUBSCRIBE', { room: 'job:1' });
    expect(await third).to.have.property('code', 'TOO_MANY_ROOMS');
    await stage.owns('job:1', 'ada');
    await Promise.all([anew, leave]);
    const other = stage.ask('SUBSCRIBE', { room: 'job:4' });
    await stage.owns('job:4', 'ada');
    expect(await other).to.have.nested.property('data.room', 'job:4');
  });

  describe('with AUTH', () => {
    const BOB = { owner: 'bob' } as Identity;
    const passes = async (): Promise<void> => {};

    it('keeps the credentials that it has when the new ones end while they are checked', async () => {
      const stage = new Stage(async () => ({
        identity: BOB,
        confirm: () => Promise.reject(new TaskwireError('INACTIVE_API_KEY')),
      }));
      expect(await stage.ask('AUTH', { token: 't' })).to.have.property('code', 'INACTIVE_API_KEY');
      expect(stage.connection.identity.owner).to.equal('ada');
    });

    it('asks whether they still hold when everything else has been checked', async () => {
      const steps: string[] = [];
      const stage = new Stage(async () => ({
        identity: BOB,
        confirm: async () => {
          steps.push('confirmed');
        },
      }));
      const joined = stage.ask('SUBSCRIBE', { room: 'job:1' });
      await stage.owns('job:1', 'ada');
      await joined;
      const answer = stage.ask('AUTH', { token: 't' });
      await turn();
      expect(steps).to.deep.equal([]);
      await stage.owns('job:1', 'bob');
      expect(await answer).to.have.property('type', 'SUCCESS');
      expect(steps).to.deep.equal(['confirmed']);
      expect(stage.connection.identity.owner).to.equal('bob');
    });

    it('handles what comes behind it with the new ones, in order, and another AUTH among it too', async () => {
      const answers: string[] = [];
      let names = 0;
      const stage = new Stage(async () => {
        names += 1;
        return { identity: { owner: `user${names}` } as Identity, confirm: passes };
      });
      const note = (name: string) => () => answers.push(`${name} ${stage.connection.identity.owner}`);
      stage.session.handle('AUTH', { token: 'a' }, note('AUTH'));
      stage.session.handle('PING', undefined, note('PING'));
      stage.session.handle('AUTH', { token: 'b' }, note('AUTH'));
      stage.session.handle('PING', undefined, note('PING'));
      stage.session.handle('NONE', undefined, note('NONE'));
      await eventually(() =>
        expect(answers).to.deep.equal(['AUTH user1', 'PING user1', 'AUTH user2', 'PING user2', 'NONE user2']),
      );
    });

    it('lets no more than some messages wait for it, and answers the others', async () => {
      let answer: (() => void) | undefined;
      const stage = new Stage(
        () =>
          new Promise((resolve) => {
            answer = () => resolve({ identity: BOB, confirm: passes });
          }),
      );
      const asked = stage.ask('AUTH', { token: 't' });
      const refused: unknown[] = [];
      let answered = 0;
      for (let number = 0; number < 1_000; number += 1) {
        stage.session.handle('PING', undefined, (outcome) => {
          answered += 1;
          if (outcome instanceof TaskwireError) {
            refused.push(outcome.code);
          }
        });
      }
      expect(refused).to.have.length(744);
      expect(new Set(refused)).to.deep.equal(new Set(['RATE_LIMIT_EXCEEDED']));
      await eventually(() => expect(answer).to.not.equal(undefined));
      answer!();
      await asked;
      expect(answered).to.equal(1_000);
    });

    it('closes a connection whose token has ended before there is a session only when there is one', async () => {
      const stage = new Stage();
      const connection = {
        ...stage.connection,
        identity: { owner: 'ada', token: { expiresAt: Date.now() - 1 } } as Identity,
      };
      const { closed } = stage;
      stage.open(connection);
      expect(closed).to.deep.equal([]);
      await eventually(() => expect(closed).to.deep.equal(['TOKEN_EXPIRED']));
    });
  });
});
