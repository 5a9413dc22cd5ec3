import { expect } from 'chai';
import { silentLogger } from '../../src/base/logger.js';
import { type ChannelListener, CONTROL_CHANNEL } from '../../src/broker/broker.js';
import { ControlBus } from '../../src/broker/control-bus.js';
import { ClusterStats, MESSAGE_COUNTS, type MessageCounts } from '../../src/stats/cluster-stats.js';
import { RoomSketch } from '../../src/stats/room-sketch.js';
import { eventually } from '../support/eventually.js';
import { type FakeBroker, FakeBrokers } from '../support/fake-broker.js';

const names = (count: number, from = 0): string[] =>
  Array.from({ length: count }, (_, index) => `task:${from + index}`);

describe('room sketch', () => {
  it('counts different names exactly while they are few', () => {
    const sketches = [names(2_000), names(2_000, 1_000), []].map((list) => RoomSketch.of(list));
    expect(RoomSketch.merge(sketches).count).to.equal(3_000);
    expect(RoomSketch.of([]).count).to.equal(0);
  });

  it('counts many nearly', () => {
    const merged = RoomSketch.merge([
      RoomSketch.of(names(60_000)),
      RoomSketch.of(names(60_000, 40_000)),
      RoomSketch.of(names(5)),
    ]);
    expect(merged.count).to.be.within(92_000, 108_000);
  });

  it('is sent and received', () => {
    for (const count of [0, 10, 10_000]) {
      const sketch = RoomSketch.of(names(count));
      expect(RoomSketch.decode(sketch.encode())!.count).to.equal(sketch.count);
    }
    expect(RoomSketch.decode('AAAA')).to.equal(undefined);
    expect(RoomSketch.decode(17)).to.equal(undefined);
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY, -1]) {
      const bytes = Buffer.alloc(8);
      bytes.writeDoubleLE(value);
      expect(RoomSketch.decode(bytes.toString('base64'))).to.equal(undefined);
    }
  });
});

/** JSON that is neither text nor a number, some of which says itself how it is made text of, and fails at it. */
const HOSTILE: readonly unknown[] = [
  null,
  true,
  [],
  {},
  { toString: 1 },
  { toString: 1, valueOf: 1 },
  [[{ toString: 1 }]],
];

/** Counts that are all different: `first` and those after it. */
const counts = (first: number): MessageCounts =>
  Object.fromEntries(MESSAGE_COUNTS.map((count, place) => [count, first + place])) as MessageCounts;

interface Node {
  readonly broker: FakeBroker;
  readonly stats: ClusterStats;
  readonly rooms: Map<string, number>;
}

describe('statistics of the cluster', () => {
  let brokers: FakeBrokers;
  let asked: number;
  beforeEach(() => {
    brokers = new FakeBrokers();
    asked = 0;
  });

  async function addNode(
    id: string,
    rooms: Record<string, number>,
    patienceMs = 60_000,
    messages = counts(0),
  ): Promise<Node> {
    const broker = brokers.add(id);
    const bus = new ControlBus(broker, silentLogger);
    const members = new Map(Object.entries(rooms));
    const report = () => {
      asked += 1;
      return { clients: 2, rooms: members, messages };
    };
    const stats = new ClusterStats({ broker, bus, report, logger: silentLogger, patienceMs });
    await bus.start();
    await stats.start();
    return { broker, stats, rooms: members };
  }

  it('adds up what all nodes have', async () => {
    const { stats } = await addNode('a', { 'job:1': 2, 'task:1': 1 });
    await addNode('b', { 'job:1': 3, 'user:ada': 1 });
    await addNode('c', {});
    const report = await stats.collect({ rooms: true });
    expect(report).to.include({ clients: 6, totalRooms: 3, roomsTruncated: false, nodes: 3, partial: false });
    expect([...report.rooms]).to.deep.equal([
      ['job:1', 5],
      ['task:1', 1],
      ['user:ada', 1],
    ]);
  });

  it('adds up what two workers have counted of messages, and keeps that of each', async () => {
    const { stats } = await addNode('a', {}, 60_000, counts(10));
    await addNode('b', {}, 60_000, counts(200));
    for (const rooms of [true, false]) {
      const { messages, messagesByNode } = await stats.collect({ rooms });
      expect(messages).to.deep.equal({
        events: 210,
        deliveries: 212,
        duplicates: 214,
        repairs: 216,
        captured: 218,
        resets: 220,
        published: 222,
        failed: 224,
      });
      expect(Object.fromEntries(messagesByNode)).to.deep.equal({ a: counts(10), b: counts(200) });
    }
  });

  it('takes what a worker of another version does not count for nothing', async () => {
    const { stats, broker } = await addNode('a', {}, 60_000, counts(10));
    const other = brokers.add('b');
    await other.subscribe(CONTROL_CHANNEL, ([question]) => {
      const { id, replyTo } = JSON.parse(question!.toString()) as { id: string; replyTo: string };
      const sketch = RoomSketch.of([]).encode();
      const messages = { events: 1, deliveries: 'many', more: 5 };
      const answer = { id, node: 'b', clients: 1, rooms: [], complete: true, sketch, messages };
      void broker.publish(replyTo, Buffer.from(JSON.stringify(answer)));
    });
    const report = await stats.collect({ rooms: false });
    expect(report).to.include({ nodes: 2, partial: false });
    expect(report.messages).to.deep.equal({ ...counts(10), events: 11 });
  });

  it('counts rooms without naming them', async () => {
    const { stats } = await addNode('a', { 'job:1': 2, 'task:1': 1 });
    await addNode('b', { 'job:1': 3 });
    const report = await stats.collect({ rooms: false });
    expect(report).to.include({ totalRooms: 2, roomsTruncated: false });
    expect(report.rooms.size).to.equal(0);
  });

  it('answers about one room', async () => {
    const { stats } = await addNode('a', { 'job:1': 2, 'task:1': 1 });
    await addNode('b', { 'job:1': 3 });
    const report = await stats.collect({ rooms: true, room: 'job:1' });
    expect([...report.rooms]).to.deep.equal([['job:1', 5]]);
    expect(report.totalRooms).to.equal(2);
  });

  it('says so when a node that should answer does not', async () => {
    const { stats } = await addNode('a', { 'job:1': 2 }, 500);
    const { broker } = await addNode('b', { 'job:1': 3 });
    await addNode('c', { 'job:1': 4 });
    broker.deaf = true;
    const report = await stats.collect({ rooms: true });
    expect(report).to.include({ clients: 4, nodes: 2, partial: true });
    expect([...report.rooms]).to.deep.equal([['job:1', 6]]);
  });

  it('says so when leases cannot be renewed, and has the numbers of those who answer', async () => {
    const { stats, broker } = await addNode('a', { 'job:1': 2 }, 300);
    await addNode('b', { 'job:1': 3 });
    broker.liveNodes = async () => [];
    const report = await stats.collect({ rooms: true });
    expect(report).to.include({ clients: 4, nodes: 2, partial: true });
  });

  it("has this node's numbers when the broker is down", async () => {
    const { stats, broker } = await addNode('a', { 'job:1': 2 });
    await addNode('b', { 'job:1': 3 });
    broker.up = false;
    const report = await stats.collect({ rooms: true });
    expect(report).to.include({ clients: 2, nodes: 1, partial: true });
  });

  it("has this node's numbers when the broker goes down over the question", async () => {
    const { stats, broker } = await addNode('a', { 'job:1': 2 });
    await addNode('b', { 'job:1': 3 });
    broker.publish = async () => {
      throw new Error('gone');
    };
    expect(await stats.collect({ rooms: true })).to.include({ clients: 2, nodes: 1, partial: true });
  });

  it('asks once for what many want at a time', async () => {
    const { stats } = await addNode('a', {});
    await addNode('b', {});
    await Promise.all(Array.from({ length: 20 }, () => stats.collect({ rooms: false })));
    expect(asked).to.equal(2);
  });

  it('survives what is not understood', async () => {
    const { stats, broker } = await addNode('a', { 'job:1': 2 });
    for (const text of [
      '',
      '[1]',
      '{"type":"stats"}',
      '{"type":"stats","id":1,"replyTo":2}',
      '{"type":"constructor"}',
    ]) {
      await broker.publish(CONTROL_CHANNEL, Buffer.from(text));
      await broker.publish('node:a', Buffer.from(text));
    }
    expect((await stats.collect({ rooms: true })).nodes).to.equal(1);
  });

  it('logs messages of other processes that are none, and goes on', async () => {
    const warnings: string[] = [];
    const logger = { ...silentLogger, warn: (message: string) => warnings.push(message) };
    const listeners = new Map<string, ChannelListener>();
    const broker = Object.assign(brokers.add('a'), {
      subscribe: async (channel: string, listener: ChannelListener) => void listeners.set(channel, listener),
      publish: async () => {},
    });
    const bus = new ControlBus(broker, logger);
    const report = () => ({ clients: 0, rooms: new Map(), messages: counts(0) });
    const stats = new ClusterStats({ broker, bus, report, logger });
    const revoked: unknown[] = [];
    bus.on('key-revoked', ({ keyId }) => {
      revoked.push(keyId);
    });
    await bus.start();
    await stats.start();
    const hear = (channel: string, ...messages: unknown[]): void =>
      listeners.get(channel)!(messages.map((message) => Buffer.from(JSON.stringify(message))));

    const type = HOSTILE.map((value) => ({ type: value }));
    hear(CONTROL_CHANNEL, ...type, { type: 'key-revoked', keyId: 'k' });
    expect(revoked).to.deep.equal(['k']);
    expect(warnings.splice(0)).to.have.length(type.length);

    const id = HOSTILE.map((value) => ({ id: value }));
    hear('node:a', ...HOSTILE, ...id);
    expect(warnings.splice(0)).to.have.length(HOSTILE.length + id.length);
  });

  it('takes no answer that it could not tell of', async () => {
    const { stats, broker } = await addNode('a', { 'job:1': 2 }, 60_000);
    const other = brokers.add('b');
    const good = { node: 'b', clients: 1, rooms: [['job:1', 1]], sketch: RoomSketch.of(['job:1']).encode() };
    await other.subscribe(CONTROL_CHANNEL, ([question]) => {
      const { id, replyTo } = JSON.parse(question!.toString()) as { id: string; replyTo: string };
      const bad = HOSTILE.flatMap((value) => [
        { ...good, id, node: value },
        { ...good, id, clients: value },
        { ...good, id, rooms: [[value, 1]] },
        { ...good, id, rooms: [['job:1', value]] },
        { ...good, id, rooms: [value] },
        { ...good, id, sketch: value },
      ]);
      const infinite = JSON.stringify({ ...good, id, clients: 0 }).replace('"clients":0', '"clients":1e999');
      for (const text of [...bad.map((answer) => JSON.stringify(answer)), infinite, JSON.stringify({ ...good, id })]) {
        void broker.publish(replyTo, Buffer.from(text));
      }
    });
    const report = await stats.collect({ rooms: true });
    expect(report).to.include({ clients: 3, totalRooms: 1, nodes: 2 });
    expect([...report.rooms]).to.deep.equal([['job:1', 3]]);
  });
});

describe('control bus', () => {
  it('brings a message to every node, its own too, and outlives a handler that fails', async () => {
    const brokers = new FakeBrokers();
    const heard: string[] = [];
    const buses = await Promise.all(
      ['a', 'b'].map(async (id) => {
        const bus = new ControlBus(brokers.add(id), silentLogger);
        bus.on('key-revoked', () => {
          throw new Error('handler');
        });
        bus.on('key-revoked', ({ keyId }) => {
          heard.push(`${id} ${keyId}`);
        });
        await bus.start();
        return bus;
      }),
    );
    await buses[0]!.send('key-revoked', { keyId: 'k1' });
    await eventually(() => expect(heard).to.have.length(2));
    expect(heard.sort()).to.deep.equal(['a k1', 'b k1']);
    await buses[1]!.stop();
    await buses[0]!.send('key-revoked', { keyId: 'k2' });
    await eventually(() => expect(heard).to.include('a k2'));
    expect(heard).to.not.include('b k2');
  });
});
