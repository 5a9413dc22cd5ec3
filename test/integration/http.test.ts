import { once } from 'node:events';
import { connect } from 'node:net';
import { expect } from 'chai';
import type { Knex } from 'knex';
import { connectDatabase } from '../../src/database/connect-database.js';
import { eventually } from '../support/eventually.js';
import { POSTGRES_PROGRAMS, sharedPostgres, startPostgres } from '../support/postgres.js';
import { describeWith } from '../support/programs.js';
import { type RestAnswer, RestServer } from '../support/rest.js';
import { Statements } from '../support/statements.js';
import { startTcpProxy } from '../support/tcp-proxy.js';

const expectError = ({ status, body }: RestAnswer, expected: number, code: string): void => {
  expect({ status, code: body.error.code }, JSON.stringify(body)).to.deep.equal({ status: expected, code });
  expect(Object.keys(body)).to.deep.equal(['error']);
  expect(JSON.stringify(body)).to.not.match(/ at .*\.(?:ts|js)/);
};

describeWith(POSTGRES_PROGRAMS, 'REST', function () {
  this.timeout(60_000);
  let url: string;
  let db: Knex;
  let rest: RestServer;
  let ada: string;
  let eve: string;
  let service: string;
  let admin: string;
  let nextJob = 1;

  before(async () => {
    const postgres = await sharedPostgres();
    url = await postgres.createDatabase();
    db = connectDatabase({ url, pool: 4 });
    rest = new RestServer(db);
    await rest.start();
    ada = await rest.makeKey('ada');
    eve = await rest.makeKey('eve');
    service = await rest.makeKey('scheduler', 'service');
    admin = await rest.makeKey('root', 'admin');
  });
  after(() => rest?.stop());
  beforeEach(() => {
    rest.events.length = 0;
  });

  async function makeJob(user_id = 'ada'): Promise<string> {
    const job_id = String(nextJob++);
    const body = { job_id, user_id };
    expect((await rest.request('POST', '/api/jobs', { key: service, body })).status).to.equal(201);
    return job_id;
  }

  async function makeTask(job_id?: string): Promise<number> {
    const body = { job_id: job_id ?? (await makeJob()), task_definition_id: 7, is_imua: true };
    const answer = await rest.request('POST', '/api/tasks', { key: ada, body });
    expect(answer.status, JSON.stringify(answer.body)).to.equal(201);
    return answer.body.task_id;
  }

  describe('tasks', () => {
    it('are created, and what was committed is announced', async () => {
      const job_id = await makeJob();
      const body = { job_id: Number(job_id), task_definition_id: 7, is_imua: true };
      const unknown = await rest.request('POST', '/api/tasks', { key: ada, body: { ...body, unknown: 1 } });
      expectError(unknown, 400, 'INVALID_REQUEST');
      expect(unknown.body.error.details[0].field).to.equal('unknown');
      expect(unknown.body.error.message).to.contain('unknown');
      const { status, body: made } = await rest.request('POST', '/api/tasks', { key: ada, body });
      expect(status).to.equal(201);
      expect(made).to.include({ job_id, user_id: 'ada' });
      expect(made.task_id).to.be.a('number');
      expect(rest.events.map(({ type, taskId }) => [type, taskId])).to.deep.equal([['TASK_CREATED', made.task_id]]);
    });

    it('keep job ids of 78 digits', async () => {
      const job_id = '9'.repeat(78);
      expect(
        (await rest.request('POST', '/api/jobs', { key: service, body: { job_id, user_id: 'ada' } })).body,
      ).to.include({
        job_id,
      });
      const task = await makeTask(job_id);
      expect((await rest.request('GET', `/api/tasks/${task}`, { key: ada })).body).to.include({ job_id });
    });

    it('keep job ids that are numbers of any size, to the last digit', async () => {
      const post = (path: string, body: string) => rest.request('POST', path, { key: service, body });
      for (const id of [`1${'0'.repeat(76)}1`, '9007199254740993', '18446744073709551615']) {
        const job = await post('/api/jobs', `{"job_id":${id},"user_id":"ada"}`);
        expect(job.status, JSON.stringify(job.body)).to.equal(201);
        expect(job.body).to.include({ job_id: id });
        const one = await post('/api/tasks', `{"task_definition_id":1, "job_id" : ${id}\n}`);
        expect(one.body).to.include({ job_id: id, user_id: 'ada' });
        const many = await post(
          '/api/tasks',
          `[{"job_id":${id},"task_definition_id":1},{"job_id":"${id}","task_definition_id":2}]`,
        );
        expect(many.status).to.equal(201);
        expect(many.body.results.map((item: { job_id: string }) => item.job_id)).to.deep.equal([id, id]);
        const list = await rest.request('GET', `/api/tasks/job/${id}`, { key: ada });
        expect(list.body.tasks).to.have.length(3);
      }
      // Each would be an id if it were rounded.
      for (const id of ['9007199254740990.6', '1.0000000000000000001', '1e-1', '-1', '1e78', '9'.repeat(79)]) {
        for (const path of ['/api/jobs', '/api/tasks']) {
          const refused = await post(path, `{"job_id":${id},"task_definition_id":1}`);
          expectError(refused, 400, 'INVALID_REQUEST');
          expect(refused.body.error.details[0].field).to.equal('job_id');
        }
        const many = await post('/api/tasks', `[{"job_id":${id},"task_definition_id":1}]`);
        expect(many.body.results[0].error).to.include({ code: 'INVALID_REQUEST' });
      }
    });

    it('keep numbers elsewhere as they are', async () => {
      const id = await makeTask();
      const body = `{"converted_arguments":[{"job_id":1.5},"{\\"job_id\\":1}"]}`;
      await rest.request('PUT', `/api/tasks/execution/${id}`, { key: ada, body });
      const row = (await rest.request('GET', `/api/tasks/${id}`, { key: ada })).body;
      expect(row.converted_arguments).to.deep.equal([{ job_id: 1.5 }, '{"job_id":1}']);
    });

    it('take the four updates', async () => {
      const id = await makeTask();
      const put = (path: string, body: unknown) => rest.request('PUT', path, { key: service, body });
      const answers = [
        await put(`/api/tasks/execution/${id}`, {
          task_id: id,
          task_performer_id: 4,
          execution_timestamp: '2024-01-01T01:00:00+01:00',
          execution_tx_hash: '0xabc',
          proof_of_task: 'proof',
          task_opx_cost: 0.5,
        }),
        await put(`/api/tasks/attestation/${id}`, {
          task_number: 12,
          task_attester_ids: [1, 2],
          tp_signature: 'dHA=',
          ta_signature: 'dGE=',
          task_submission_tx_hash: '0xdef',
          is_successful: true,
        }),
        await put(`/api/tasks/${id}/fee`, { fee: 1.25 }),
        await put(`/api/tasks/${id}/status`, {
          task_number: 13,
          task_status: 'completed',
          task_submission_tx_hash: '0xfff',
        }),
      ];
      expect(answers.map(({ status }) => status)).to.deep.equal([200, 200, 200, 200]);
      expect(answers.map(({ body }) => body.task_id)).to.deep.equal([id, id, id, id]);
      expect(answers[2]!.body.fee).to.equal(1.25);
      expect(answers[3]!.body.task_status).to.equal('completed');
      expect(rest.events.map(({ type }) => type)).to.deep.equal([
        'TASK_CREATED',
        'TASK_UPDATED',
        'TASK_UPDATED',
        'TASK_FEE_UPDATED',
        'TASK_STATUS_CHANGED',
      ]);
      const { body: task } = await rest.request('GET', `/api/tasks/${id}`, { key: ada });
      expect(task).to.deep.include({
        task_id: id,
        user_id: 'ada',
        task_number: 13,
        task_status: 'completed',
        task_opx_cost: 1.25,
        execution_timestamp: '2024-01-01T00:00:00.000Z',
        task_attester_ids: [1, 2],
        is_successful: true,
        is_accepted: true,
      });
    });

    it('are created many at once, with a result per item', async () => {
      const [first, second] = [await makeJob(), await makeJob()];
      const foreign = await makeJob('eve');
      const of = (job_id: unknown, task_definition_id: unknown = 7) => ({ job_id, task_definition_id });
      const { status, body } = await rest.request('POST', '/api/tasks', { key: ada, body: [of(first), of(second)] });
      expect(status).to.equal(201);
      expect(body.results.map((item: { job_id: string }) => item.job_id)).to.deep.equal([first, second]);
      expect(body.results[1].seq).to.equal(body.results[0].seq + 1);

      const wrong = [of(first), of(foreign), of('999999999'), of('x'), of(first, 'seven'), 'no object', of(second)];
      const summary = ({ body: { results } }: RestAnswer): unknown[] =>
        results.map((item: { error?: { code: string }; job_id: string }) => item.error?.code ?? item.job_id);
      const user = await rest.request('POST', '/api/tasks', { key: ada, body: wrong });
      expect(user.status).to.equal(207);
      const invalid = ['INVALID_REQUEST', 'INVALID_REQUEST', 'INVALID_REQUEST'];
      expect(summary(user)).to.deep.equal([first, 'ACCESS_DENIED', 'ACCESS_DENIED', ...invalid, second]);
      expect(user.body.results[4].error.details[0].field).to.equal('task_definition_id');
      // A key that sees all may write to several owners at once.
      const all = await rest.request('POST', '/api/tasks', { key: service, body: wrong });
      expect(summary(all)).to.deep.equal([first, foreign, 'NOT_FOUND', ...invalid, second]);
      expect(all.body.results.map((item: { user_id?: string }) => item.user_id)).to.include.members(['ada', 'eve']);
      expect(rest.events.filter(({ type }) => type === 'TASK_CREATED')).to.have.length(7);
    });

    it('are updated many at once, with a result per item', async () => {
      const job_id = await makeJob();
      const ids = [await makeTask(job_id), await makeTask(job_id)];
      const updates = [
        { task_id: ids[0], kind: 'fee', fee: 1.5 },
        { task_id: ids[1], kind: 'status', task_status: 'processing', task_number: 3 },
        { task_id: ids[0], kind: 'status', task_status: 'completed' },
        { task_id: ids[1], kind: 'execution', execution_tx_hash: '0xabc' },
        { task_id: ids[1], kind: 'attestation', is_successful: true },
      ];
      const all = await rest.request('PUT', '/api/tasks', { key: ada, body: updates });
      expect(all.status).to.equal(200);
      expect(all.body.results.map(({ task_id }: { task_id: number }) => task_id)).to.deep.equal(
        updates.map(({ task_id }) => task_id),
      );
      const read = async (id: number) => (await rest.request('GET', `/api/tasks/${id}`, { key: ada })).body;
      expect(await read(ids[0]!)).to.include({ task_opx_cost: 1.5, task_status: 'completed' });
      expect(await read(ids[1]!)).to.include({ task_number: 3, execution_tx_hash: '0xabc', is_successful: true });

      const wrong = [{ task_id: ids[0], kind: 'other' }, { task_id: 0, kind: 'fee', fee: 1 }, null, updates[0]];
      const some = await rest.request('PUT', '/api/tasks', { key: ada, body: wrong });
      expect(some.status).to.equal(207);
      expect(some.body.results.map((item: { error?: { code: string } }) => item.error?.code)).to.deep.equal([
        'INVALID_REQUEST',
        'INVALID_REQUEST',
        'INVALID_REQUEST',
        undefined,
      ]);
      const denied = await rest.request('PUT', '/api/tasks', { key: eve, body: updates });
      expect(denied.body.results.map((item: { error: { code: string } }) => item.error.code)).to.deep.equal(
        updates.map(() => 'ACCESS_DENIED'),
      );
      for (const body of [[], Array.from({ length: 501 }, () => updates[0]), updates[0]]) {
        expectError(await rest.request('PUT', '/api/tasks', { key: ada, body }), 400, 'INVALID_REQUEST');
      }
    });

    it('repeat the id of the path or none', async () => {
      const id = await makeTask(await makeJob());
      for (const task_id of [id, String(id)]) {
        const put = await rest.request('PUT', `/api/tasks/${id}/fee`, {
          key: ada,
          body: { task_id, fee: 2 },
        });
        expect(put.status).to.equal(200);
      }
      for (const task_id of [id + 1, 'x', null, [id], { toString: 1 }]) {
        const put = await rest.request('PUT', `/api/tasks/${id}/fee`, {
          key: ada,
          body: { task_id, fee: 3 },
        });
        expectError(put, 400, 'INVALID_REQUEST');
      }
    });

    it('of a job come in pages', async () => {
      const job_id = await makeJob();
      const ids = [await makeTask(job_id), await makeTask(job_id), await makeTask(job_id)];
      const page = async (query: string) =>
        (await rest.request('GET', `/api/tasks/job/${job_id}${query}`, { key: ada })).body;
      const first = await page('?limit=2');
      expect(first.tasks.map((task: { task_id: number }) => task.task_id)).to.deep.equal(ids.slice(0, 2));
      const second = await page(`?limit=2&after=${first.next}`);
      expect(second.tasks.map((task: { task_id: number }) => task.task_id)).to.deep.equal(ids.slice(2));
      expect(second.next).to.equal(null);
      expect((await page('')).tasks).to.have.length(3);
      for (const query of ['?limit=0', '?limit=1001', '?limit=x', '?after=-1', '?after=1e30', '?limit[]=1&limit=z']) {
        expectError(
          await rest.request('GET', `/api/tasks/job/${job_id}${query}`, { key: ada }),
          400,
          'INVALID_REQUEST',
        );
      }
    });

    it('refuse bodies and ids that are wrong, and say where', async () => {
      const id = await makeTask();
      rest.events.length = 0;
      const cases: Array<[string, string, unknown, string | undefined]> = [
        ['POST', '/api/tasks', { job_id: 1.5, task_definition_id: 1 }, 'job_id'],
        ['POST', '/api/tasks', { job_id: -1, task_definition_id: 1 }, 'job_id'],
        ['POST', '/api/tasks', { job_id: '007', task_definition_id: 1 }, 'job_id'],
        ['POST', '/api/tasks', { job_id: '1', task_definition_id: '1' }, 'task_definition_id'],
        ['POST', '/api/tasks', { job_id: '1', task_definition_id: 1, is_imua: 'yes' }, 'is_imua'],
        ['POST', '/api/tasks', [], undefined],
        ['POST', '/api/tasks', undefined, undefined],
        ['PUT', `/api/tasks/execution/${id}`, {}, undefined],
        ['PUT', `/api/tasks/execution/${id}`, { task_id: id + 1, task_opx_cost: 1 }, 'task_id'],
        ['PUT', `/api/tasks/execution/${id}`, { execution_timestamp: 'yesterday' }, 'execution_timestamp'],
        ['PUT', `/api/tasks/execution/${id}`, { proof_of_task: 'x'.repeat(65_537) }, 'proof_of_task'],
        ['PUT', `/api/tasks/execution/${id}`, { execution_tx_hash: 'a\u0000b' }, 'execution_tx_hash'],
        ['PUT', `/api/tasks/attestation/${id}`, { task_attester_ids: ['1'] }, 'task_attester_ids.0'],
        ['PUT', `/api/tasks/${id}/fee`, { fee: '1' }, 'fee'],
        ['PUT', `/api/tasks/${id}/fee`, '{"fee":1e999}', 'fee'],
        ['PUT', `/api/tasks/${id}/status`, { task_number: 1 }, 'task_status'],
        ['PUT', '/api/tasks/1.0/fee', { fee: 1 }, 'id'],
        ['PUT', '/api/tasks/99999999999999999/fee', { fee: 1 }, 'id'],
        ['GET', '/api/tasks/-1', undefined, 'id'],
        ['GET', '/api/tasks/job/01', undefined, 'job_id'],
        ['GET', '/api/tasks/%00', undefined, 'id'],
      ];
      for (const [method, path, body, field] of cases) {
        const answer = await rest.request(method, path, { key: ada, body });
        expectError(answer, 400, 'INVALID_REQUEST');
        expect(answer.body.error.details?.[0].field, `${path} ${JSON.stringify(body)?.slice(0, 80)}`).to.equal(field);
      }
      expect(rest.events).to.deep.equal([]);
    });
  });

  it('refuses whatever else stands where a value belongs', async () => {
    const job_id = await makeJob();
    const id = await makeTask(job_id);
    rest.events.length = 0;
    // Arrays that are deep are made text of by recursion.
    const deep = `${'['.repeat(20_000)}${']'.repeat(20_000)}`;
    const hostile = ['{"toString":1}', '{"toString":1,"valueOf":1}', '{"toJSON":1}', '[{"toString":1}]', deep, 'true'];
    const create = { job_id, task_definition_id: 1, is_imua: false };
    const execution = {
      task_id: id,
      task_performer_id: 4,
      execution_timestamp: '2024-01-01T00:00:00Z',
      task_error: '',
    };
    const attestation = { task_id: id, task_number: 12, task_attester_ids: [1], tx_url: '' };
    const status = { task_id: id, task_status: 'completed', task_submission_tx_hash: '0x' };
    const cases: Array<[string, string, Record<string, unknown>]> = [
      ['POST', '/api/tasks', create],
      ['PUT', `/api/tasks/execution/${id}`, execution],
      ['PUT', `/api/tasks/attestation/${id}`, attestation],
      ['PUT', `/api/tasks/${id}/fee`, { task_id: id, fee: 1 }],
      ['PUT', `/api/tasks/${id}/status`, status],
      ['POST', '/api/jobs', { job_id: '1', user_id: 'ada' }],
      ['POST', '/api/keys', { owner: 'ada', role: 'user', rate_limit: 1, name: '' }],
    ];
    for (const [method, path, good] of cases) {
      for (const field of Object.keys(good).filter((name) => name !== 'is_imua')) {
        for (const value of hostile) {
          const body = JSON.stringify({ ...good, [field]: '?' }).replace('"?"', value);
          const answer = await rest.request(method, path, { key: admin, body });
          expectError(answer, 400, 'INVALID_REQUEST');
          expect(answer.body.error.details[0].field, `${path} ${field} ${value.slice(0, 40)}`).to.match(
            new RegExp(`^${field}\\b`),
          );
        }
      }
    }
    const updates = [
      { ...execution, kind: 'execution' },
      { ...attestation, kind: 'attestation' },
      { kind: 'fee', task_id: id, fee: 1 },
      { ...status, kind: 'status' },
    ];
    for (const [method, good] of [['POST', create], ...updates.map((update) => ['PUT', update] as const)] as const) {
      for (const field of Object.keys(good).filter((name) => name !== 'is_imua')) {
        const items = hostile.map((value) => JSON.stringify({ ...good, [field]: '?' }).replace('"?"', value));
        const answer = await rest.request(method, '/api/tasks', { key: admin, body: `[${items.join()}]` });
        expect(answer.status, field).to.equal(207);
        const codes = answer.body.results.map(({ error }: { error?: { code: string } }) => error?.code);
        expect(codes, field).to.deep.equal(hostile.map(() => 'INVALID_REQUEST'));
      }
    }
    expect(rest.events).to.deep.equal([]);
  });

  describe('who may what', () => {
    it("a user is told the same of what is another's and of what does not exist", async () => {
      const job_id = await makeJob();
      const id = await makeTask(job_id);
      rest.events.length = 0;
      const calls = (task: string | number, job: string): Array<[string, string, unknown?]> => [
        ['GET', `/api/tasks/${task}`],
        ['GET', `/api/tasks/job/${job}`],
        ['POST', '/api/tasks', { job_id: job, task_definition_id: 1 }],
        ['PUT', `/api/tasks/execution/${task}`, { task_opx_cost: 1 }],
        ['PUT', `/api/tasks/attestation/${task}`, { is_successful: true }],
        ['PUT', `/api/tasks/${task}/fee`, { fee: 1 }],
        ['PUT', `/api/tasks/${task}/status`, { task_status: 'failed' }],
      ];
      const missing = calls('9007199254740991', '123456789123456789');
      for (const [index, [method, path, body]] of calls(id, job_id).entries()) {
        const others = await rest.request(method, path, { key: eve, body });
        expectError(others, 403, 'ACCESS_DENIED');
        const [, nowhere, nothing] = missing[index]!;
        expect((await rest.request(method, nowhere, { key: eve, body: nothing })).body).to.deep.equal(others.body);
        const answer = await rest.request(method, nowhere, { key: service, body: nothing });
        expectError(answer, 404, 'NOT_FOUND');
      }
      expect(rest.events).to.deep.equal([]);
    });

    it('a user makes jobs of its own with ids that are made here, other keys say which and whose', async () => {
      const post = (key: string, body: unknown) => rest.request('POST', '/api/jobs', { key, body });
      const [a, b] = [nextJob++, nextJob++].map(String);
      const own = (await post(ada, {})).body;
      expect(own).to.include({ user_id: 'ada' });
      expect(own.job_id).to.match(/^\d{30,39}$/);
      expect((await post(ada, { user_id: 'ada' })).body.job_id).to.not.equal(own.job_id);
      const chosen = await post(ada, { job_id: a });
      expectError(chosen, 400, 'INVALID_REQUEST');
      expect(chosen.body.error.details[0].field).to.equal('job_id');
      expectError(await post(ada, { user_id: 'eve' }), 403, 'ACCESS_DENIED');
      expectError(await post(service, { job_id: a }), 400, 'INVALID_REQUEST');
      expectError(await post(service, { job_id: a, user_id: 'no spaces' }), 400, 'INVALID_REQUEST');
      expect((await post(service, { job_id: b, user_id: 'newcomer' })).body).to.include({ user_id: 'newcomer' });
      expectError(await post(service, { job_id: b, user_id: 'newcomer' }), 409, 'ALREADY_EXISTS');
      expectError(await post(service, { job_id: b, user_id: 'ada' }), 409, 'OWNER_MISMATCH');
    });

    it('a write under a key is made once, for each owner and item', async () => {
      const job_id = await makeJob();
      rest.events.length = 0;
      const headers = { 'idempotency-key': 'order-1' };
      const send = (method: string, path: string, body: unknown, key = ada, more: Record<string, string> = headers) =>
        rest.request(method, path, { key, body, headers: more });
      const create = { job_id, task_definition_id: 7 };
      const first = await send('POST', '/api/tasks', create);
      const again = await send('POST', '/api/tasks', create);
      expect([first.status, again.status]).to.deep.equal([201, 201]);
      expect(again.body).to.deep.equal(first.body);
      expectError(await send('POST', '/api/tasks', { job_id, task_definition_id: 8 }), 409, 'IDEMPOTENCY_MISMATCH');
      expectError(await send('PUT', `/api/tasks/${first.body.task_id}/fee`, { fee: 1 }), 409, 'IDEMPOTENCY_MISMATCH');
      expect((await send('POST', '/api/tasks', create, service)).body.task_id).to.not.equal(first.body.task_id);
      const many = [create, { ...create, idempotency_key: 'mine' }, { ...create, idempotency_key: 'mine' }];
      const bulk = await send('POST', '/api/tasks', many, ada, { 'idempotency-key': 'bulk' });
      const ids = bulk.body.results.map(({ task_id }: { task_id: number }) => task_id);
      expect(new Set(ids).size).to.equal(2);
      const other = await send('POST', '/api/tasks', many, ada, { 'idempotency-key': 'bulk' });
      expect(other.body).to.deep.equal(bulk.body);
      expect(rest.events.map(({ type }) => type)).to.deep.equal(Array(4).fill('TASK_CREATED'));
      expectError(await send('POST', '/api/tasks', create, ada, { 'idempotency-key': 'a b' }), 400, 'INVALID_REQUEST');
      const jobs = [await send('POST', '/api/jobs', {}), await send('POST', '/api/jobs', {})];
      expect(jobs[1]!.body).to.deep.equal(jobs[0]!.body);
    });

    it('a write under a key is answered again when its task is gone since, to whoever made it', async () => {
      const [job_id, id, other] = [await makeJob(), await makeTask(), await makeTask()];
      const headers = { 'idempotency-key': `gone-${id}` };
      // Once it is gone another instance is asked, which has never heard of it.
      const another = new RestServer(connectDatabase({ url, pool: 2 }));
      await another.start();
      let asked = rest;
      const put = (path: string, body: unknown, key = ada, more: Record<string, string> = headers) =>
        asked.request('PUT', path, { key, body, headers: more });
      const fee = await put(`/api/tasks/${id}/fee`, { fee: 5 });
      const items = [
        { kind: 'fee', task_id: id, fee: 6 },
        { kind: 'fee', task_id: other, fee: 7 },
      ];
      const bulk = await put('/api/tasks', items, ada, { 'idempotency-key': `bulk-${id}` });
      const remove = { key: service, headers: { 'idempotency-key': `delete-${id}` } };
      const gone = await rest.request('DELETE', `/api/tasks/${id}`, remove);
      expect([fee.status, bulk.status, gone.status]).to.deep.equal([200, 200, 200]);
      rest.events.length = 0;
      asked = another;
      expect((await put(`/api/tasks/${id}/fee`, { fee: 5 })).body).to.deep.equal(fee.body);
      expect((await put('/api/tasks', items, ada, { 'idempotency-key': `bulk-${id}` })).body).to.deep.equal(bulk.body);
      expect((await asked.request('DELETE', `/api/tasks/${id}`, remove)).body).to.deep.equal(gone.body);
      expectError(await put(`/api/tasks/${id}/fee`, { fee: 8 }), 409, 'IDEMPOTENCY_MISMATCH');
      // Another key's, or under another key, it is what it is without.
      expectError(await put(`/api/tasks/${id}/fee`, { fee: 5 }, eve), 403, 'ACCESS_DENIED');
      const fresh = await put(`/api/tasks/${id}/fee`, { fee: 5 }, ada, { 'idempotency-key': 'new' });
      expectError(fresh, 403, 'ACCESS_DENIED');
      const denied = await put('/api/tasks', [items[1]], eve, { 'idempotency-key': `bulk-${id}` });
      expect(denied.body.results[0].error.code).to.equal('ACCESS_DENIED');
      expectError(
        await put(`/api/tasks/${other}/fee`, { fee: 9 }, eve, { 'idempotency-key': 'e' }),
        403,
        'ACCESS_DENIED',
      );
      const create = { job_id, task_definition_id: 1 };
      const post = { key: ada, body: create, headers: { 'idempotency-key': `create-${id}` } };
      const made = await rest.request('POST', '/api/tasks', post);
      await db.raw('DELETE FROM tasks WHERE job_id = ?', [job_id]);
      await db.raw('DELETE FROM jobs WHERE job_id = ?', [job_id]);
      expect((await asked.request('POST', '/api/tasks', post)).body).to.deep.equal(made.body);
      await another.stop();
      expect([...rest.events, ...another.events].map(({ type }) => type)).to.deep.equal(['TASK_CREATED']);
    });

    it('a task is deleted by keys that see all, and by no user', async () => {
      const id = await makeTask();
      rest.events.length = 0;
      const path = `/api/tasks/${id}`;
      expectError(await rest.request('DELETE', path, { key: ada }), 403, 'ACCESS_DENIED');
      const { status, body } = await rest.request('DELETE', path, { key: service });
      expect([status, body.task_id, typeof body.seq]).to.deep.equal([200, id, 'number']);
      expect(rest.events.map(({ type, seq }) => [type, seq])).to.deep.equal([['TASK_DELETED', body.seq]]);
      expectError(await rest.request('DELETE', path, { key: service }), 404, 'NOT_FOUND');
      expectError(await rest.request('GET', path, { key: service }), 404, 'NOT_FOUND');
    });

    it('keys are checked before anything is read', async () => {
      expectError(await rest.request('GET', '/api/tasks/1'), 401, 'MISSING_API_KEY');
      const bad = `tw_${'x'.repeat(43)}`;
      expectError(await rest.request('POST', '/api/tasks', { key: bad, body: '{' }), 401, 'INVALID_API_KEY');
      const inQuery = await rest.request('GET', `/api/tasks/1?api_key=${eve}`);
      expectError(inQuery, 401, 'MISSING_API_KEY');
      expect(inQuery.body.error.message).to.contain('send the header X-Api-Key');
      const beside = await rest.request('GET', `/api/tasks/${await makeTask()}?api_key=${eve}`, { key: ada });
      expect(beside.status, 'a query is not read').to.equal(200);
    });

    it('an admin makes, lists and disables keys', async () => {
      expectError(await rest.request('GET', '/api/keys', { key: service }), 403, 'ACCESS_DENIED');
      expectError(await rest.request('POST', '/api/keys', { key: ada, body: { owner: 'ada' } }), 403, 'ACCESS_DENIED');
      const body = { owner: 'bob', name: 'laptop' };
      const { status, body: made } = await rest.request('POST', '/api/keys', { key: admin, body });
      expect(status).to.equal(201);
      expect(made).to.include({ owner: 'bob', role: 'user', rate_limit: 120, name: 'laptop', active: true });
      expectError(await rest.request('GET', '/api/tasks/1', { key: made.key }), 403, 'ACCESS_DENIED');
      const list = await rest.request('GET', '/api/keys', { key: admin });
      expect(JSON.stringify(list.body)).to.include(made.key_id).and.not.include(made.key);

      const path = `/api/keys/${made.key_id}`;
      expectError(await rest.request('DELETE', path, { key: ada }), 403, 'ACCESS_DENIED');
      const gone = await rest.request('DELETE', path, { key: admin });
      expect(gone.body).to.deep.equal({ key_id: made.key_id, active: false });
      expect(rest.revoked).to.deep.equal([made.key_id]);
      expectError(await rest.request('GET', '/api/tasks/1', { key: made.key }), 401, 'INACTIVE_API_KEY');
      for (const id of ['nokey', '%00', 'x'.repeat(500)]) {
        expectError(await rest.request('DELETE', `/api/keys/${id}`, { key: admin }), 404, 'NOT_FOUND');
      }
      for (const wrong of [
        {},
        { owner: 'a b' },
        { owner: 'bob', role: 'god' },
        { owner: 'bob', rate_limit: 0 },
        { owner: 'bob', name: '\u0000' },
      ]) {
        expectError(await rest.request('POST', '/api/keys', { key: admin, body: wrong }), 400, 'INVALID_REQUEST');
      }
    });

    it('a change of a key is made and told as a whole: it takes one statement', async () => {
      const made = (await rest.request('POST', '/api/keys', { key: admin, body: { owner: 'bob' } })).body;
      const path = `/api/keys/${made.key_id}`;
      const list = rest.apiKeys.list;
      // The database goes away in the middle.
      rest.apiKeys.list = () => Promise.reject(new Error('away'));
      try {
        const { status, body } = await rest.request('PUT', path, {
          key: admin,
          body: { active: false, rate_limit: 7 },
        });
        expect({ status, ...body }).to.include({ status: 200, key_id: made.key_id, active: false, rate_limit: 7 });
        expect(rest.revoked).to.include(made.key_id);
        const disabled = await rest.request('PUT', path, { key: admin, body: { active: false } });
        expect(disabled.body).to.deep.equal(body);
      } finally {
        rest.apiKeys.list = list;
      }
      const enabled = await rest.request('PUT', path, { key: admin, body: { active: true } });
      expect(enabled.body).to.include({ active: true, rate_limit: 7 });
      expectError(
        await rest.request('PUT', path, { key: admin, body: { rate_limit: 2 ** 40 } }),
        400,
        'INVALID_REQUEST',
      );
      expectError(
        await rest.request('PUT', '/api/keys/nokey', { key: admin, body: { active: false } }),
        404,
        'NOT_FOUND',
      );
    });

    it('each item of a batch is one of them, and a batch that is refused is none', async () => {
      const key = await rest.makeKey('ada', 'user', 5);
      const job_id = await makeJob();
      const batch = (items: number) => {
        const item = { job_id, task_definition_id: 1 };
        return rest.request('POST', '/api/tasks', { key, body: Array.from({ length: items }, () => item) });
      };
      const left = (answer: RestAnswer): string | null => answer.headers.get('x-ratelimit-remaining');
      const first = await batch(3);
      expect([first.status, left(first)]).to.deep.equal([201, '2']);
      const more = await batch(3);
      expectError(more, 429, 'RATE_LIMIT_EXCEEDED');
      expect(left(more)).to.equal('1');
      expectError(await batch(6), 400, 'INVALID_REQUEST');
      expectError(await batch(1), 429, 'RATE_LIMIT_EXCEEDED');
    });

    it('a key has so many requests', async () => {
      const key = await rest.makeKey('ada', 'user', 2);
      const first = await rest.request('GET', '/api/tasks/job/404', { key });
      expect(first.headers.get('x-ratelimit-limit')).to.equal('2');
      expect(first.headers.get('x-ratelimit-remaining')).to.equal('1');
      await rest.request('GET', '/api/tasks/job/404', { key });
      const third = await rest.request('GET', '/api/tasks/job/404', { key });
      expectError(third, 429, 'RATE_LIMIT_EXCEEDED');
      expect(third.headers.get('x-ratelimit-remaining')).to.equal('0');
      expect(third.headers.get('retry-after')).to.equal('30');
      expect(Number(third.headers.get('x-ratelimit-reset'))).to.be.greaterThan(Date.now() / 1_000);
    });
  });

  describe('the protocol', () => {
    it('knows JSON only, of a size', async () => {
      const post = (body: string, headers: Record<string, string> = {}) =>
        rest.request('POST', '/api/tasks', { key: ada, body, headers });
      expectError(await post('{"job_id":'), 400, 'INVALID_REQUEST');
      expectError(await post('"text"'), 400, 'INVALID_REQUEST');
      expectError(await post('{}', { 'content-type': 'text/plain' }), 415, 'UNSUPPORTED_MEDIA_TYPE');
      for (const charset of ['klingon', 'utf-16', 'iso-8859-1']) {
        const answer = await post('{}', { 'content-type': `application/json; charset=${charset}` });
        expectError(answer, 415, 'UNSUPPORTED_MEDIA_TYPE');
        expect(answer.body.error.message).to.equal('The body must be in UTF-8');
      }
      expectError(await post('{}', { 'content-encoding': 'snappy' }), 415, 'UNSUPPORTED_MEDIA_TYPE');
      expectError(await post(JSON.stringify({ x: 'x'.repeat(200_001) })), 413, 'PAYLOAD_TOO_LARGE');
      expectError(await post(`{"job_id":${'['.repeat(90_000)}${']'.repeat(90_000)}}`), 400, 'INVALID_REQUEST');
      expectError(await post('{"__proto__":{"job_id":"1","task_definition_id":1}}'), 400, 'INVALID_REQUEST');
    });

    it('writes nothing of a body that is not UTF-8', async () => {
      const id = await makeTask();
      const put = async (body: Uint8Array): Promise<Response> =>
        fetch(`http://127.0.0.1:${rest.port}/api/tasks/execution/${id}`, {
          method: 'PUT',
          headers: { 'x-api-key': ada, 'content-type': 'application/json' },
          body,
        });
      const text = '{"task_error":"\u00fc"}';
      const refused = await put(Buffer.from(text, 'latin1'));
      expect(refused.status).to.equal(400);
      expect(((await refused.json()) as { error: object }).error).to.include({
        code: 'INVALID_REQUEST',
        message: 'The body is not valid UTF-8',
      });
      const read = async () => (await rest.request('GET', `/api/tasks/${id}`, { key: ada })).body.task_error;
      expect(await read()).to.equal(null);
      expect((await put(Buffer.from(text))).status).to.equal(200);
      expect(await read()).to.equal('\u00fc');
    });

    it('knows its paths and methods', async () => {
      for (const path of ['/', '/api', '/api/task', '/api/ws', '/api/tasks/1/2/3', '/%']) {
        const answer = await rest.request('GET', path);
        expect(answer.status, path).to.be.oneOf([400, 404]);
        expect(answer.body.error.code).to.be.oneOf(['NOT_FOUND', 'INVALID_REQUEST']);
      }
      const wrong = await rest.request('PUT', '/api/tasks/1');
      expectError(wrong, 405, 'METHOD_NOT_ALLOWED');
      expect(wrong.headers.get('allow')).to.equal('GET, HEAD, DELETE, OPTIONS');
      expect((await rest.request('GET', '/api/tasks')).headers.get('allow')).to.equal('POST, PUT, OPTIONS');
      expect((await rest.request('OPTIONS', '/api/tasks')).status).to.equal(204);
      expect((await rest.request('HEAD', `/api/tasks/${await makeTask()}`, { key: ada })).status).to.equal(200);
      expect((await rest.request('GET', '/api/ws/tasks')).body.error.message).to.match(/WebSocket/);
    });

    it('gives each request an id and says no more than it must', async () => {
      const given = await rest.request('GET', '/nowhere', { headers: { 'x-request-id': 'trace-1' } });
      expect(given.headers.get('x-request-id')).to.equal('trace-1');
      const made = await rest.request('GET', '/nowhere', { headers: { 'x-request-id': 'a b<c>' } });
      expect(made.headers.get('x-request-id')).to.match(/^[0-9a-f-]{36}$/);
      expect(made.headers.has('x-powered-by')).to.equal(false);
      expect(made.headers.get('cache-control')).to.equal('no-store');
    });

    it('lets pages of allowed origins in and no others', async () => {
      const from = (origin: string, method: string, headers: Record<string, string> = {}) =>
        rest.request(method, '/api/tasks', { headers: { origin, ...headers } });
      rest.refused.length = 0;
      expectError(await from('https://evil.example', 'GET'), 403, 'ORIGIN_NOT_ALLOWED');
      expect(rest.refused.map(({ code, address, reason }) => [code, address, reason])).to.deep.equal([
        ['ORIGIN_NOT_ALLOWED', '127.0.0.1', 'Origin not allowed: add https://evil.example to ALLOWED_ORIGINS'],
      ]);
      const asked = await from('https://app.example.com', 'OPTIONS', { 'access-control-request-method': 'POST' });
      expect(asked.status).to.equal(204);
      for (const name of ['X-Api-Key', 'Authorization', 'Content-Type', 'Idempotency-Key', 'Last-Event-ID']) {
        expect(asked.headers.get('access-control-allow-headers')).to.include(name);
      }
      const answered = await from('https://app.example.com', 'GET');
      expect(answered.headers.get('access-control-allow-origin')).to.equal('https://app.example.com');
      expect(answered.headers.get('vary')).to.include('Origin');
    });

    it('completes a write whose caller goes away', async () => {
      const id = await makeTask();
      const other = connectDatabase({ url, pool: 2 });
      const lock = await other.transaction();
      try {
        await lock.raw("SELECT FROM event_streams WHERE user_id = 'ada' FOR UPDATE");
        const socket = connect(rest.port, '127.0.0.1');
        const body = JSON.stringify({ fee: 99 });
        socket.write(
          `PUT /api/tasks/${id}/fee HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: ${ada}\r\n` +
            `Content-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
        );
        await eventually(async () => {
          const { rows } = await other.raw(
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
          );
          expect(rows).to.have.length(1);
        });
        socket.resetAndDestroy();
        await once(socket, 'close');
      } finally {
        await lock.commit();
        await other.destroy();
      }
      await eventually(async () => {
        const { body: task } = await rest.request('GET', `/api/tasks/${id}`, { key: ada });
        expect(task.task_opx_cost).to.equal(99);
      });
    });
  });

  describe('health and statistics', () => {
    it('tell of the cluster', async () => {
      rest.rooms.set('job:1', 2).set('task:1', 1);
      const health = await rest.request('GET', '/api/ws/health');
      expect(health.status).to.equal(200);
      expect(health.body).to.deep.include({
        status: 'healthy',
        websocket: { active_connections: 3, active_rooms: 2 },
        components: { database: 'up', broker: 'up' },
      });
      expect(health.body.timestamp).to.be.closeTo(Date.now() / 1_000, 5);
      expect((await rest.request('GET', '/api/ws/stats')).body).to.deep.equal({
        status: 'success',
        data: {
          total_clients: 3,
          total_rooms: 2,
          rooms: { 'job:1': 2, 'task:1': 1 },
          messages: rest.messages,
          nodes: 1,
          partial: false,
        },
      });
      const one = await rest.request('GET', '/api/ws/stats?room=task:1');
      expect(one.body.data).to.deep.include({ total_rooms: 2, rooms: { 'task:1': 1 } });
      expectError(await rest.request('GET', '/api/ws/stats?room=x'), 400, 'INVALID_ROOM');
    });

    it('name the largest rooms when there are many', async () => {
      for (let index = 0; index < 1_500; index += 1) {
        rest.rooms.set(`task:${index + 10}`, index);
      }
      const { data } = (await rest.request('GET', '/api/ws/stats')).body;
      expect(data).to.include({ total_rooms: 1_502, rooms_truncated: true });
      expect(Object.keys(data.rooms)).to.have.length(1_000);
      expect(Object.keys(data.rooms)[0]).to.equal('task:1509');
      rest.rooms.clear();
    });

    it('are there as metrics for Prometheus', async () => {
      rest.rooms.set('job:1', 2).set('task:1', 1);
      const { status, headers, body } = await rest.request('GET', '/metrics');
      rest.rooms.clear();
      expect(status).to.equal(200);
      expect(headers.get('content-type')).to.equal('text/plain; version=0.0.4; charset=utf-8');
      const samples = String(body)
        .split('\n')
        .filter((line) => !line.startsWith('#'));
      expect(samples).to.deep.equal([
        'taskwire_connections 3',
        'taskwire_rooms 2',
        'taskwire_workers 1',
        'taskwire_events_total{worker="n1"} 7',
        'taskwire_deliveries_total{worker="n1"} 21',
        'taskwire_duplicates_total{worker="n1"} 1',
        'taskwire_repairs_total{worker="n1"} 2',
        'taskwire_captured_total{worker="n1"} 4',
        'taskwire_resets_total{worker="n1"} 0',
        'taskwire_published_total{worker="n1"} 9',
        'taskwire_publish_failures_total{worker="n1"} 3',
        '',
      ]);
      for (const sample of samples.filter((line) => line !== '')) {
        const [name] = /^\w+/.exec(sample)!;
        const type = name.endsWith('_total') ? 'counter' : 'gauge';
        expect(body).to.match(new RegExp(`# HELP ${name} \\S.*\\n# TYPE ${name} ${type}\\n${name}\\b`));
      }
    });

    it('statistics and metrics are for direct callers on this machine, and for keys that see all', async () => {
      const signs: Array<Record<string, string>> = [
        { 'x-forwarded-for': '127.0.0.1' },
        { forwarded: 'for=::1' },
        { origin: 'https://app.example.com' },
      ];
      for (const path of ['/api/ws/stats', '/metrics']) {
        for (const headers of signs) {
          const ask = (key?: string) => rest.request('GET', path, { key, headers });
          expectError(await ask(), 401, 'MISSING_API_KEY');
          expectError(await ask(ada), 403, 'ACCESS_DENIED');
          expect((await ask(service)).status).to.equal(200);
          expect((await ask(admin)).status).to.equal(200);
        }
      }
    });

    it('say what is down, and 503 only when no work is taken', async () => {
      rest.broker.up = false;
      const degraded = await rest.request('GET', '/api/ws/health');
      expect(degraded.status).to.equal(200);
      expect(degraded.body).to.deep.include({ status: 'degraded', components: { database: 'up', broker: 'down' } });
      rest.broker.up = true;
      for (const readiness of ['starting', 'draining'] as const) {
        rest.readiness = readiness;
        const answer = await rest.request('GET', '/api/ws/health');
        expect(answer.status).to.equal(503);
        expect(answer.body.status).to.equal(readiness);
      }
      rest.readiness = 'ready';
    });
  });
});

describeWith(POSTGRES_PROGRAMS, 'REST without its database', function () {
  this.timeout(60_000);

  it('says that it will pass, and goes on when it has', async () => {
    const postgres = await startPostgres();
    const rest = new RestServer(connectDatabase({ url: await postgres.createDatabase(), pool: 4 }));
    try {
      await rest.start();
      const key = await rest.makeKey('ada');
      const { job_id } = (await rest.request('POST', '/api/jobs', { key, body: {} })).body;
      const write = () => rest.request('POST', '/api/tasks', { key, body: { job_id, task_definition_id: 1 } });
      expect((await write()).status).to.equal(201);
      await postgres.halt('immediate');
      const answer = await write();
      expectError(answer, 503, 'DATABASE_UNAVAILABLE');
      expect(answer.headers.get('retry-after')).to.equal('1');
      await eventually(async () => {
        const health = await rest.request('GET', '/api/ws/health');
        expect(health.body).to.deep.include({ status: 'degraded', components: { database: 'down', broker: 'up' } });
      });
      await postgres.start();
      await eventually(async () => expect((await write()).status).to.equal(201));
    } finally {
      await rest.stop();
      await postgres.stop();
    }
  });

  it('gives a batch up with the first owner whose items find no database', async () => {
    const postgres = await startPostgres();
    const url = await postgres.createDatabase();
    const proxy = await startTcpProxy({ port: postgres.port });
    const db = connectDatabase({ url: url.replace(`:${postgres.port}/`, `:${proxy.port}/`), pool: 4 });
    const rest = new RestServer(db);
    try {
      await rest.start();
      const key = await rest.makeKey('scheduler', 'service');
      const body = Array.from({ length: 20 }, (_, job) => ({ job_id: String(job), task_definition_id: 1 }));
      for (const { job_id } of body) {
        await rest.request('POST', '/api/jobs', { key, body: { job_id, user_id: `user_${job_id}` } });
      }
      const statements = new Statements(db);
      /** Sends the batch; the database is away from a statement on, counted from 1. */
      const send = (outage: number) => {
        statements.count = 0;
        statements.before = (count) => count === outage && proxy.setMode('refuse');
        return rest.request('POST', '/api/tasks', { key, body });
      };

      const none = await send(1);
      expectError(none, 503, 'DATABASE_UNAVAILABLE');
      expect(none.headers.get('retry-after')).to.equal('1');
      expect(statements.count).to.equal(1);

      proxy.setMode('pass');
      // The first asks for the owners, the others write the items of one each.
      const some = await send(4);
      expect(some.status).to.equal(207);
      expect(statements.count).to.equal(4);
      const results = some.body.results as Array<{ seq?: number; error?: { code: string } }>;
      expect(results.map(({ seq, error }) => seq ?? error!.code)).to.deep.equal([
        ...Array(2).fill(1),
        ...Array(18).fill('DATABASE_UNAVAILABLE'),
      ]);

      proxy.setMode('pass');
      const all = await send(0);
      expect([all.status, statements.count]).to.deep.equal([201, 21]);
    } finally {
      await rest.stop();
      await proxy.stop();
      await postgres.stop();
    }
  });
});
