import { setTimeout as sleep } from 'node:timers/promises';
import {
  createTaskwire,
  type Position,
  type StreamItem,
  type TaskRow,
  type Taskwire,
  type TaskwireOptions,
} from '@taskwire/client';
import { expect } from 'chai';
import { eventually } from '../../../../dist/test/support/eventually.js';
import { Instance } from '../../../../dist/test/support/instance.js';
import { POSTGRES_PROGRAMS, sharedPostgres } from '../../../../dist/test/support/postgres.js';
import { describeWith } from '../../../../dist/test/support/programs.js';
import { REDIS_PROGRAMS, startRedis } from '../../../../dist/test/support/redis.js';
import { RestWrites, Scene } from '../../../../dist/test/support/scene.js';
import { embeddedForTest, InProcessServer } from '../../../../dist/test/support/task-server.js';
import { random, Writer } from '../../../../dist/test/support/writers.js';
import { WIRES } from '../support/wires.js';

/** The rows of a job as REST reads them. */
async function rowsOf(url: string, key: string, jobId: string): Promise<TaskRow[]> {
  const response = await fetch(`${url}/api/tasks/job/${jobId}?limit=1000`, { headers: { 'x-api-key': key } });
  const body = (await response.json()) as { tasks: TaskRow[] };
  expect(response.status, JSON.stringify(body)).to.equal(200);
  return body.tasks;
}

/** The position that an answer to a write tells. */
const positionOf = ({ seq, epoch }: { seq?: number; epoch?: string }): Position => ({ seq: seq!, epoch: epoch! });

/** Keeps account of an iteration: what breaks the promise, and how often it began anew. */
class Follower {
  readonly faults: string[] = [];
  resyncs = 0;
  events = 0;
  private last = 0;

  constructor(
    items: AsyncIterable<StreamItem>,
    private readonly gapless: boolean,
  ) {
    void this.follow(items).catch((error: unknown) => this.faults.push(String(error)));
  }

  private async follow(items: AsyncIterable<StreamItem>): Promise<void> {
    for await (const item of items) {
      if (item.type === 'RESYNC') {
        this.resyncs += 1;
      } else {
        this.events += 1;
        if (this.last > 0 && (this.gapless ? item.seq !== this.last + 1 : item.seq <= this.last)) {
          this.faults.push(`${item.seq} after ${this.last}`);
        }
      }
      this.last = item.position.seq;
    }
  }
}

for (const [wire, transport] of Object.entries(WIRES)) {
  describe(`the client over ${wire}`, function () {
    this.timeout(60_000);
    let database: Awaited<ReturnType<typeof embeddedForTest>>;
    let scene: Scene;
    let server: InProcessServer;
    let key: string;
    let writes: RestWrites;
    const clients: Taskwire[] = [];

    const client = (options: Partial<TaskwireOptions> = {}): Taskwire => {
      const tw = createTaskwire({ url: server.url, apiKey: key, transport, lingerMs: 0, ...options });
      clients.push(tw);
      return tw;
    };

    before(async () => {
      database = await embeddedForTest();
      scene = await Scene.make(database.url, { users: 2, jobsPerUser: 3 });
      server = new InProcessServer(database.url, { TOKEN_SECRET: 'of-a-test-and-long-enough-for-a-secret' });
      await server.start();
      key = scene.keys.get('user_1')!;
      writes = new RestWrites(() => [server.url], scene.serviceKey);
    });

    afterEach(() => {
      for (const tw of clients.splice(0)) {
        tw.close();
      }
    });

    after(async () => {
      await server?.stop();
      await scene?.close();
      await database?.stop();
    });

    it('shows a job, and every write to it', async () => {
      const tw = client();
      const job = tw.job('1001');
      expect(job.getSnapshot().status).to.equal('loading');
      const stop = job.subscribe(() => {});
      await eventually(() => expect(job.getSnapshot().status).to.equal('live'));
      const writer = new Writer(writes, [{ jobId: '1001', userId: 'user_1' }], random(5));
      for (let count = 0; count < 30; count += 1) {
        await tw.caughtUp(positionOf(await writer.write()));
        expect(job.getSnapshot().tasks).to.deep.equal(await rowsOf(server.url, key, '1001'));
      }
      stop();
      await eventually(() => expect(tw.connection.state).to.equal('idle'));
    });

    it('waits for a state of a task, also for one that it has already', async () => {
      const { task_id } = await writes.createTaskData({ job_id: '1002', task_definition_id: 1, is_imua: false });
      const tw = client();
      const done = tw.task(task_id).until((task) => task.task_status === 'completed');
      await writes.updateTaskNumberAndStatus(task_id, 7, 'completed');
      await writes.updateTaskNumberAndStatus(task_id, 7, 'archived');
      expect(await done).to.include({ task_id, task_status: 'completed' });
      expect(await tw.task(task_id).until((task) => task.task_status === 'archived')).to.include({ task_number: 7 });
      const stop = new AbortController();
      const never = tw.task(task_id).until(() => false, { signal: stop.signal });
      stop.abort(new Error('enough'));
      expect(await never.catch((error: Error) => error.message)).to.equal('enough');
    });

    it('iterates from a position', async () => {
      const made = await writes.createTaskData({ job_id: '1003', task_definition_id: 1, is_imua: false });
      const { task_id } = made;
      const fees = [1, 2, 3, 4];
      for (const fee of fees) {
        await writes.updateTaskFee(task_id, fee);
      }
      const tw = client();
      const stop = tw.job('1003').subscribe(() => {});
      await eventually(() => expect(tw.job('1003').getSnapshot().status).to.equal('live'));
      const seen: unknown[] = [];
      for await (const item of tw.job('1003').events({ since: positionOf(made) })) {
        if (item.type === 'TASK_FEE_UPDATED') {
          seen.push(item.data.changes.new_fee);
          if (seen.length === fees.length) {
            await writes.updateTaskFee(task_id, 5);
          }
        }
        if (seen.length === 5) {
          break;
        }
      }
      expect(seen).to.deep.equal([1, 2, 3, 4, 5]);
      stop();
    });

    it('shows a job of two megabytes whole, while others write to it', async () => {
      const { rows } = await scene.db.raw<{ rows: Array<{ task_id: string }> }>(
        `INSERT INTO tasks (job_id, user_id, task_definition_id, is_imua, task_status, created_at, proof_of_task)
         SELECT 2001, 'user_2', n, false, 'pending', now(), repeat('x', 2000) FROM generate_series(1, 900) n RETURNING task_id`,
      );
      const ids = rows.map(({ task_id }) => Number(task_id));
      const tw = client({ apiKey: scene.serviceKey });
      const job = tw.job('2001');
      const sizes = new Set<number>();
      job.subscribe(() => sizes.add(job.getSnapshot().tasks.length));
      // The newest tasks come first, the oldest last.
      for (let turn = 0; job.getSnapshot().status !== 'live'; turn += 1) {
        await writes.updateTaskFee(ids.at(turn % 2 === 0 ? -1 : 0)!, turn);
      }
      await tw.caughtUp(positionOf(await writes.updateTaskFee(ids[0]!, 0.5)));
      expect(job.getSnapshot()).to.deep.include({
        truncated: false,
        tasks: await rowsOf(server.url, scene.serviceKey, '2001'),
      });
      // Nothing is shown before it is whole.
      expect([...sizes].filter((size) => size !== 0)).to.deep.equal([900]);
    });

    it('begins with rows that the page was rendered with', async () => {
      const { task_id } = await writes.createTaskData({ job_id: '1003', task_definition_id: 2, is_imua: false });
      const position = positionOf(await writes.updateTaskFee(task_id, 1));
      const initialData = { tasks: await rowsOf(server.url, key, '1003'), position };
      await writes.updateTaskFee(task_id, 2);
      const tw = client();
      const job = tw.job('1003', { initialData });
      expect(job.getSnapshot()).to.include({ status: 'stale', tasks: initialData.tasks });
      const events: unknown[] = [];
      const stop = new AbortController();
      void (async () => {
        for await (const item of job.events({ signal: stop.signal })) {
          events.push(item.type);
        }
      })();
      await eventually(() => expect(job.getSnapshot().status).to.equal('live'));
      expect(job.getSnapshot().tasks).to.deep.equal(await rowsOf(server.url, key, '1003'));
      await eventually(() => expect(events).to.deep.equal(['TASK_FEE_UPDATED']));
      stop.abort();
    });

    /** What a page's own server does: it has a key, and makes tokens for its visitors. */
    const tokenFor = async (expires_in: number): Promise<string> => {
      const response = await fetch(`${server.url}/api/tokens`, {
        method: 'POST',
        headers: { 'x-api-key': key, 'content-type': 'application/json' },
        body: JSON.stringify({ user: 'user_1', expires_in }),
      });
      expect(response.status).to.equal(201);
      return ((await response.json()) as { token: string }).token;
    };

    it('brings a new token before the one of now ends, on the same connection', async () => {
      let tokens = 0;
      const states: string[] = [];
      const tw = client({
        apiKey: undefined,
        token: () => {
          tokens += 1;
          return tokenFor(6);
        },
      });
      tw.connection.subscribe(() => states.push(tw.connection.state));
      const job = tw.job('1001');
      job.subscribe(() => {});
      await eventually(() => expect(tokens).to.equal(2));
      expect(job.getSnapshot().status).to.equal('live');
      expect(states).to.deep.equal(['connecting', 'open']);
    });

    it('comes back with a new token after the end of one, and misses nothing', async () => {
      const { task_id } = await writes.createTaskData({ job_id: '1003', task_definition_id: 3, is_imua: false });
      const reasons: unknown[] = [];
      const tw = client({ apiKey: undefined, token: () => tokenFor(1), backoff: { baseMs: 100 } });
      tw.connection.subscribe(() => reasons.push(tw.connection.reason?.code));
      const fees: unknown[] = [];
      const stop = new AbortController();
      void (async () => {
        for await (const item of tw.task(task_id).events({ signal: stop.signal })) {
          fees.push(item.type === 'TASK_FEE_UPDATED' ? item.data.changes.new_fee : item.type);
        }
      })();
      await eventually(() => expect(tw.task(task_id).getSnapshot().status).to.equal('live'));
      let fee = 0;
      while (reasons.filter((code) => code === 'TOKEN_EXPIRED').length < 2) {
        fee += 1;
        await writes.updateTaskFee(task_id, fee);
        await sleep(20);
      }
      await eventually(() => expect(fees).to.deep.equal(Array.from({ length: fee }, (_, index) => index + 1)));
      stop.abort();
    });

    it('says why a room or a connection is refused, and tries again when it is told to', async () => {
      const tw = client();
      const foreign = tw.job('2001');
      foreign.subscribe(() => {});
      await eventually(() => expect(foreign.getSnapshot()).to.deep.include({ status: 'error', tasks: [] }));
      expect(foreign.getSnapshot().error?.code).to.equal('ACCESS_DENIED');
      const refused = await tw
        .job('2001')
        .until(() => true)
        .catch((error: { code: string }) => error.code);
      expect(refused).to.equal('ACCESS_DENIED');

      const wrong = client({ apiKey: `${key.slice(0, -1)}${key.endsWith('0') ? '1' : '0'}` });
      const job = wrong.job('1001');
      job.subscribe(() => {});
      await eventually(() => expect(wrong.connection.state).to.equal('failed'));
      expect(wrong.connection.reason?.code).to.equal('INVALID_API_KEY');
      expect(job.getSnapshot().error?.code).to.equal('INVALID_API_KEY');
      wrong.retry();
      expect(wrong.connection.state).to.equal('connecting');
    });
  });

  describeWith(
    [...POSTGRES_PROGRAMS, ...REDIS_PROGRAMS],
    `the client over ${wire} and a service that is killed`,
    function () {
      this.timeout(180_000);

      it('shows the table after each kill, and its iterations have no gap', async () => {
        const databaseUrl = await (await sharedPostgres()).createDatabase();
        const redis = await startRedis();
        const scene = await Scene.make(databaseUrl, { users: 2, jobsPerUser: 3 });
        const env = { DATABASE_URL: databaseUrl, REDIS_URL: redis.url };
        let instance = await Instance.start({ env });
        const { port, url } = instance;
        const tw = createTaskwire({
          url,
          apiKey: scene.serviceKey,
          transport,
          silenceMs: 1_000,
          patienceMs: 2_000,
          backoff: { baseMs: 100, capMs: 1_000 },
        });
        const stop = new AbortController();
        const jobs = scene.jobs.map(({ jobId }) => tw.job(jobId));
        const users = ['user_1', 'user_2'].map((user) => tw.user(user));
        for (const room of [...jobs, ...users]) {
          room.subscribe(() => {});
        }
        const live = async (): Promise<void> => {
          await eventually(
            () =>
              expect([...jobs, ...users].map((room) => room.getSnapshot().status)).to.deep.equal(Array(8).fill('live')),
            { timeoutMs: 60_000 },
          );
        };
        await live();
        const followers = [
          ...jobs.map((job) => new Follower(job.events({ signal: stop.signal }), false)),
          ...users.map((user) => new Follower(user.events({ signal: stop.signal }), true)),
        ];
        let writing = true;
        let written = 0;
        const writer = new Writer(new RestWrites(() => [url], scene.serviceKey), scene.jobs, random(3));
        const work = (async () => {
          while (writing) {
            await writer.write().then(
              () => {
                written += 1;
              },
              // The service is away.
              () => sleep(20),
            );
          }
        })();
        const more = async (): Promise<void> => {
          const goal = written + 50;
          await eventually(() => expect(written).to.be.at.least(goal), { timeoutMs: 60_000 });
        };
        try {
          for (let kill = 0; kill < 3; kill += 1) {
            await more();
            await eventually(() => expect(instance.workers.size).to.equal(2), { timeoutMs: 60_000 });
            instance.killWorker(kill % 2);
          }
          await more();
          await instance.kill();
          instance = await Instance.start({ env, port });
          await more();
          writing = false;
          await work;
          await live();
          for (const [index, { jobId }] of scene.jobs.entries()) {
            await eventually(async () =>
              expect(jobs[index]!.getSnapshot().tasks).to.deep.equal(await rowsOf(url, scene.serviceKey, jobId)),
            );
          }
          expect(users.map((user) => user.getSnapshot().tasks.length)).to.deep.equal(
            ['user_1', 'user_2'].map(
              (user) =>
                scene.jobs.flatMap(({ userId }, index) => (userId === user ? jobs[index]!.getSnapshot().tasks : []))
                  .length,
            ),
          );
          expect(followers.flatMap(({ faults }) => faults)).to.deep.equal([]);
          expect(followers.map(({ resyncs }) => resyncs)).to.deep.equal(Array(8).fill(0));
          expect(followers[6]!.events + followers[7]!.events).to.be.at.least(200);
        } finally {
          writing = false;
          stop.abort();
          tw.close();
          await work;
          await instance.stop();
          await scene.close();
          await redis.stop();
        }
      });
    },
  );
}
