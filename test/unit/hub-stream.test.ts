import { mock } from 'node:test';
import { expect } from 'chai';
import { HubStage, settled } from '../support/hub-stage.js';

const RECONCILE_MS = 5_000;

/** `event 1` to `event n`. */
const events = (count: number): string[] => Array.from({ length: count }, (_, index) => `event ${index + 1}`);

/** Lets time pass, and everything happen that then can. */
async function pass(ms: number): Promise<void> {
  mock.timers.tick(ms);
  await settled();
}

/** Longer than a gap is given to close by itself, and than an event may be late. */
const PATIENCE_MS = 300;

describe('a stream on a worker', () => {
  let stage: HubStage;

  beforeEach(() => {
    mock.timers.enable({ apis: ['setInterval', 'setTimeout'] });
    stage = new HubStage({ RECONCILE_MS, RECONCILE_IDLE_MS: RECONCILE_MS });
  });
  afterEach(async () => {
    await stage.hub.stop();
    mock.timers.reset();
  });

  it('hears what is published while its head is read', async () => {
    stage.hold('heads');
    const client = await stage.connect();
    await client.subscribe('user:u', { since: 0 });
    await stage.publish(...stage.write());
    await stage.release('heads');
    expect(client.got).to.deep.equal(events(1));
  });

  it('begins at the head that came with its owner, and finds what came before its first message', async () => {
    const client = await stage.connect();
    const { seq, epoch } = stage.log.state();
    const head = { seq, epoch };
    stage.write(2);
    await client.subscribe('user:u', { snapshot: false }, head);
    expect(client.answers).to.deep.equal([{ room: 'user:u', ...head, recovered: false, replayed: 0 }]);
    expect(stage.reads, 'a head for each').to.deep.equal([]);
    await pass(PATIENCE_MS);
    await pass(PATIENCE_MS);
    expect(client.got).to.deep.equal(events(2));
    await stage.publish(...stage.write());
    expect(client.got).to.deep.equal(events(3));
    expect(stage.reads).to.deep.equal(['heads', 'read', 'read']);
  });

  it('looks again for what came before its first message when the log could not be read', async () => {
    stage.hub.start();
    const client = await stage.connect();
    const head = stage.log.state();
    stage.write();
    stage.fail('heads');
    await client.subscribe('user:u', { snapshot: false }, head);
    await pass(PATIENCE_MS);
    await pass(PATIENCE_MS);
    expect(client.got).to.deep.equal([]);
    await pass(RECONCILE_MS / 4);
    await pass(PATIENCE_MS);
    expect(client.got).to.deep.equal(events(1));
  });

  it('lets a client that knows more than the head that came with its owner go on from there', async () => {
    const client = await stage.connect();
    const head = stage.log.state();
    const [, two, three] = stage.write(3);
    await client.subscribe('user:u', { since: 2 }, head);
    await stage.publish(two!, three!);
    await pass(PATIENCE_MS);
    expect(client.got).to.deep.equal(['event 3']);
  });

  it('drops copies', async () => {
    const client = await stage.connect('user:u');
    const [one, two] = stage.write(2);
    await stage.publish(one!, one!, two!);
    await stage.publish(one!, two!);
    expect(client.got).to.deep.equal(events(2));
    expect(stage.hub.counters.duplicates).to.equal(3);
  });

  it('gives a connection an event of several of its rooms once', async () => {
    const client = await stage.connect('user:u');
    await client.subscribe('job:1', { snapshot: false });
    await client.subscribe('task:1');
    await stage.publish(...stage.write());
    expect(client.got).to.deep.equal(events(1));
  });

  it('puts what comes in another order right', async () => {
    const client = await stage.connect('user:u');
    const [one, two, three] = stage.write(3);
    await stage.publish(three!, two!);
    expect(client.got).to.deep.equal([]);
    await stage.publish(one!);
    expect(client.got).to.deep.equal(events(3));
    expect(stage.reads).to.deep.equal(['heads']);
  });

  it('reads what the broker lost from the log, page by page', async () => {
    const client = await stage.connect('user:u');
    // More than one page of a repair.
    await stage.publish(stage.write(1_500).at(-1)!);
    expect(client.got).to.deep.equal([]);
    await pass(PATIENCE_MS);
    expect(client.got).to.deep.equal(events(1_500));
  });

  it('ends its connections when the log has lost what they miss', async () => {
    const client = await stage.connect('user:u');
    stage.write(2);
    stage.log.floor = 2;
    await stage.publish(...stage.write());
    await pass(PATIENCE_MS);
    expect(client.got).to.deep.equal([]);
    expect(client.closedWith).to.equal('STREAM_RESET');
  });

  it('takes no event of another epoch', async () => {
    const client = await stage.connect('user:u');
    const [event] = stage.write();
    await stage.publish({ ...event!, epoch: 'another' });
    expect(client.got).to.deep.equal([]);
    await stage.publish(event!);
    expect(client.got).to.deep.equal(events(1));
  });

  it('ends its connections when the log has another epoch', async () => {
    const client = await stage.connect('user:u');
    await stage.publish(...stage.write());
    stage.log.restore(0);
    await stage.hub.reconcile();
    expect(client.closedWith).to.equal('STREAM_RESET');
  });

  it('ends its connections when the log goes back', async () => {
    const client = await stage.connect('user:u');
    await stage.publish(...stage.write());
    stage.log.events = [];
    await stage.hub.reconcile();
    expect(client.closedWith).to.equal('STREAM_RESET');
  });

  it('is compared with the log now and then', async () => {
    stage.hub.start();
    const client = await stage.connect('user:u');
    stage.write(2);
    await settled();
    expect(client.got).to.deep.equal([]);
    await pass(RECONCILE_MS);
    await pass(PATIENCE_MS);
    expect(client.got).to.deep.equal(events(2));
  });

  it('is compared with the log when the broker is back, and when it is lost', async () => {
    stage.hub.start();
    const client = await stage.connect('user:u');
    stage.write();
    stage.regainBroker();
    await pass(1);
    await pass(PATIENCE_MS);
    expect(client.got, 'back').to.deep.equal(events(1));
    stage.write();
    stage.loseBroker();
    await pass(1);
    expect(client.got, 'lost').to.deep.equal(events(2));
  });

  it('is compared once more when the broker came back during a comparison', async () => {
    stage.hub.start();
    const client = await stage.connect('user:u');
    stage.hold('heads');
    stage.regainBroker();
    await pass(1);
    // The comparison that is under way does not know of it.
    stage.write();
    stage.regainBroker();
    await stage.release('heads');
    await pass(1);
    await pass(PATIENCE_MS);
    expect(client.got).to.deep.equal(events(1));
  });

  it('is looked at when the database tells of a change', async () => {
    const client = await stage.connect('user:u');
    stage.log.write(1, true);
    await stage.hub.look('u');
    await settled();
    expect(client.got).to.deep.equal(events(1));
  });
});
