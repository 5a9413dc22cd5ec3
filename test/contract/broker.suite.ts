import { expect } from 'chai';
import type { Broker } from '../../src/broker/broker.js';
import { eventually } from '../support/eventually.js';

/** What a variant of the broker has to offer to be examined. */
export interface BrokerVariant {
  /** A node that shares the broker with all others of this variant; not started. */
  node(): Broker;
  /** Ends a node without a farewell, as kill -9 would. */
  kill(node: Broker): void | Promise<void>;
  close(): Promise<void>;
}

/** The contract of the port in `broker.ts`, for every variant. */
export function brokerContract(open: () => Promise<BrokerVariant>): void {
  let variant: BrokerVariant;
  let nodes: Broker[] = [];

  const start = async (count: number): Promise<Broker[]> => {
    const started = Array.from({ length: count }, () => variant.node());
    nodes.push(...started);
    await Promise.all(started.map((node) => node.start()));
    return started;
  };

  /** Notes what arrives on a channel. */
  const listen = async (node: Broker, channel: string): Promise<string[]> => {
    const heard: string[] = [];
    await node.subscribe(channel, (batch) => heard.push(...batch.map((bytes) => bytes.toString('latin1'))));
    return heard;
  };

  const settled = (check: () => void): Promise<void> => eventually(check, { timeoutMs: 5_000, intervalMs: 5 });

  before(async function () {
    this.timeout(30_000);
    variant = await open();
  });

  afterEach(async () => {
    await Promise.all(nodes.map((node) => node.stop()));
    nodes = [];
  });

  after(() => variant?.close());

  it('brings a message to every node that listens, the publisher too, unaltered', async () => {
    const [one, two, three] = (await start(3)) as [Broker, Broker, Broker];
    const heard = await Promise.all([one, two].map((node) => listen(node, 'a')));
    const elsewhere = await listen(three, 'b');
    const bytes = Buffer.from(Array.from({ length: 256 }, (_, value) => value));
    await one.publish('a', bytes);
    await one.publish('b', Buffer.alloc(0));
    await settled(() => expect([...heard, elsewhere].map(({ length }) => length)).to.deep.equal([1, 1, 1]));
    expect(heard).to.deep.equal([[bytes.toString('latin1')], [bytes.toString('latin1')]]);
    expect(elsewhere).to.deep.equal(['']);
  });

  it('keeps the order of one publisher', async () => {
    const [one, two] = (await start(2)) as [Broker, Broker];
    const heard = await listen(two, 'a');
    const sent = Array.from({ length: 1_000 }, (_, index) => String(index));
    await Promise.all(sent.map((text) => one.publish('a', Buffer.from(text))));
    await settled(() => expect(heard.length).to.equal(1_000));
    expect(heard).to.deep.equal(sent);
  });

  it('brings everything that is published once subscribe has resolved, and nothing after unsubscribe', async () => {
    const [one, two] = (await start(2)) as [Broker, Broker];
    for (let round = 0; round < 20; round += 1) {
      const heard = await listen(two, `round:${round}`);
      await one.publish(`round:${round}`, Buffer.from('x'));
      await settled(() => expect(heard).to.deep.equal(['x']));
      await two.unsubscribe(`round:${round}`);
      await one.publish(`round:${round}`, Buffer.from('y'));
      const fence = await listen(two, 'fence');
      await one.publish('fence', Buffer.from('z'));
      await settled(() => expect(fence).to.deep.equal(['z']));
      expect(heard).to.deep.equal(['x']);
    }
  });

  it('hears what was asked for last: a channel that is left and wanted again while others are left', async () => {
    const [one, two] = (await start(2)) as [Broker, Broker];
    for (let pause = 0; pause < 6; pause += 1) {
      const heard: string[] = [];
      const hear = (name: string) => two.subscribe(name, (batch) => heard.push(...batch.map(String)));
      await hear('left');
      await hear('again');
      const changes = [two.unsubscribe('left')];
      for (let turn = 0; turn < pause; turn += 1) {
        await new Promise((resolve) => setImmediate(resolve));
      }
      changes.push(two.unsubscribe('again'), hear('again'));
      await Promise.all(changes);
      await Promise.all(['left', 'again'].map((name) => one.publish(name, Buffer.from(name))));
      await settled(() => expect(heard).to.deep.equal(['again']));
      await two.unsubscribe('again');
    }
  });

  it('counts the requests of a key over all nodes', async () => {
    const [one, two] = (await start(2)) as [Broker, Broker];
    expect(await one.consume('key', 3)).to.include({ allowed: true, limit: 3, remaining: 2 });
    expect(await two.consume('key', 3)).to.include({ allowed: true, remaining: 1 });
    expect(await one.consume('key', 3)).to.include({ allowed: true, remaining: 0 });
    const refused = await two.consume('key', 3);
    expect(refused).to.include({ allowed: false, remaining: 0 });
    expect(refused.resetMs).to.be.within(1, 60_000);
    expect(await two.consume('another', 3)).to.include({ allowed: true, remaining: 2 });
  });

  it('counts the connections of an address over all nodes', async () => {
    const [one, two] = (await start(2)) as [Broker, Broker];
    const first = await one.acquireConnection('::1', 2);
    const second = await two.acquireConnection('::1', 2);
    expect(first).to.be.a('function');
    expect(second).to.be.a('function');
    expect(await one.acquireConnection('::1', 2)).to.equal(undefined);
    expect(await one.acquireConnection('127.0.0.1', 2)).to.be.a('function');
    first!();
    first!();
    await eventually(async () => expect(await two.acquireConnection('::1', 2)).to.be.a('function'));
    expect(await two.acquireConnection('::1', 2)).to.equal(undefined);
  });

  it('counts exactly what many ask for at once', async () => {
    const nodes = await start(2);
    const requests = await Promise.all(
      Array.from({ length: 60 }, (_, index) => nodes[index % 2]!.consume(`key ${index % 3}`, 12, 1 + (index % 2))),
    );
    // Each key has twenty askers: ten count one request, ten two.
    for (let key = 0; key < 3; key += 1) {
      const left = requests.filter((_, index) => index % 3 === key).map(({ remaining }) => remaining);
      expect(Math.max(...left)).to.be.within(10, 11);
      expect(new Set(left.filter((count) => count > 0)), 'each has a count of its own').to.have.length(
        left.filter((count) => count > 0).length,
      );
      expect(await nodes[0]!.consume(`key ${key}`, 100)).to.include({ remaining: 100 - 31 });
    }

    const ask = (node: number, address: string): Promise<(() => void) | undefined> =>
      nodes[node]!.acquireConnection(address, 7);
    const asked = Array.from({ length: 40 }, (_, index) => ask(index % 2, index < 20 ? '10.2.0.1' : '10.2.0.2'));
    const places = await Promise.all(asked);
    const taken = [places.slice(0, 20), places.slice(20)].map((some) => some.filter((place) => place !== undefined));
    expect(taken.map(({ length }) => length)).to.deep.equal([7, 7]);
    taken[0]![0]!();
    await eventually(async () => expect(await ask(1, '10.2.0.1')).to.be.a('function'));
    expect(await ask(0, '10.2.0.1')).to.equal(undefined);
    for (const release of taken.flat()) {
      release();
    }
    await eventually(async () => {
      const again = await Promise.all(Array.from({ length: 8 }, (_, index) => ask(index % 2, '10.2.0.2')));
      const free = again.filter((place) => place !== undefined);
      for (const release of free) {
        release();
      }
      expect(free).to.have.length(7);
    });
  });

  it('forgets what a killed node held', async function () {
    this.timeout(30_000);
    const [one, two] = (await start(2)) as [Broker, Broker];
    expect(await two.acquireConnection('10.0.0.1', 1)).to.be.a('function');
    expect(await one.acquireConnection('10.0.0.1', 1)).to.equal(undefined);
    await eventually(async () => expect(await one.liveNodes()).to.have.members([one.nodeId, two.nodeId]));
    await variant.kill(two);
    await eventually(async () => expect(await one.liveNodes()).to.deep.equal([one.nodeId]), { timeoutMs: 20_000 });
    await eventually(async () => expect(await one.acquireConnection('10.0.0.1', 1)).to.be.a('function'), {
      timeoutMs: 20_000,
    });
  });

  it('forgets at once what a killed node held when it is told of it', async () => {
    const [one, two] = (await start(2)) as [Broker, Broker];
    expect(await two.acquireConnection('10.0.0.3', 1)).to.be.a('function');
    await eventually(async () => expect(await one.liveNodes()).to.have.members([one.nodeId, two.nodeId]));
    await variant.kill(two);
    await one.bury(two.nodeId);
    await one.bury('nobody');
    expect(await one.liveNodes()).to.deep.equal([one.nodeId]);
    expect(await one.acquireConnection('10.0.0.3', 1)).to.be.a('function');
  });

  it('knows the live nodes; one that stops leaves at once and gives back what it held', async () => {
    const [one, two] = (await start(2)) as [Broker, Broker];
    await eventually(async () => expect(await one.liveNodes()).to.have.members([one.nodeId, two.nodeId]));
    expect(await two.acquireConnection('10.0.0.2', 1)).to.be.a('function');
    await two.stop();
    await two.stop();
    await eventually(async () => expect(await one.liveNodes()).to.deep.equal([one.nodeId]));
    expect(await one.acquireConnection('10.0.0.2', 1)).to.be.a('function');
  });

  it('refuses to publish when it has stopped', async () => {
    const [one] = (await start(1)) as [Broker];
    expect(one.up).to.equal(true);
    await one.stop();
    const outcome = await one.publish('a', Buffer.from('x')).then(
      () => 'published',
      (error: unknown) => error,
    );
    expect(outcome).to.be.instanceOf(Error);
  });
}
