import { expect } from 'chai';
import { HubStage, settled } from '../support/hub-stage.js';

/** More than may wait. */
const CLOGGED = 1_000_000;

describe('a catch-up', () => {
  let stage: HubStage;

  beforeEach(() => {
    stage = new HubStage();
  });
  afterEach(() => stage.hub.stop());

  it('sends page after page of the log', async () => {
    stage.write(7);
    const client = await stage.connect();
    await client.subscribe('job:1', { since: 0 });
    expect(client.got).to.deep.equal([1, 2, 3, 4, 5, 6, 7].map((seq) => `event ${seq}`));
    expect(client.answers).to.deep.equal([{ room: 'job:1', seq: 7, epoch: 'epoch1', recovered: true, replayed: 7 }]);
  });

  it('sends what the ring has, without the log', async () => {
    const other = await stage.connect('user:u');
    await stage.publish(...stage.write(6));
    const client = await stage.connect();
    await client.subscribe('job:1', { since: 3 });
    expect(client.got).to.deep.equal(['event 4', 'event 5', 'event 6']);
    expect(stage.reads).to.deep.equal(['heads']);
    expect(other.got).to.have.length(6);
  });

  it('sends all of a task that was made after what the log has lost, and of no older one', async () => {
    stage.write(7);
    stage.log.events = stage.log.events.map((event) => (event.seq === 6 ? { ...event, type: 'TASK_CREATED' } : event));
    const { taskId } = stage.log.events[5]!;
    stage.log.floor = 5;
    const client = await stage.connect();
    await client.subscribe(`task:${taskId}`, { since: 0 });
    expect(client.got).to.deep.equal(['TASK_CREATED 6', 'event 7']);
    expect(client.answers[0]).to.include({ recovered: true, replayed: 2, seq: 7 });
    stage.log.floor = 6;
    const late = await stage.connect();
    await late.subscribe(`task:${taskId}`, { since: 0 });
    expect(late.got).to.deep.equal(['TASK_SNAPSHOT 7']);
    expect(late.answers[0]).to.include({ recovered: false, replayed: 0 });
  });

  describe('brings a snapshot, and says so', () => {
    const answered = { room: 'job:1', seq: 7, epoch: 'epoch1', recovered: false, replayed: 0 };

    beforeEach(() => {
      stage.write(7);
    });

    it('when the log no longer reaches back, of which it reads nothing then', async () => {
      stage.log.floor = 5;
      const client = await stage.connect();
      await client.subscribe('job:1', { since: 4 });
      expect(client.got).to.deep.equal(['JOB_TASKS_SNAPSHOT 7']);
      expect(client.answers).to.deep.equal([answered]);
      expect(stage.reads).to.deep.equal(['heads', 'state', 'snapshot']);
    });

    it('when the log is trimmed before its first page is read', async () => {
      const client = await stage.connect();
      stage.hold('state');
      await client.subscribe('job:1', { since: 4 });
      stage.log.floor = 5;
      await stage.release('state');
      expect(client.got).to.deep.equal(['JOB_TASKS_SNAPSHOT 7']);
      expect(client.answers).to.deep.equal([answered]);
    });

    it('when the position is of another epoch', async () => {
      const client = await stage.connect();
      await client.subscribe('job:1', { since: 4, epoch: 'another' });
      expect(client.got).to.deep.equal(['JOB_TASKS_SNAPSHOT 7']);
      expect(client.answers).to.deep.equal([answered]);
    });

    it('when the position is from the future', async () => {
      const client = await stage.connect();
      await client.subscribe('job:1', { since: 9 });
      expect(client.got).to.deep.equal(['JOB_TASKS_SNAPSHOT 7']);
      expect(client.answers).to.deep.equal([answered]);
    });
  });

  it('reads a snapshot again that was begun before what the connection knows', async () => {
    const [live, one, two] = [await stage.connect('user:u'), await stage.connect(), await stage.connect()];
    stage.hold('snapshot');
    await one.subscribe('job:1');
    await stage.publish(...stage.write());
    // Equal reads are shared: this one waits for the snapshot that was begun before the event.
    await two.subscribe('job:1');
    expect(stage.reads.filter((read) => read === 'snapshot')).to.have.length(1);
    await stage.release('snapshot');
    expect(live.got).to.deep.equal(['event 1']);
    expect(one.got).to.deep.equal(['JOB_TASKS_SNAPSHOT 0', 'event 1']);
    expect(two.got).to.deep.equal(['JOB_TASKS_SNAPSHOT 1']);
    expect(two.answers).to.deep.equal([{ room: 'job:1', seq: 1, epoch: 'epoch1', recovered: false, replayed: 0 }]);
  });

  it('sends no snapshot that is older than what the connection knows, though the log has no newer one', async () => {
    const client = await stage.connect('user:u');
    await stage.publish(...stage.write());
    stage.log.events = [];
    await client.subscribe('job:1');
    expect(client.got).to.deep.equal(['event 1']);
    expect(client.closedWith).to.equal('STREAM_RESET');
  });

  it('is refused when the log has another epoch, and all connections of the stream are ended', async () => {
    const [live, client] = [await stage.connect('user:u'), await stage.connect()];
    await stage.publish(...stage.write());
    stage.log.restore(0);
    await client.subscribe('job:1');
    expect(client.got).to.deep.equal([]);
    expect([live.closedWith, client.closedWith]).to.deep.equal(['STREAM_RESET', 'STREAM_RESET']);
  });

  it('holds the events of the rooms that the connection is in, and sends each once', async () => {
    const client = await stage.connect('job:1');
    stage.hold('snapshot');
    await client.subscribe('job:2');
    await stage.publish(...stage.write(2));
    expect(client.got, 'held').to.deep.equal([]);
    expect(client.hubClient.positions(), 'it has got nothing').to.deep.equal([
      { room: 'job:1', seq: 0, epoch: 'epoch1' },
    ]);
    await stage.release('snapshot');
    await stage.publish(...stage.write());
    expect(client.got).to.deep.equal(['JOB_TASKS_SNAPSHOT 0', 'event 1', 'event 2', 'event 3']);
  });

  it('tells no position of a room that is asked for again until it is answered', async () => {
    const client = await stage.connect('job:1');
    stage.hold('snapshot');
    await client.subscribe('job:1');
    expect(client.hubClient.positions()).to.deep.equal([]);
    await stage.release('snapshot');
    expect(client.hubClient.positions()).to.deep.equal([{ room: 'job:1', seq: 0, epoch: 'epoch1' }]);
  });

  it('sends nothing that the broker brings later than the log', async () => {
    const live = await stage.connect('user:u');
    const late = stage.write(2);
    const client = await stage.connect();
    await client.subscribe('job:1');
    await stage.publish(...late, ...stage.write());
    expect(live.got).to.deep.equal(['event 1', 'event 2', 'event 3']);
    expect(client.got).to.deep.equal(['JOB_TASKS_SNAPSHOT 2', 'event 3']);
  });

  it('ends a client that takes nothing', async () => {
    const client = await stage.connect(undefined, () => CLOGGED);
    await client.subscribe('job:1');
    for (let rounds = 0; client.closedWith === undefined && rounds < 10; rounds += 1) {
      await settled();
    }
    expect(client.closedWith).to.equal('SLOW_CONSUMER');
  });

  it('waits for a client that takes a little at a time, however long', async () => {
    let waits = 1_000;
    const client = await stage.connect(undefined, () => {
      waits -= 1;
      return waits;
    });
    await client.subscribe('job:1');
    for (let rounds = 0; client.answers.length === 0 && rounds < 30; rounds += 1) {
      await settled();
    }
    expect(client.closedWith).to.equal(undefined);
    expect(client.got).to.deep.equal(['JOB_TASKS_SNAPSHOT 0']);
  });
});
