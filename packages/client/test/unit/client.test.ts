import { createTaskwire, type Incoming, type LinkEvents, type StreamItem, type Taskwire } from '@taskwire/client';
import { expect } from 'chai';
import { SimServer } from '../support/sim-server.js';
import { VirtualTime } from '../support/virtual-time.js';

describe('the client', () => {
  let time: VirtualTime;
  let server: SimServer;
  let tw: Taskwire;
  /** What the link of now tells: a test may add to what the server says, or keep it back. */
  let link: LinkEvents;
  let lose: (message: Incoming) => boolean;

  const client = (options: Partial<Parameters<typeof createTaskwire>[0]> = {}): Taskwire =>
    createTaskwire({
      url: 'sim:',
      surroundings: time,
      transport: (target, events) => {
        link = { ...events, message: (message) => lose(message) || events.message(message) };
        return server.transport(target, link);
      },
      ...options,
    });

  beforeEach(() => {
    time = new VirtualTime(3);
    server = new SimServer(time);
    server.addJob('1', 'alice');
    server.create('1');
    lose = () => false;
    tw = client();
  });

  afterEach(() => tw.close());

  /** Collects what a room tells. */
  const collect = (items: AsyncIterable<StreamItem>): StreamItem[] => {
    const seen: StreamItem[] = [];
    void (async () => {
      for await (const item of items) {
        seen.push(item);
      }
    })();
    return seen;
  };

  it('finds an event that did not arrive in the room of a user, and begins anew', async () => {
    const alice = tw.user('alice');
    const seen = collect(alice.events());
    await time.pass(1_000);
    lose = ({ seq }) => seq === 2;
    server.write(1, 'task_status', 'running');
    await time.pass(100);
    server.write(1, 'tx_url', 'later');
    await time.pass(5_000);
    expect(seen.map(({ type }) => type)).to.deep.equal(['RESYNC']);
    expect(alice.getSnapshot()).to.deep.include({ status: 'live', tasks: server.rows('user:alice') });
  });

  it('finds the last event missing by what the server says of the position', async () => {
    const alice = tw.user('alice');
    alice.subscribe(() => {});
    await time.pass(1_000);
    lose = ({ type }) => type === 'TASK_STATUS_CHANGED';
    server.write(1, 'task_status', 'running');
    await time.pass(60_000);
    expect(alice.getSnapshot()).to.deep.include({ status: 'live', tasks: server.rows('user:alice') });
  });

  it('finds what is missing among replayed events by their number, and a task that it does not know', async () => {
    const job = tw.job('1');
    const seen = collect(job.events());
    await time.pass(1_000);
    server.down = true;
    server.cut([...server.connections][0]!);
    server.write(1, 'task_status', 'running');
    server.write(1, 'tx_url', 'there');
    server.down = false;
    lose = ({ seq }) => seq === 2;
    await time.pass(60_000);
    expect(seen.map(({ type }) => type)).to.deep.equal(['RESYNC']);
    expect(job.getSnapshot()).to.deep.include({ status: 'live', tasks: server.rows('job:1') });

    lose = ({ type }) => type === 'TASK_CREATED';
    const task = server.create('1');
    await time.pass(100);
    server.write(task, 'task_status', 'running');
    await time.pass(5_000);
    expect(job.getSnapshot()).to.deep.include({ status: 'live', tasks: server.rows('job:1') });
  });

  it('puts what arrives before the answer in order', async () => {
    const initialData = { tasks: server.rows('job:1'), position: { seq: 1, epoch: 'alice-1' } };
    for (const status of ['first', 'second', 'third']) {
      server.write(1, 'task_status', status);
    }
    // The oldest event travels behind the others, as when another room of the connection was live before.
    const late: Incoming[] = [];
    const odd = client({
      transport: (target, events) => {
        const real = server.transport(target, {
          ...events,
          message: (message) => (message.seq === 2 ? late.push(message) : events.message(message)),
        });
        return {
          close: () => real.close(),
          send: (type, data, answered) =>
            real.send(type, data, (answer) => {
              late.splice(0).forEach(events.message);
              answered(answer);
            }),
        };
      },
    });
    const job = odd.job('1', { initialData });
    const seen = collect(job.events());
    await time.pass(1_000);
    const statuses = seen.map((item) =>
      item.type === 'TASK_STATUS_CHANGED' ? item.data.changes.new_status : item.type,
    );
    expect(statuses).to.deep.equal(['first', 'second', 'third']);
    expect(job.getSnapshot().tasks).to.deep.equal(server.rows('job:1'));
    odd.close();
  });

  it('tells a reader that is too far behind that it is', async () => {
    const items = tw.job('1').events();
    const first = items.next();
    await time.pass(1_000);
    server.write(1, 'task_opx_cost', 0);
    await time.pass(100);
    expect((await first).value).to.have.property('type', 'TASK_FEE_UPDATED');
    for (let fee = 1; fee <= 10_001; fee += 1) {
      link.message({
        type: 'TASK_FEE_UPDATED',
        seq: 2 + fee,
        data: { task_id: 1, job_id: '1', user_id: 'alice', changes: { task_opx_cost: fee }, timestamp: 'now' },
      });
    }
    const { value } = await items.next();
    expect(value).to.deep.include({ type: 'RESYNC', position: { seq: 10_003, epoch: 'alice-1' } });
    await items.return();
  });

  it('has a room whole that comes in parts, with what happens meanwhile', async () => {
    for (let count = 0; count < 9; count += 1) {
      server.create('1');
    }
    server.weather.tasks = 2;
    server.weather.lookupMs = 40;
    const job = tw.job('1');
    job.subscribe(() => {});
    const alice = tw.user('alice');
    alice.subscribe(() => {});
    for (let turn = 1; job.getSnapshot().status !== 'live'; turn += 1) {
      server.write(1 + (turn % 10), 'task_opx_cost', turn);
      if (turn === 3) {
        server.delete(10);
        server.delete(2);
        server.create('1', 2);
      }
      server.rows('task:10').length > 0 || server.create('1', 10);
      await time.pass(7);
    }
    await time.pass(100);
    expect(job.getSnapshot()).to.deep.include({ truncated: false, tasks: server.rows('job:1') });
    expect(alice.getSnapshot()).to.deep.include({ truncated: false, tasks: server.rows('user:alice') });
    expect(server.asked.map(({ room }) => room)).to.deep.equal(['job:1', 'user:alice']);
  });

  it('takes no change for a gap that another room brings and a part has already', async () => {
    for (let count = 0; count < 5; count += 1) {
      server.create('1');
    }
    server.weather.tasks = 2;
    tw.user('alice').subscribe(() => {});
    await time.pass(1_000);
    lose = ({ type }) => {
      if (type === 'JOB_TASKS_SNAPSHOT') {
        server.write(1, 'task_opx_cost', 7);
        server.delete(1);
        server.write(2, 'task_opx_cost', 7);
      }
      return false;
    };
    const job = tw.job('1');
    job.subscribe(() => {});
    await time.pass(1_000);
    expect(job.getSnapshot().tasks).to.deep.equal(server.rows('job:1'));
    expect(server.asked.map(({ room }) => room)).to.deep.equal(['user:alice', 'job:1']);
  });

  it('begins a room anew when a part of it did not arrive', async () => {
    server.create('1');
    server.create('1');
    server.weather.tasks = 1;
    let lost = 0;
    lose = ({ type, data }) =>
      type === 'SNAPSHOT_PART' && (data as { complete?: true }).complete === true && lost++ === 0;
    const job = tw.job('1');
    job.subscribe(() => {});
    await time.pass(10_000);
    expect(lost).to.equal(2);
    expect(job.getSnapshot()).to.deep.include({ status: 'live', truncated: false, tasks: server.rows('job:1') });
  });

  describe('waits for a state', () => {
    const is = (status: string) => (task: { task_status: string }) => task.task_status === status;
    /** What became of a promise by now. */
    const outcome = (promise: Promise<{ task_status: string }>): { status?: string } => {
      const seen: { status?: string } = {};
      promise.then(
        ({ task_status }) => Object.assign(seen, { status: task_status }),
        ({ code }: { code: string }) => Object.assign(seen, { status: code }),
      );
      return seen;
    };

    it('that the task has had before, or gets between the call and the answer of the room', async () => {
      server.write(1, 'task_status', 'completed');
      server.write(1, 'task_status', 'archived');
      const done = outcome(tw.task(1).until(is('completed')));
      const now = outcome(tw.task(1).until(is('archived')));
      const short = outcome(tw.task(1).until(is('short')));
      server.write(1, 'task_status', 'short');
      server.write(1, 'task_status', 'long');
      await time.pass(1_000);
      expect([done, now, short]).to.deep.equal([{ status: 'completed' }, { status: 'archived' }, { status: 'short' }]);
    });

    it('that passes while other rooms of the connection have had its events', async () => {
      tw.job('1').subscribe(() => {});
      await time.pass(1_000);
      server.write(1, 'task_status', 'completed');
      server.write(1, 'task_status', 'archived');
      await time.pass(1_000);
      const done = outcome(tw.task(1).until(is('completed')));
      await time.pass(1_000);
      expect(done).to.deep.equal({ status: 'completed' });
    });

    it('after a position, the state at which counts', async () => {
      server.write(1, 'task_status', 'completed');
      server.write(1, 'task_status', 'pending');
      server.create('1');
      const since = { seq: 4, epoch: 'alice-1' };
      const again = outcome(tw.task(1).until(is('completed'), { since }));
      const same = outcome(tw.task(1).until(is('pending'), { since }));
      const before = outcome(tw.task(1).until(is('completed'), { since: { ...since, seq: 2 } }));
      await time.pass(1_000);
      expect([again, same, before]).to.deep.equal([{}, { status: 'pending' }, { status: 'completed' }]);
      server.write(1, 'task_status', 'completed');
      await time.pass(1_000);
      expect(again).to.deep.equal({ status: 'completed' });
      const gone = outcome(tw.task(1).until(is('pending'), { since }));
      await time.pass(1_000);
      expect(gone).to.deep.equal({ status: 'pending' });
    });

    it('from the creation of the task, where the log no longer has all of the user, and else from now', async () => {
      server.write(1, 'task_status', 'early');
      const task = server.create('1');
      server.write(task, 'task_status', 'early');
      server.write(task, 'task_status', 'late');
      server.write(1, 'task_status', 'late');
      server.trim('alice', 4);
      const [old, young] = [outcome(tw.task(1).until(is('early'))), outcome(tw.task(task).until(is('early')))];
      const late = outcome(tw.task(1).until(is('late')));
      await time.pass(1_000);
      expect([old, young, late]).to.deep.equal([{}, { status: 'early' }, { status: 'late' }]);
    });

    it('of a job after rows that were read', async () => {
      const initialData = { tasks: server.rows('job:1'), position: { seq: 1, epoch: 'alice-1' } };
      server.write(1, 'task_opx_cost', 1);
      server.write(1, 'task_opx_cost', 2);
      const costs: unknown[] = [];
      const done = tw.job('1', { initialData }).until(([row]) => {
        costs.push(row!.task_opx_cost);
        return row!.task_opx_cost === 2;
      });
      await time.pass(1_000);
      expect((await done)[0]).to.include({ task_opx_cost: 2 });
      expect(costs.filter((cost, index) => index === 0 || cost !== costs[index - 1])).to.deep.equal([null, 1, 2]);
    });

    it('for many tasks over one connection, which ends after the last', async () => {
      const tasks = [1, 2, 3, 4, 5].map((_, index) => (index === 0 ? 1 : server.create('1')));
      const waits = tasks.map((task) => outcome(tw.task(task).until(is('completed'))));
      await time.pass(1_000);
      expect(server.opened).to.equal(1);
      for (const task of tasks) {
        server.write(task, 'task_status', 'completed');
      }
      await time.pass(100);
      expect(waits).to.deep.equal(tasks.map(() => ({ status: 'completed' })));
      // Also one after the other: each is replayed from its beginning.
      for (const task of tasks) {
        server.write(task, 'task_status', 'archived');
        const late = outcome(tw.task(task).until(is('completed')));
        await time.pass(100);
        expect(late).to.deep.equal({ status: 'completed' });
      }
      expect(server.opened).to.equal(1);
      await time.pass(5_000);
      expect(server.connections.size).to.equal(0);
    });

    it('until the room is refused, or the client closed', async () => {
      server.forbidden.add('task:1');
      const refused = outcome(tw.task(1).until(() => true));
      const task = server.create('1');
      const closed = outcome(tw.task(task).until(is('never')));
      await time.pass(1_000);
      tw.close();
      await time.pass(0);
      expect([refused, closed]).to.deep.equal([{ status: 'ACCESS_DENIED' }, { status: 'CLOSED' }]);
    });
  });

  it('keeps rows over a reload, and asks for what came after them', async () => {
    const kept = new Map<string, string>();
    const storage = {
      getItem: (name: string) => kept.get(name) ?? null,
      setItem: (name: string, text: string) => void kept.set(name, text),
    };
    const before = client({ storage, storageKey: 'alice' });
    before.job('1').subscribe(() => {});
    await time.pass(1_000);
    before.close();
    expect([...kept.keys()]).to.deep.equal(['alice job:1']);
    server.write(1, 'task_status', 'running');

    const after = client({ storage, storageKey: 'alice' });
    const job = after.job('1');
    job.subscribe(() => {});
    expect(job.getSnapshot()).to.include({ status: 'stale' });
    expect(job.getSnapshot().tasks).to.have.length(1);
    await time.pass(1_000);
    expect(server.asked.at(-1)).to.deep.equal({
      room: 'job:1',
      since: 1,
      epoch: 'alice-1',
      snapshot: { parts: true },
    });
    expect(job.getSnapshot()).to.deep.include({ status: 'live', tasks: server.rows('job:1') });
    after.close();

    kept.set('alice job:1', 'no JSON');
    const odd = client({ storage, storageKey: 'alice' });
    odd.job('1').subscribe(() => {});
    expect(odd.job('1').getSnapshot().status).to.equal('loading');
    odd.close();
  });

  it('comes back after a token cannot be had, and waits as long as the server asks', async () => {
    let given = 0;
    const odd = client({
      token: () => {
        given += 1;
        // A server of one's own that fails may answer, with whatever it says then.
        return given === 1 ? Promise.reject(new Error('no network')) : (['', '<h1>503</h1>'][given - 2] ?? 'a.to.ken');
      },
    });
    odd.job('1').subscribe(() => {});
    const reasons: unknown[] = [];
    odd.connection.subscribe(() => odd.connection.state === 'waiting' && reasons.push(odd.connection.reason?.code));
    await time.pass(20_000);
    expect(reasons).to.deep.equal(Array(3).fill('TOKEN_UNAVAILABLE'));
    expect(odd.job('1').getSnapshot().status).to.equal('live');
    link.ended({ later: true, code: 'RATE_LIMIT_EXCEEDED', message: 'slowly', retryAfterMs: 20_000 });
    await time.pass(19_000);
    expect(odd.connection.state).to.equal('waiting');
    expect(odd.connection.nextTryAt! - Date.now()).to.be.above(900);
    await time.pass(60_000);
    expect(odd.connection.state).to.equal('open');
    odd.close();
    expect(odd.job('1').getSnapshot().error?.code).to.equal('CLOSED');
  });
});
