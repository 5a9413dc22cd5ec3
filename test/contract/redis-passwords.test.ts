import { expect } from 'chai';
import type { Redis } from 'ioredis';
import { Server, type ServerOptions } from 'socket.io';
import { RedisBroker } from '../../src/broker/redis/redis-broker.js';
import { eventually } from '../support/eventually.js';
import { describeWith } from '../support/programs.js';
import { REDIS_PROGRAMS } from '../support/redis.js';
import { keepingLogger, type LogLine } from '../support/redis-broker.js';
import { type Guarded, guardedCluster, guardedSentinels } from '../support/redis-passwords.js';

const PREFIX = 'passwords';
const LATE = 'events between instances come late';
const PER_WORKER = 'limits are counted by each worker';
const PATIENCE = { timeoutMs: 30_000 };
/** More than there are Sentinels, so that each of them is asked again. */
const ATTEMPTS = 5;

/** Codes of a connection that was cut: which one depends on what was under way on it. */
const CUT = ['CLOSED', 'ECONNRESET', 'EPIPE'];

interface Running {
  readonly broker: RedisBroker;
  readonly lines: LogLine[];
  readonly heard: string[];
  readonly io: Server;
  /** Greetings that Socket.IO has brought. */
  greetings: number;
}

describeWith(REDIS_PROGRAMS, 'a password of several Redis servers that is changed while it is used', function () {
  this.timeout(120_000);
  let servers: Guarded;
  let running: Running[];

  beforeEach(() => {
    running = [];
  });

  afterEach(async () => {
    await Promise.all(running.map(({ broker }) => broker.stop()));
    await servers?.stop();
  });

  async function start(password: string): Promise<Running> {
    const { logger, lines } = keepingLogger();
    const options = { prefix: PREFIX, logger, leaseMs: 900, heartbeatMs: 100, refusedMs: 20 };
    const broker = new RedisBroker({ ...options, ...servers.settings(password) });
    const io = new Server({ adapter: broker.socketAdapter() as ServerOptions['adapter'] });
    const one: Running = { broker, lines, heard: [], io, greetings: 0 };
    io.on('hello', () => {
      one.greetings += 1;
    });
    running.push(one);
    await broker.start();
    await broker.subscribe('a', (batch) => one.heard.push(...batch.map(String)));
    return one;
  }

  /** Two with the old password, which everything wants so far. */
  async function open(begin: () => Promise<Guarded>): Promise<readonly [Running, Running]> {
    servers = await begin();
    await servers.want(['old']);
    const both = [await start('old'), await start('old')] as const;
    await comeTo('up', []);
    await work('before');
    return both;
  }

  async function comeTo(status: string, lost: readonly string[], those: readonly Running[] = running): Promise<void> {
    const expected = those.map(() => ({ status, lost }));
    await eventually(() => expect(those.map(({ broker }) => broker.state)).to.deep.equal(expected), PATIENCE);
  }

  /** What the first one publishes arrives everywhere, by both ways; limits are counted together. */
  async function work(name: string, those: readonly Running[] = running): Promise<void> {
    const [first, ...others] = those as [Running, ...Running[]];
    await eventually(async () => {
      await first.broker.publish('a', Buffer.from(name));
      for (const { heard } of those) {
        expect(heard).to.include(name);
      }
    }, PATIENCE);
    const before = others.map(({ greetings }) => greetings);
    await eventually(() => {
      first.io.serverSideEmit('hello');
      for (const [index, { greetings }] of others.entries()) {
        expect(greetings).to.be.greaterThan(before[index]!);
      }
    }, PATIENCE);
    for (const [index, { broker }] of those.entries()) {
      expect(await broker.consume(name, 1)).to.include({ allowed: index === 0 });
    }
  }

  const warnings = ({ lines }: Running): LogLine[] =>
    lines.filter(({ level }) => level === 'warn' || level === 'error');

  /** @returns how often it has failed since to connect for its commands */
  function attemptsOf({ broker }: Running): () => number {
    const { client } = (broker as unknown as { commands: { client: Redis } }).commands;
    let attempts = 0;
    client.on('error', () => {
      attempts += 1;
    });
    return () => attempts;
  }

  /** Each part that is lost was told once with this code. Beside it, no more than that connections were cut. */
  function expectToldOnce(one: Running, code: string, parts: readonly string[] = [LATE, PER_WORKER]): void {
    for (const lost of parts) {
      const told = one.lines.filter(({ message }) => message === `broker: ${lost}`);
      const codes = told.map(({ fields }) => String(fields['code']));
      expect(
        codes.filter((other) => !CUT.includes(other)),
        JSON.stringify(told),
      ).to.deep.equal([code]);
      expect(new Set(codes).size, JSON.stringify(codes)).to.equal(codes.length);
      const { fields } = told.find((line) => line.fields['code'] === code)!;
      expect(fields['reason']).to.match(/WRONGPASS/);
      expect(fields['hint']).to.match(/password/i);
    }
    expect(warnings(one).filter(({ message }) => !parts.some((lost) => message === `broker: ${lost}`))).to.deep.equal(
      [],
    );
  }

  /** Cuts all connections. They come back, and nothing else is told. */
  async function expectOneCut(name: string): Promise<void> {
    const before = running.map(({ lines }) => lines.length);
    await servers.cut();
    await eventually(() => {
      for (const [index, { lines }] of running.entries()) {
        expect(lines.slice(before[index]).map(({ message }) => message)).to.include(`broker: ${LATE}`);
      }
    });
    await comeTo('up', []);
    await work(name);
    for (const [index, { lines }] of running.entries()) {
      const told = lines.slice(before[index]).filter(({ level }) => level === 'warn' || level === 'error');
      expect(told.filter(({ fields }) => !CUT.includes(String(fields['code'])))).to.deep.equal([]);
    }
  }

  const kinds: ReadonlyArray<readonly [name: string, code: string, begin: () => Promise<Guarded>]> = [
    ['servers that Sentinels name', 'WRONGPASS', () => guardedSentinels('servers')],
    ['Sentinels', 'SENTINEL_WRONGPASS', () => guardedSentinels('sentinels')],
    ['nodes of a cluster', 'WRONGPASS', () => guardedCluster('default')],
    ['a user on the nodes of a cluster', 'WRONGPASS', () => guardedCluster('taskwire')],
  ];
  for (const [name, code, begin] of kinds) {
    it(`${name}: nobody notices while both work`, async () => {
      await open(begin);
      await servers.want(['old', 'new']);
      await work('two passwords');
      await start('new');
      await comeTo('up', []);
      await work('one of each');
      expect(running.map(warnings)).to.deep.equal([[], [], []]);
      for (let cut = 1; cut <= ATTEMPTS; cut += 1) {
        await expectOneCut(`cut ${cut}`);
      }
    });

    it(`${name}: told once, served to who knows the new one, and over when the old one works again`, async () => {
      const old = await open(begin);
      // Connections that stand are not asked for it again.
      await servers.want(['new']);
      await work('meanwhile');
      expect(old.map(warnings)).to.deep.equal([[], []]);

      await servers.cut();
      await comeTo('down', [LATE, PER_WORKER]);
      const attempts = old.map(attemptsOf);
      await eventually(async () => {
        for (const one of old) {
          // Each is counted by the worker itself, and asks again.
          expect(await one.broker.consume('alone', 1_000_000)).to.include({ allowed: true });
          expectToldOnce(one, code);
        }
        expect(Math.min(...attempts.map((count) => count()))).to.be.at.least(ATTEMPTS);
      }, PATIENCE);

      const late = [await start('new'), await start('new')];
      await comeTo('up', [], late);
      await work('restarted', late);
      await comeTo('down', [LATE, PER_WORKER], old);

      await servers.want(['old', 'new']);
      await comeTo('up', []);
      await work('after');
      for (const one of old) {
        expectToldOnce(one, code);
        const back = one.lines.filter(({ message }) => message === 'broker: events between instances come at once');
        expect(back).to.have.length(1);
      }
      expect(late.map(warnings)).to.deep.equal([[], []]);
      await expectOneCut('cut');
      expect(JSON.stringify(running.map(({ lines }) => lines))).to.not.match(/"(?:old|new)"|:(?:old|new)@/);
    });
  }

  it('one of three Sentinels: the others are asked, and nothing is told of it', async () => {
    await open(() => guardedSentinels('sentinels'));
    await servers.want(['new'], servers.doors.slice(0, 1));
    for (let cut = 1; cut <= ATTEMPTS; cut += 1) {
      await expectOneCut(`cut ${cut}`);
    }
  });

  for (const [what, counts, status, lost] of [
    ['the node of the counters', true, 'down', [LATE, PER_WORKER]],
    ['another node', false, 'degraded', [LATE]],
  ] as const) {
    it(`${what} of a cluster: what it has is lost, told once, and comes back`, async () => {
      const old = await open(() => guardedCluster('default'));
      const counter = await servers.counterOf(PREFIX);
      const changed = counts ? [counter] : servers.doors.filter((door) => door !== counter).slice(0, 1);
      await servers.want(['new'], changed);
      await work('meanwhile');
      expect(old.map(warnings)).to.deep.equal([[], []]);

      await servers.cut(changed);
      await eventually(async () => {
        for (const one of old) {
          expect(await one.broker.consume('some', 1_000_000)).to.include({ allowed: true });
          expect(one.broker.state).to.deep.equal({ status, lost });
          expectToldOnce(one, 'WRONGPASS', lost);
        }
      }, PATIENCE);

      await servers.want(['old', 'new'], changed);
      await comeTo('up', []);
      await work('after');
      for (const one of old) {
        expectToldOnce(one, 'WRONGPASS', lost);
      }
    });
  }
});
