import { expect } from 'chai';
import { silentLogger } from '../../src/base/logger.js';
import type { ChannelListener } from '../../src/broker/broker.js';
import { Hub } from '../../src/hub/hub.js';
import { sessionOpener } from '../../src/hub/session.js';
import { encodeStreamMessage } from '../../src/protocol/stream-message.js';
import type { Snapshot } from '../../src/repository/log.js';
import { FreeClient, Frontend } from './hub-clients.js';
import { Gate, ReferenceLog, ROOMS, USER } from './hub-log.js';
import { HUB_OPTIONS } from './hub-options.js';
import { type Beginning, LetterClient } from './letter-client.js';

export type Step =
  | { do: 'write' | 'capture'; task: number }
  | { do: 'publish' | 'duplicate' | 'drop' | 'answer' | 'fail'; pick: number }
  | {
      do: 'subscribe';
      client: number;
      asks: ReadonlyArray<{ room: number; back?: number | undefined; epoch?: string }>;
    }
  | { do: 'unsubscribe'; client: number; room: number }
  | { do: 'clog'; client: number; on: boolean }
  | { do: 'letterClog'; letter: number; on: boolean }
  | { do: 'disconnect'; client: number }
  | { do: 'open'; frontend: number; rooms: readonly number[] }
  | { do: 'leave'; frontend: number }
  | { do: 'ask'; letter: number; rooms: readonly number[]; from: Beginning }
  | { do: 'quit'; letter: number; rooms: readonly number[]; keep: boolean }
  | { do: 'up' | 'down'; letter: number; messages: number }
  | { do: 'ping' | 'cut' | 'goOn'; letter: number }
  | { do: 'reconcile' | 'look' | 'turn' }
  | { do: 'trim' | 'restore'; keep: number };

export const CLIENTS = 3;
export const FRONTENDS = 2;
export const LETTERS = 1;

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** A hub between a log and a broker that do what the test says, and its clients. */
export class World {
  readonly log = new ReferenceLog();
  readonly gate = new Gate();
  readonly hub: Hub;
  /** Those of now; whoever was disconnected is in `everyone` only. */
  readonly clients: FreeClient[];
  readonly frontends: Frontend[];
  /** Clients behind a wire, who follow the documents to the letter. */
  readonly letters: LetterClient[];
  private readonly everyone: FreeClient[] = [];
  private listener: ChannelListener | undefined;
  private onTheWay: Buffer[] = [];
  /** The broker brings nothing more. */
  private settling = false;

  /**
   * @param repairs whether the log can be read
   * @param eager whether clients move the positions of rooms that have not been answered
   */
  constructor({ repairs = true, eager = false } = {}) {
    const { log, gate } = this;
    const broker = () => ({ up: !this.settling });
    this.hub = new Hub(
      {
        get up() {
          return broker().up;
        },
        onUp() {},
        onDown() {},
        subscribe: async (_channel, listener) => {
          this.listener = listener;
        },
        unsubscribe: async () => {
          this.listener = undefined;
        },
      },
      {
        heads: (userIds) => gate.run(() => new Map(userIds.map((userId) => [userId, log.state()]))),
        read: (query) =>
          repairs ? gate.run(() => log.read(query)) : gate.run(() => ({ ...log.state(), events: [], complete: true })),
        state: () => gate.run(() => log.state()),
        snapshot: (room, limit, _bytes, before): Promise<Snapshot> =>
          gate.run(() => ({ ...log.state(), userId: USER, ...log.tasks(room.name, limit, before) })),
      },
      { ...HUB_OPTIONS, RECONCILE_MS: 1_000, RECONCILE_IDLE_MS: 1_000, POSITION_INTERVAL_MS: 1_000_000 },
      silentLogger,
      // Nobody stalls, and whoever waits looks again in the next turn.
      { now: () => 0, sleep: turn },
    );
    this.clients = Array.from({ length: CLIENTS }, () => this.newClient());
    this.frontends = Array.from({ length: FRONTENDS }, () => new Frontend(this.hub));
    const open = sessionOpener(this.hub, {
      resolve: () => gate.run(() => ({ userId: USER, head: log.state() })),
      authenticate: () => Promise.reject(new Error('nobody sends AUTH')),
      limits: { MAX_ROOMS_PER_CONNECTION: 100 },
    });
    this.letters = Array.from({ length: LETTERS }, () => new LetterClient(open, eager));
  }

  async run(action: Step): Promise<void> {
    switch (action.do) {
      case 'write':
        this.onTheWay.push(encodeStreamMessage(this.log.write(action.task)));
        break;
      case 'capture':
        this.log.write(action.task, true);
        break;
      case 'look':
        void this.hub.look(USER);
        break;
      case 'publish': {
        const [message] = this.onTheWay.splice(action.pick % Math.max(1, this.onTheWay.length), 1);
        if (message !== undefined) {
          this.listener?.([message]);
        }
        break;
      }
      case 'duplicate': {
        const message = this.onTheWay[action.pick % Math.max(1, this.onTheWay.length)];
        if (message !== undefined) {
          this.listener?.([message, message]);
        }
        break;
      }
      case 'drop':
        this.onTheWay.splice(action.pick % Math.max(1, this.onTheWay.length), 1);
        break;
      case 'answer':
        this.gate.release(action.pick);
        break;
      case 'fail':
        this.gate.fail(action.pick);
        break;
      case 'subscribe':
        for (const { room, back, epoch } of action.asks) {
          const since = back === undefined ? undefined : Math.max(0, this.log.events.length - back);
          const given = epoch === 'own' ? this.log.epoch : epoch;
          this.clients[action.client]!.subscribe(ROOMS[room]!, since, given);
        }
        break;
      case 'unsubscribe':
        this.clients[action.client]!.unsubscribe(ROOMS[action.room]!);
        break;
      case 'clog':
        this.clients[action.client]!.clog(action.on);
        break;
      case 'letterClog':
        this.letters[action.letter]!.clog(action.on);
        break;
      case 'disconnect':
        this.clients[action.client]!.disconnect();
        this.clients[action.client] = this.newClient();
        break;
      case 'open':
        this.frontends[action.frontend]!.open(action.rooms.map((room) => ROOMS[room]!));
        break;
      case 'leave':
        this.frontends[action.frontend]!.disconnect();
        break;
      case 'ask':
        this.letters[action.letter]!.subscribe(
          action.rooms.map((room) => ROOMS[room]!),
          action.from,
        );
        break;
      case 'quit':
        this.letters[action.letter]!.unsubscribe(
          action.rooms.map((room) => ROOMS[room]!),
          action.keep,
        );
        break;
      case 'up':
        this.letters[action.letter]!.carryUp(action.messages);
        break;
      case 'down':
        this.letters[action.letter]!.carryDown(action.messages);
        break;
      case 'ping':
        this.letters[action.letter]!.ping();
        break;
      case 'cut':
        this.letters[action.letter]!.break();
        break;
      case 'goOn':
        this.letters[action.letter]!.goOn();
        break;
      case 'reconcile':
        this.reconcile();
        break;
      case 'trim':
        this.log.floor = Math.max(this.log.floor, this.log.events.length - action.keep);
        break;
      case 'restore':
        this.log.restore(action.keep);
        break;
      case 'turn':
        break;
    }
    await turn();
  }

  /** Lets everything that is under way come to its end, without any further help from the broker. */
  async settle(): Promise<void> {
    this.onTheWay = [];
    for (const client of [...this.clients, ...this.letters]) {
      client.clog(false);
    }
    this.settling = true;
    for (let round = 0; round < 6 || this.unsettled(); round += 1) {
      expect(round, 'everything that is asked for is answered').to.be.below(500);
      this.reconcile();
      await turn();
      while (this.gate.release(0)) {
        await turn();
      }
      for (const frontend of this.frontends) {
        frontend.comeBack();
      }
      for (const letter of this.letters) {
        letter.carryUp(Number.POSITIVE_INFINITY);
        letter.carryDown(Number.POSITIVE_INFINITY);
        letter.goOn();
      }
      await turn();
    }
  }

  /** Holds what every connection got against the log. */
  check(): void {
    for (const client of this.everyone) {
      client.check(this.log);
    }
    for (const frontend of this.frontends) {
      frontend.check(this.log);
    }
    for (const letter of this.letters) {
      letter.check(this.log);
    }
  }

  async stop(): Promise<void> {
    await this.hub.stop();
  }

  private newClient(): FreeClient {
    const client = new FreeClient(`c${this.everyone.length}`, this.hub);
    this.everyone.push(client);
    return client;
  }

  private reconcile(): void {
    // A log that cannot be read is asked again at the next one.
    this.hub.reconcile().catch(() => {});
  }

  private unsettled(): boolean {
    return (
      this.everyone.some((client) => client.waits) ||
      this.frontends.some((frontend) => !frontend.live) ||
      this.letters.some((letter) => !letter.settled)
    );
  }
}

/** Plays steps in a new world, to their end, and checks what everybody has got. */
export async function play(
  steps: readonly Step[],
  options: ConstructorParameters<typeof World>[0] = {},
): Promise<void> {
  const world = new World(options);
  try {
    for (const action of steps) {
      await world.run(action);
    }
    await world.settle();
    world.check();
  } finally {
    await world.stop();
  }
}
