import { setImmediate } from 'node:timers/promises';
import { expect } from 'chai';
import type { Knex } from 'knex';
import { connectDatabase } from '../../src/database/connect-database.js';
import type { EventEnvelope } from '../../src/protocol/events.js';
import { EventLog } from '../../src/repository/event-log.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { POSTGRES_PROGRAMS, sharedPostgres } from '../support/postgres.js';
import { describeWith } from '../support/programs.js';
import { type RestAnswer, RestServer } from '../support/rest.js';
import { BLANK_TASK, merge, type Row } from '../support/rows.js';

const WRITERS = 4;
const LISTINGS = 8;
const MAX_TASKS = 60;

describeWith(POSTGRES_PROGRAMS, 'what is read over REST', function () {
  this.timeout(60_000);
  let db: Knex;
  let rest: RestServer;
  let tasks: TaskRepository;
  let ada: string;
  let eve: string;
  let service: string;
  let nextJob = 100;

  before(async () => {
    const url = await (await sharedPostgres()).createDatabase();
    db = connectDatabase({ url, pool: 8 });
    rest = new RestServer(db);
    await rest.start();
    tasks = new TaskRepository(db, { publish() {} });
    ada = await rest.makeKey('ada');
    eve = await rest.makeKey('eve');
    service = await rest.makeKey('scheduler', 'service');
  });
  after(() => rest?.stop());

  const get = (path: string, key = ada): Promise<RestAnswer> => rest.request('GET', path, { key });
  const refused = async (path: string, key: string, status: number, code: string): Promise<RestAnswer> => {
    const answer = await get(path, key);
    expect({ status: answer.status, code: answer.body.error?.code }, path).to.deep.equal({ status, code });
    return answer;
  };

  async function makeJob(owner = 'ada'): Promise<string> {
    const job_id = String(nextJob++);
    const made = await rest.request('POST', '/api/jobs', { key: service, body: { job_id, user_id: owner } });
    expect(made.status).to.equal(201);
    return job_id;
  }
  const makeTask = async (job_id: string): Promise<number> =>
    (await tasks.createTaskData({ job_id, task_definition_id: 1 })).task_id;

  /** Position in the headers of an answer. */
  const positionOf = ({ headers }: RestAnswer) => ({
    seq: Number(headers.get('x-stream-seq')),
    epoch: headers.get('x-stream-epoch'),
  });

  describe('tells its position', () => {
    it('in a header everywhere, and in the body of lists', async () => {
      const key = await rest.makeKey('dan');
      const job_id = await makeJob('dan');
      const id = await makeTask(job_id);
      const { seq, epoch } = await tasks.updateTaskFee(id, 2.5);
      for (const path of [`/api/tasks/${id}`, `/api/jobs/${job_id}`]) {
        expect(positionOf(await get(path, key)), path).to.deep.equal({ seq, epoch });
      }
      const lists = [`/api/tasks/job/${job_id}`, '/api/users/dan/tasks', '/api/jobs', `/api/jobs/${job_id}/events`];
      for (const path of [...lists, '/api/users/dan/events', `/api/tasks/${id}/events`]) {
        const answer = await get(path, key);
        expect(positionOf(answer), path).to.deep.equal({ seq, epoch });
        expect(answer.body, path).to.include({ seq, epoch });
      }
    });

    it('so that pages of other sites can read it', async () => {
      const id = await makeTask(await makeJob());
      const origin = 'https://app.example.com';
      const { headers } = await rest.request('GET', `/api/tasks/${id}`, { key: ada, headers: { origin } });
      expect(headers.get('access-control-expose-headers')).to.include('X-Stream-Seq').and.include('X-Stream-Epoch');
    });

    it('of a room without tasks too', async () => {
      const job_id = await makeJob();
      const { body } = await get(`/api/tasks/job/${job_id}`);
      expect(body).to.include({ job_id, next: null }).and.have.keys('job_id', 'tasks', 'next', 'seq', 'epoch');
      expect(body.tasks).to.deep.equal([]);
      expect((await get('/api/users/eve/tasks', eve)).body).to.deep.include({ user_id: 'eve', tasks: [], seq: 0 });
    });
  });

  it('is a page of a user as it is one of a job', async () => {
    await rest.makeKey('bob');
    const [one, two] = [await makeJob('bob'), await makeJob('bob')];
    const ids = [await makeTask(one), await makeTask(two), await makeTask(one)];
    const first = (await get('/api/users/bob/tasks?limit=2', service)).body;
    expect(first.tasks.map((row: Row) => row['task_id'])).to.deep.equal(ids.slice(0, 2));
    const last = (await get(`/api/users/bob/tasks?limit=2&after=${first.next}`, service)).body;
    expect(last.tasks.map((row: Row) => row['task_id'])).to.deep.equal(ids.slice(2));
    expect(last.next).to.equal(null);
    expect(last.tasks[0]).to.deep.equal((await get(`/api/tasks/${ids[2]}`, service)).body);
    await refused('/api/users/bob/tasks', ada, 403, 'ACCESS_DENIED');
    await refused('/api/users/nobody/tasks', ada, 403, 'ACCESS_DENIED');
    await refused('/api/users/nobody/tasks', service, 404, 'NOT_FOUND');
    await refused('/api/users/no%20body/tasks', service, 400, 'INVALID_REQUEST');
  });

  it('is a list of jobs, of one user or of all', async () => {
    await rest.makeKey('cyd');
    // In the order of numbers, not of text.
    const ids = ['5', '40', `1${'0'.repeat(77)}`];
    for (const job_id of ids) {
      await rest.request('POST', '/api/jobs', { key: service, body: { job_id, user_id: 'cyd' } });
    }
    const cyd = await rest.makeKey('cyd');
    const idsOf = ({ body }: RestAnswer) => body.jobs.map((job: { job_id: string }) => job.job_id);
    expect(idsOf(await get('/api/jobs', cyd))).to.deep.equal(ids);
    const first = await get('/api/jobs?limit=2', cyd);
    expect(first.body).to.include({ user_id: 'cyd', next: '40', seq: 0 });
    const second = await get(`/api/jobs?limit=2&after=${first.body.next}`, cyd);
    expect(idsOf(second)).to.deep.equal(ids.slice(2));
    expect(second.body.next).to.equal(null);
    expect(idsOf(await get(`/api/jobs?after=${ids[2]}`, cyd))).to.deep.equal([]);
    expect(idsOf(await get('/api/jobs?user_id=cyd', service))).to.deep.equal(ids);

    const all = await get('/api/jobs?limit=1000', service);
    expect(all.body).to.have.keys('jobs', 'next');
    expect(idsOf(all)).to.include.members(ids).and.include('100');
    expect(all.headers.has('x-stream-seq')).to.equal(false);

    expect((await get('/api/jobs/40', cyd)).body)
      .to.include({ job_id: '40', user_id: 'cyd' })
      .and.have.key('created_at');
    await refused('/api/jobs?user_id=cyd', ada, 403, 'ACCESS_DENIED');
    await refused('/api/jobs?user_id=nobody', ada, 403, 'ACCESS_DENIED');
    await refused('/api/jobs?user_id=nobody', service, 404, 'NOT_FOUND');
    await refused('/api/jobs/40', ada, 403, 'ACCESS_DENIED');
    await refused('/api/jobs/41', ada, 403, 'ACCESS_DENIED');
    await refused('/api/jobs/41', service, 404, 'NOT_FOUND');
    for (const query of ['limit=0', 'limit=', 'limit=1e2', 'after=-1', 'after=x', 'user_id=', 'user_id=a%20b']) {
      await refused(`/api/jobs?${query}`, service, 400, 'INVALID_REQUEST');
    }
  });

  it('can be put in order with events: pages that were read while others wrote, and what came after, are the table', async () => {
    const job_id = await makeJob();
    const other = await makeJob();
    const ids: number[] = [];
    for (let n = 0; n < 10; n += 1) {
      ids.push(await makeTask(n % 2 === 0 ? job_id : other));
    }
    let running = true;
    let writes = 0;
    let pages = 0;
    const writer = async (): Promise<void> => {
      while (running) {
        if (writes > pages * WRITERS) {
          // As many writes as there are pages to be written between.
          await setImmediate();
          continue;
        }
        writes += 1;
        const n = writes;
        const id = ids[(n * 7) % ids.length]!;
        switch (n % 5) {
          case 0:
            if (ids.length > MAX_TASKS) {
              break;
            }
            ids.push(await makeTask(n % 3 === 0 ? other : job_id));
            break;
          case 1:
            await tasks.updateTaskFee(id, n / 8);
            break;
          case 2:
            await tasks.updateTaskNumberAndStatus(id, n, `status_${n}`);
            break;
          case 3:
            await tasks.updateTaskAttestationData(id, { is_successful: n % 2 === 0, task_attester_ids: [n] });
            break;
          default:
            await tasks.updateManyTaskData('ada', [
              { kind: 'execution', task_id: id, task_performer_id: n, tx_url: null },
              { kind: 'fee', task_id: ids[n % ids.length]!, fee: n },
            ]);
        }
      }
    };
    const writers = Promise.all(Array.from({ length: WRITERS }, writer));

    /** All pages of a listing, each row with the position that its page shows. */
    async function list(
      path: string,
      limit: number,
    ): Promise<{ rows: Map<number, Row>; since: number; epoch: string }> {
      const rows = new Map<number, Row>();
      let since: number | undefined;
      let epoch = '';
      for (let after: number | null = 0; after !== null; ) {
        const { body }: RestAnswer = await get(`${path}?limit=${limit}&after=${after}`);
        pages += 1;
        for (const row of body.tasks) {
          rows.set(row.task_id, { ...row, seq: body.seq });
        }
        // Events are wanted from the first page's position on: rows of later pages know what they have.
        since ??= body.seq;
        epoch = body.epoch;
        after = body.next;
      }
      return { rows, since: since!, epoch };
    }
    const listings = [];
    for (let n = 0; n < LISTINGS; n += 1) {
      const [path, room] =
        n % 2 === 0 ? [`/api/tasks/job/${job_id}`, `jobs/${job_id}`] : ['/api/users/ada/tasks', 'users/ada'];
      listings.push({ path, room, ...(await list(path, 1 + (n % 4))) });
    }
    running = false;
    await writers;

    for (const { path, room, rows, since, epoch } of listings) {
      for (let from: number | null = since; from !== null; ) {
        const { body }: RestAnswer = await get(`/api/${room}/events?since=${from}&epoch=${epoch}&limit=50`);
        expect(body.recovered).to.equal(true);
        merge(rows, body.events as EventEnvelope[]);
        from = body.next;
      }
      const now = (await list(path, 1_000)).rows;
      const plain = (map: Map<number, Row>) =>
        [...map.values()].map(({ seq, ...row }) => row).sort((a, b) => Number(a['task_id']) - Number(b['task_id']));
      expect(plain(rows), path).to.deep.equal(plain(now));
    }
    expect(writes).to.be.greaterThan(LISTINGS);
  });

  describe('is a history', () => {
    let job_id: string;
    let id: number;
    let epoch: string;

    beforeEach(async () => {
      const owner = `history_${nextJob}`;
      job_id = await makeJob(owner);
      id = await makeTask(job_id);
      await makeTask(job_id);
      await tasks.updateTaskFee(id, 1);
      await tasks.updateTaskNumberAndStatus(id, 1, 'done');
      await tasks.updateTaskFee(id, 2);
      ({ epoch } = (await new EventLog(db).state(owner))!);
    });

    const seqs = ({ body }: RestAnswer): number[] => body.events.map(({ seq }: { seq: number }) => seq);
    const history = (query = '', room = `jobs/${job_id}`): Promise<RestAnswer> =>
      get(`/api/${room}/events${query}`, service);

    it('of the same envelopes as live', async () => {
      const { body } = await history('', `tasks/${id}`);
      expect(body).to.deep.include({ seq: 5, epoch, recovered: true, next: null });
      expect(body.events.map(({ type }: EventEnvelope) => type)).to.deep.equal([
        'TASK_CREATED',
        'TASK_FEE_UPDATED',
        'TASK_STATUS_CHANGED',
        'TASK_FEE_UPDATED',
      ]);
      const last = body.events.at(-1);
      expect(last).to.have.keys('type', 'seq', 'data', 'timestamp');
      expect(last.data).to.have.keys('task_id', 'job_id', 'user_id', 'changes', 'timestamp');
      expect(last.data.changes).to.include({ task_id: id, job_id, old_fee: 1, new_fee: 2 });
    });

    it('page by page, from any position', async () => {
      const first = await history('?limit=2');
      expect(seqs(first)).to.deep.equal([1, 2]);
      expect(first.body).to.include({ seq: 2, next: 2, recovered: true });
      const second = await history(`?limit=3&since=${first.body.next}&epoch=${epoch}`);
      expect(seqs(second)).to.deep.equal([3, 4, 5]);
      expect(second.body).to.include({ seq: 5, next: null, recovered: true });
      expect(seqs(await history('?since=5'))).to.deep.equal([]);
    });

    it('of some types', async () => {
      const fees = await history('?types=TASK_FEE_UPDATED&limit=1');
      expect(seqs(fees)).to.deep.equal([3]);
      expect(fees.body).to.include({ seq: 3, next: 3 });
      const rest = await history('?types=TASK_FEE_UPDATED&since=3');
      expect(seqs(rest)).to.deep.equal([5]);
      expect(rest.body).to.include({ seq: 5, next: null });
      const two = ['?types=TASK_FEE_UPDATED,TASK_CREATED', '?types=TASK_FEE_UPDATED&types=TASK_CREATED'];
      for (const query of two) {
        expect(seqs(await history(query)), query).to.deep.equal([1, 2, 3, 5]);
      }
      const none = await history('?types=TASK_UPDATED');
      expect(none.body).to.deep.include({ events: [], seq: 5, next: null, recovered: true });
    });

    it('that says when its beginning is missing', async () => {
      const owner = (await get(`/api/jobs/${job_id}`, service)).body.user_id;
      for (const query of ['?since=6', '?since=2&epoch=another']) {
        const lost = await history(query);
        expect(lost.body, query).to.include({ recovered: false, seq: 5, next: null });
        expect(seqs(lost), query).to.deep.equal([1, 2, 3, 4, 5]);
      }
      await db.raw('DELETE FROM task_events WHERE user_id = ? AND seq <= 3', [owner]);
      for (const [query, recovered] of [
        ['', false],
        ['?since=2', false],
        ['?since=3', true],
        ['?since=4', true],
      ] as const) {
        expect((await history(query)).body, query).to.include({ recovered, seq: 5 });
      }
      expect(seqs(await history('?since=1'))).to.deep.equal([4, 5]);
    });

    it('that ends at a bound when it looks for few among many, and leads on', async () => {
      const owner = (await get(`/api/jobs/${job_id}`, service)).body.user_id;
      await db.raw(
        `INSERT INTO task_events (user_id, seq, job_id, task_id, type, changes, created_at)
         SELECT ?, n, ?::numeric, ?, CASE n WHEN 6000 THEN 'TASK_FEE_UPDATED' ELSE 'TASK_UPDATED' END, '{"a": 1}', now()
         FROM generate_series(6, 6000) n`,
        [owner, job_id, id],
      );
      await db.raw('UPDATE event_streams SET seq = 6000 WHERE user_id = ?', [owner]);
      const first = await history('?types=TASK_FEE_UPDATED&since=5');
      expect(first.body).to.deep.include({ events: [], seq: 5005, next: 5005, recovered: true });
      const second = await history(`?types=TASK_FEE_UPDATED&since=${first.body.next}`);
      expect(seqs(second)).to.deep.equal([6000]);
      expect(second.body).to.include({ seq: 6000, next: null });
    });

    it('for those who may see it', async () => {
      for (const path of [`/api/jobs/${job_id}/events`, `/api/tasks/${id}/events`, '/api/users/eve/events']) {
        await refused(path, ada, 403, 'ACCESS_DENIED');
      }
      await refused('/api/jobs/31337/events', service, 404, 'NOT_FOUND');
      for (const query of [
        'since=-1',
        'since=',
        'since=1.5',
        'limit=0',
        'limit=1001',
        'types=',
        'types=NOPE',
        `epoch=${'x'.repeat(65)}`,
      ]) {
        await refused(`/api/jobs/${job_id}/events?${query}`, service, 400, 'INVALID_REQUEST');
      }
    });
  });

  it('starts rows from what a task is when nothing is known of it', async () => {
    const { task_id } = await tasks.createTaskData({ job_id: await makeJob(), task_definition_id: 3, is_imua: true });
    const row = (await get(`/api/tasks/${task_id}`)).body;
    expect(row).to.include({ ...BLANK_TASK, task_definition_id: 3, is_imua: true });
  });
});
