import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import pg from 'pg';
import { eventually } from '../support/eventually.js';
import { Instance } from '../support/instance.js';
import { PlainClient } from '../support/plain-client.js';
import { POSTGRES_PROGRAMS, type PostgresServer, startPostgres, unprivileged } from '../support/postgres.js';
import { describeWith } from '../support/programs.js';
import { Scene } from '../support/scene.js';
import { SmallDisk, withDisks } from '../support/small-disk.js';

const TROUBLE = 'the database does not serve as it should';
const RECOVERED = 'the database serves again';
const LONG = { timeoutMs: 60_000 };
/** For what writes lines of the log meanwhile, of which an instance keeps some. */
const RARELY = { ...LONG, intervalMs: 200 };

/** What no page of Postgres has room for beside rows that are there, however it is packed. */
const large = (): string => randomBytes(6_000).toString('base64');

withDisks('a full disk', (title, pending) => {
  describeWith(POSTGRES_PROGRAMS, title, function () {
    this.timeout(180_000);
    let disk: SmallDisk;
    let postgres: PostgresServer;
    let scene: Scene;
    let instance: Instance;
    let client: PlainClient;
    let endings: Array<() => Promise<unknown> | unknown>;
    /** Of the tasks whose POST was answered with 201. */
    let made: number[];

    before(function () {
      if (pending) {
        this.skip();
      }
    });

    beforeEach(() => {
      endings = [];
      made = [];
    });

    afterEach(async () => {
      for (const end of endings.reverse()) {
        await end();
      }
    });

    function disks(megabytes: number): SmallDisk {
      disk = new SmallDisk({ megabytes, owner: unprivileged() });
      endings.push(() => disk.stop());
      return disk;
    }

    async function serve(databaseUrl: string): Promise<void> {
      scene = await Scene.make(databaseUrl, { users: 1, jobsPerUser: 1 });
      endings.push(() => scene.close());
      // Each worker tells what it meets, and nothing says which one is asked.
      instance = await Instance.start({ env: { DATABASE_URL: databaseUrl }, workers: 1 });
      endings.push(() => instance.kill());
      client = new PlainClient(`${instance.url}/api/ws/tasks`, { 'x-api-key': scene.keys.get('user_1')! });
      endings.push(() => client.socket.terminate());
      await eventually(() => expect(client.socket.readyState).to.equal(client.socket.OPEN));
      await subscribe('first');
    }

    async function subscribe(request_id: string): Promise<void> {
      client.send({ type: 'SUBSCRIBE', data: { room: `job:${scene.jobs[0]!.jobId}` }, request_id });
      expect(await client.answer(request_id)).to.have.property('type', 'SUCCESS');
    }

    // biome-ignore lint/suspicious/noExplicitAny: tests look into answers of every form
    async function call(method: string, path: string, body: unknown): Promise<{ status: number; body: any }> {
      const response = await fetch(`${instance.url}${path}`, {
        method,
        headers: { 'x-api-key': scene.serviceKey, 'content-type': 'application/json' },
        body: JSON.stringify(body),
      });
      return { status: response.status, body: await response.json() };
    }

    type Outcome = [status: number, code: string | undefined];
    const REFUSED: Outcome = [503, 'DATABASE_UNAVAILABLE'];

    /** Makes a task. */
    async function post(task_definition_id: number): Promise<Outcome> {
      const { status, body } = await call('POST', '/api/tasks', { job_id: scene.jobs[0]!.jobId, task_definition_id });
      if (status === 201) {
        made.push(body.task_id);
      }
      return [status, body.error?.code];
    }

    /** Changes the first task, by much. */
    async function change(): Promise<Outcome> {
      const { status, body } = await call('PUT', `/api/tasks/execution/${made[0]}`, { proof_of_task: large() });
      return [status, body.error?.code];
    }

    const health = async (): Promise<unknown[]> => {
      const { status, body } = await instance.get('/api/ws/health');
      return [status, body.status, body.components.database, body.lost];
    };
    const well = [200, 'healthy', 'up', undefined];

    const lines = (message: string) => instance.log.filter((line) => line.message === message);
    const complaints = () => instance.log.filter(({ level }) => level === 'warn' || level === 'error');

    /** All that was answered with 201 is there and was told, once and in order. */
    async function expectWhole(): Promise<void> {
      const rows: Array<{ task_id: string }> = await scene.db('tasks').select('task_id').orderBy('task_id');
      expect(rows.map(({ task_id }) => Number(task_id))).to.include.members(made);
      const told = () =>
        client.messages.filter(({ type }) => type === 'TASK_CREATED').map(({ data }) => Number(data.task_id));
      await eventually(() => expect(told()).to.include.members(made), LONG);
      expect(new Set(told()).size).to.equal(told().length);
      expect(client.closed).to.equal(undefined);
    }

    it('of tables is told once, refuses writes and nothing else, and is over when there is room', async () => {
      postgres = await startPostgres();
      endings.push(() => postgres.stop());
      const { dir } = disks(48);
      const databaseUrl = await postgres.createDatabase();
      await postgres.admin(`CREATE TABLESPACE small LOCATION '${dir}'`);
      await postgres.admin(`ALTER DATABASE ${databaseUrl.split('/').at(-1)} SET TABLESPACE small`);
      await serve(databaseUrl);
      expect(await post(1)).to.deep.equal([201, undefined]);
      const [taskId] = made as [number];
      expect(await health()).to.deep.equal(well);

      disk.fill();
      let refused = 0;
      // A small write finds room in a page between large ones that do not. That is one trouble, and not hundreds.
      await eventually(async () => {
        const outcome = await change();
        if (outcome[0] !== 200) {
          expect(outcome).to.deep.equal(REFUSED);
          refused += 1;
        }
        const small = await call('PUT', `/api/tasks/${taskId}/fee`, { fee: refused });
        expect(small.status).to.be.oneOf([200, 503]);
        expect(refused).to.be.at.least(50);
      }, LONG);
      await eventually(async () =>
        expect(await health()).to.deep.equal([200, 'degraded', 'read-only', ['writes are refused']]),
      );
      for (const line of lines(TROUBLE)) {
        expect(line).to.include({ level: 'warn', status: 'read-only' });
        expect(line['reason']).to.match(/^writes: .*No space left on device$/);
      }
      expect(lines(TROUBLE)).to.have.length(1);
      expect(complaints()).to.deep.equal(lines(TROUBLE));
      // What is there is read, by REST and by rooms.
      expect((await instance.get(`/api/tasks/${taskId}`, { 'x-api-key': scene.serviceKey })).status).to.equal(200);
      await subscribe('meanwhile');

      disk.makeRoom();
      await eventually(async () => expect(await change()).to.deep.equal([200, undefined]));
      await eventually(async () => {
        await post(5);
        expect(await health()).to.deep.equal(well);
        expect(lines(RECOVERED)).to.have.length(1);
      }, RARELY);
      await expectWhole();
      expect(complaints()).to.deep.equal(lines(TROUBLE));
    });

    it('of everything, so that Postgres ends, is told, closes nothing, and is over when it runs again', async () => {
      const { dir } = disks(256);
      postgres = await startPostgres({ min_wal_size: '32MB', max_wal_size: '32MB' }, dir);
      endings.push(() => postgres.stop());
      await serve(await postgres.createDatabase());
      expect(await post(1)).to.deep.equal([201, undefined]);

      disk.fill();
      // Its journal needs a new file in the end, and there is none: it ends with all its sessions.
      await eventually(async () => {
        expect((await change())[0]).to.be.oneOf([200, 503]);
        await postgres.admin('SELECT pg_switch_wal()').catch(() => {});
        expect(postgres.pid).to.equal(undefined);
      }, LONG);
      expect(await post(3)).to.deep.equal(REFUSED);
      await eventually(async () => expect(await health()).to.deep.equal([200, 'degraded', 'down', undefined]), LONG);
      const told = lines(TROUBLE).length;
      for (let round = 0; round < 50; round += 1) {
        expect(await post(3)).to.deep.equal(REFUSED);
      }
      expect(lines(TROUBLE)).to.have.length(told);
      expect(JSON.stringify(lines(TROUBLE))).to.contain('No space left on device');

      disk.makeRoom();
      await postgres.start();
      await eventually(async () => expect(await post(4)).to.deep.equal([201, undefined]), LONG);
      await eventually(async () => {
        await post(5);
        expect(await health()).to.deep.equal(well);
      }, LONG);
      await expectWhole();
    });
  });

  describe(`${title} under the embedded database`, function () {
    this.timeout(180_000);

    (pending ? it.skip : it)(
      'refuses writes, ends the database for a while, and is over when there is room',
      async () => {
        const disk = new SmallDisk({ megabytes: 160 });
        const dir = join(disk.dir, 'data');
        const instance = await Instance.start({ env: { DATA_DIR: dir }, workers: 2 });
        try {
          await eventually(() => expect(instance.output).to.include('/api/ws/stats'), LONG);
          const key = /service key +(tw_\S+)/.exec(instance.output)![1]!;
          const send = async (method: string, path: string, body: object): Promise<[number, string | undefined]> => {
            const response = await fetch(`${instance.url}${path}`, {
              method,
              headers: { 'x-api-key': key, 'content-type': 'application/json' },
              body: JSON.stringify(body),
            });
            // biome-ignore lint/suspicious/noExplicitAny: tests look into answers of every form
            const answer = (await response.json()) as any;
            return [response.status, answer.error?.code];
          };
          const change = () => send('PUT', '/api/tasks/execution/1', { proof_of_task: large() });
          const health = async (): Promise<unknown[]> => {
            const { status, body } = await instance.get('/api/ws/health');
            return [status, body.status, body.components.database, body.lost];
          };
          const said = (message: string) => instance.log.filter((line) => line.message === message);
          expect((await send('POST', '/api/tasks', { job_id: '1', task_definition_id: 1 }))[0]).to.equal(201);

          disk.fill();
          await eventually(async () => expect(await change()).to.deep.equal([503, 'DATABASE_UNAVAILABLE']), LONG);
          await eventually(async () =>
            expect(await health()).to.deep.equal([200, 'degraded', 'read-only', ['writes are refused']]),
          );
          expect(said('the embedded database failed')).to.deep.equal([]);

          // Its journal needs a new file, and there is none: it gives up, and does so again whenever it is started.
          const journal = async (): Promise<void> => {
            const other = new pg.Client({
              connectionString: readFileSync(join(dir, 'database-url'), 'utf8'),
              connectionTimeoutMillis: 2_000,
              query_timeout: 2_000,
            });
            other.on('error', () => {});
            await other.connect();
            await other.query('SELECT pg_switch_wal()').finally(() => other.end());
          };
          await eventually(async () => {
            await journal().catch(() => {});
            expect(await change()).to.deep.equal([503, 'DATABASE_UNAVAILABLE']);
            expect(said('the embedded database failed').length).to.be.at.least(1);
          }, LONG);
          expect(JSON.stringify(said('the embedded database failed')[0])).to.contain('No space left on device');

          disk.makeRoom();
          await eventually(async () => expect(await change()).to.deep.equal([200, undefined]), LONG);
          await eventually(async () => expect(await health()).to.deep.equal([200, 'healthy', 'up', undefined]), LONG);
          expect(await instance.stop()).to.equal(0);
        } finally {
          await instance.kill();
          disk.stop();
        }
      },
    );
  });
});
