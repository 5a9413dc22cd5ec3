import { once } from 'node:events';
import { expect } from 'chai';
import type { Knex } from 'knex';
import { connectDatabase } from '../../src/database/connect-database.js';
import { ApiKeyRepository } from '../../src/repository/api-key-repository.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import type { TaskWrite } from '../../src/repository/write-runner.js';
import { EventStream, type EventStreamOptions } from '../support/event-stream.js';
import { eventually } from '../support/eventually.js';
import { PlainClient } from '../support/plain-client.js';
import { embeddedForTest, InProcessServer } from '../support/task-server.js';

/** Tasks whose events are more than a connection may have waiting. */
const FLOOD = 200;

describe('streams over HTTP', function () {
  this.timeout(60_000);
  let database: Awaited<ReturnType<typeof embeddedForTest>>;
  let db: Knex;
  let apiKeys: ApiKeyRepository;
  let tasks: TaskRepository;
  let server: InProcessServer;
  let ada: string;
  let eve: string;
  let job: string;
  let task: number;
  let nextJob = 1;
  const opened: Array<{ close(): void }> = [];
  const servers: InProcessServer[] = [];

  before(async () => {
    database = await embeddedForTest();
    db = connectDatabase({ url: database.url, pool: 2 });
    apiKeys = new ApiKeyRepository(db);
    tasks = new TaskRepository(db, { publish() {} });
    [ada, eve] = (await Promise.all(['ada', 'eve'].map((owner) => apiKeys.create({ owner, rate_limit: 100_000 })))).map(
      ({ key }) => key,
    ) as [string, string];
    server = await start({ TOKEN_SECRET: 's'.repeat(32) });
  });

  after(async () => {
    await Promise.all(servers.map((started) => started.stop()));
    await db?.destroy();
    await database?.stop();
  });

  beforeEach(async () => {
    job = String(nextJob++);
    await new JobRepository(db).create({ job_id: job, user_id: 'ada' });
    task = (await tasks.createTaskData({ job_id: job, task_definition_id: 1 })).task_id;
  });

  afterEach(() => {
    for (const client of opened.splice(0)) {
      client.close();
    }
  });

  async function start(environment: Readonly<Record<string, string>> = {}): Promise<InProcessServer> {
    const started = new InProcessServer(database.url, { RECONCILE_IDLE_MS: '20', ...environment });
    await started.start();
    servers.push(started);
    return started;
  }

  const pathOf = (room: string): string => {
    const [kind, id] = room.split(':');
    return `/api/${kind}s/${id}/events`;
  };

  function stream(
    query = '',
    {
      room = `job:${job}`,
      to = server,
      key = ada,
      ...options
    }: EventStreamOptions & { room?: string; to?: InProcessServer; key?: string } = {},
  ): EventStream {
    const headers = { 'x-api-key': key, ...options.headers };
    const client = new EventStream(`${to.url}${pathOf(room)}${query}`, { ...options, headers });
    opened.push(client);
    return client;
  }

  const ndjson = (query = '', headers: Record<string, string> = {}): Promise<Response> =>
    fetch(`${server.url}${pathOf(`job:${job}`)}${query}`, {
      headers: { accept: 'application/x-ndjson', 'x-api-key': ada, ...headers },
    });

  /** The first messages of an answer, which is then left. */
  async function linesOf(response: Response, count: number): Promise<Array<Record<string, unknown>>> {
    const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
    let text = '';
    while (text.split('\n').length <= count) {
      const { done, value } = await reader.read();
      if (done) {
        break;
      }
      text += value;
    }
    await reader.cancel();
    return text
      .split('\n')
      .filter((line) => line !== '')
      .slice(0, count)
      .map((line) => JSON.parse(line));
  }

  it('begin with a snapshot, say when they are live, and bring the same messages as a WebSocket', async () => {
    const plain = new PlainClient(`${server.url}/api/ws/tasks?api_key=${ada}`);
    opened.push(plain.socket);
    await once(plain.socket, 'open');
    plain.send({ type: 'SUBSCRIBE', data: { room: `job:${job}` }, request_id: '1' });
    await plain.answer('1');

    const sse = stream();
    const { seq, epoch } = await sse.live();
    expect(sse.headers).to.include({ 'x-accel-buffering': 'no', 'cache-control': 'no-store, no-transform' });
    expect(sse.headers['content-type']).to.equal('text/event-stream; charset=utf-8');
    expect(sse.messages.map(({ type }) => type)).to.deep.equal(['JOB_TASKS_SNAPSHOT', 'SUCCESS']);
    expect(sse.messages[0].data.tasks.map((row: TaskWrite) => row.task_id)).to.deep.equal([task]);
    expect(sse.lastEventId).to.equal(`${epoch}-${seq}`);
    expect(sse.retryMs).to.be.within(1_000, 2_000);

    await tasks.updateTaskFee(task, 1);
    const last = await tasks.updateTaskExecutionData(task, { task_error: 'ends\n\r\u2028\n\ndata: "\\' });
    await eventually(() => expect(sse.lastEventId).to.equal(`${epoch}-${last.seq}`));
    const events = (texts: readonly string[]) => texts.filter((text) => /^\{"type":"TASK_/.test(text));
    await eventually(() => expect(events(plain.texts)).to.have.length(2));
    expect(events(sse.texts)).to.deep.equal(events(plain.texts));

    const lines = await linesOf(await ndjson(`?since=${seq}&epoch=${epoch}`), 3);
    expect(lines.slice(0, 2).map((line) => JSON.stringify(line))).to.deep.equal(
      events(plain.texts).map((text) => JSON.stringify(JSON.parse(text))),
    );
    expect(lines[2]).to.deep.include({ type: 'SUCCESS' });
  });

  it('are of a task and of a user too', async () => {
    for (const [room, type] of [
      [`task:${task}`, 'TASK_SNAPSHOT'],
      ['user:ada', 'USER_TASKS_SNAPSHOT'],
    ] as const) {
      const client = stream('', { room });
      await client.live();
      expect(client.messages[0].type, room).to.equal(type);
      const { seq } = await tasks.updateTaskFee(task, 3);
      await client.find((message) => message.seq === seq && message.type === 'TASK_FEE_UPDATED');
    }
    const quiet = stream('?snapshot=false');
    await quiet.live();
    expect(quiet.messages).to.have.length(1);
  });

  it('go on after the last id, whether a client gives it back or says where it stands', async () => {
    const first = stream();
    const { seq, epoch } = await first.live();
    first.close();
    const writes = [await tasks.updateTaskFee(task, 1), await tasks.updateTaskFee(task, 2)];
    const missed = writes.map((write) => write.seq);

    // What the header says is newer than the address, which a browser asks for again.
    for (const [query, headers] of [
      [`?since=${seq}&epoch=${epoch}`, {}],
      ['', { 'last-event-id': `${epoch}-${seq}` }],
      [`?since=${seq + 1}&epoch=${epoch}`, { 'last-event-id': `${epoch}-${seq}` }],
    ] as const) {
      const again = stream(query, { headers });
      expect(await again.live()).to.include({ recovered: true });
      await eventually(() => expect(again.seqs).to.deep.equal(missed));
      expect(again.messages.map((message) => message.type)).to.not.include('JOB_TASKS_SNAPSHOT');
    }
  });

  it('may be asked for by pages of other sites, with the last id', async () => {
    const origin = 'https://app.example.com';
    const asked = await fetch(`${server.url}${pathOf(`job:${job}`)}`, {
      method: 'OPTIONS',
      headers: { origin, 'access-control-request-method': 'GET', 'access-control-request-headers': 'last-event-id' },
    });
    expect(asked.headers.get('access-control-allow-headers')).to.include('Last-Event-ID');
    const client = stream('', { headers: { origin } });
    await client.live();
    expect(client.headers['access-control-allow-origin']).to.equal(origin);
    expect(client.headers.vary).to.include('Origin').and.include('Accept');
  });

  it('say what cannot be recovered, and bring a snapshot instead', async () => {
    const { epoch } = await stream().live();
    for (const query of [`?since=999999&epoch=${epoch}`, '?since=0&epoch=another']) {
      const client = stream(query);
      expect(await client.live(), query).to.include({ recovered: false });
      expect(client.messages[0].type, query).to.equal('JOB_TASKS_SNAPSHOT');
    }
    const odd = stream('', { headers: { 'last-event-id': 'of another server' } });
    await odd.live();
    expect(odd.messages[0].type).to.equal('JOB_TASKS_SNAPSHOT');
  });

  it('come back by themselves when a stream of another epoch takes their place', async () => {
    const client = stream('', { reconnects: true });
    await client.live();
    await db.raw(`UPDATE event_streams SET epoch = 'renewed' WHERE user_id = 'ada'`);
    await client.find(({ type, data }) => type === 'ERROR' && data.code === 'STREAM_RESET');
    await client.find(({ type, data }) => type === 'SUCCESS' && data.data.epoch === 'renewed');
    expect(client.connections).to.equal(2);
    expect(client.messages.filter(({ type }) => type === 'JOB_TASKS_SNAPSHOT')).to.have.length(2);
  });

  it('bring some types only, and end after some events when they are asked to', async () => {
    const { seq } = await tasks.updateTaskFee(task, 1);
    await tasks.updateTaskNumberAndStatus(task, 1, 'done');
    await tasks.updateTaskFee(task, 2);
    const fees = stream(`?since=${seq! - 1}&types=TASK_FEE_UPDATED`);
    await eventually(() => expect(fees.seqs).to.deep.equal([seq, seq! + 2]));

    const two = stream(`?since=${seq! - 1}&limit=2`);
    await two.ended();
    expect(two.seqs).to.deep.equal([seq, seq! + 1]);

    const next = ndjson('?snapshot=false&types=TASK_FEE_UPDATED&limit=1');
    const response = await next;
    await tasks.updateTaskNumberAndStatus(task, 2, 'again');
    const write = await tasks.updateTaskFee(task, 3);
    const lines = (await response.text())
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(lines.map(({ type }) => type)).to.deep.equal(['SUCCESS', 'TASK_FEE_UPDATED']);
    expect(lines[1].seq).to.equal(write.seq);
  });

  it('are refused as other requests are', async () => {
    for (const [options, status, code] of [
      [{ key: eve }, 403, 'ACCESS_DENIED'],
      [{ room: 'job:31337' }, 403, 'ACCESS_DENIED'],
      [{ headers: { 'x-api-key': '' } }, 401, 'MISSING_API_KEY'],
      [{ room: 'job:01' }, 400, 'INVALID_REQUEST'],
      [{ room: 'task:x' }, 400, 'INVALID_REQUEST'],
    ] as const) {
      const client = stream('', options);
      await client.ended();
      expect({ status: client.status, code: client.refusal.error.code }, JSON.stringify(options)).to.deep.equal({
        status,
        code,
      });
    }
    for (const query of ['?since=x', '?types=NOPE', '?limit=0', '?snapshot=maybe']) {
      const client = stream(query);
      await client.ended();
      expect(client.refusal.error, query).to.include({ code: 'INVALID_REQUEST' });
    }
    expect((await ndjson('', { 'x-api-key': eve })).status).to.equal(403);
  });

  it('take a token in the address, as a browser has no other place for it, and end with it', async () => {
    const room = `job:${job}`;
    const made = await fetch(`${server.url}/api/tokens`, {
      method: 'POST',
      headers: { 'x-api-key': ada, 'content-type': 'application/json' },
      body: JSON.stringify({ rooms: [room], expires_in: 2 }),
    });
    expect(made.status).to.equal(201);
    const { token } = (await made.json()) as { token: string };
    const none = { 'x-api-key': '' };
    const client = stream(`?token=${token}`, { headers: none, reconnects: true });
    await client.live();
    const other = stream(`?token=${token}`, { headers: none, room: `task:${task}` });
    await other.ended();
    expect(other.status).to.equal(403);
    const key = stream(`?api_key=${ada}`, { headers: none });
    await key.ended();
    expect(key.status).to.equal(401);

    // It comes back once, and is told by a status that its address is of no use any more.
    await client.ended();
    expect(client.messages.at(-1).data.code).to.equal('TOKEN_EXPIRED');
    expect(client.status).to.equal(401);
    expect(client.connections).to.equal(1);
  });

  it('count among the connections of their address, and give their places back', async () => {
    const small = await start({ MAX_CONNECTIONS_PER_IP: '1' });
    const first = stream('', { to: small });
    await first.live();
    // A browser does not come back after any status but 200.
    const second = stream('', { to: small });
    await second.ended();
    expect(second.status).to.equal(200);
    expect(second.messages.map(({ type, data }) => [type, data.code])).to.deep.equal([
      ['ERROR', 'RATE_LIMIT_EXCEEDED'],
    ]);
    expect(second.retryMs).to.be.within(5_000, 10_000);
    const other = await fetch(`${small.url}${pathOf(`job:${job}`)}`, {
      headers: { accept: 'application/x-ndjson', 'x-api-key': ada },
    });
    expect(other.status).to.equal(429);
    expect(((await other.json()) as { error: { code: string } }).error.code).to.equal('RATE_LIMIT_EXCEEDED');
    first.close();
    await eventually(async () => {
      const third = stream('', { to: small });
      await third.live();
    });
  });

  it('are in the statistics while they last', async () => {
    const members = async (): Promise<number | undefined> => {
      const response = await fetch(`${server.url}/api/ws/stats?room=job:${job}`);
      const { data } = (await response.json()) as { data: { rooms: Record<string, number> } };
      return data.rooms[`job:${job}`];
    };
    const client = stream();
    await client.live();
    await eventually(async () => expect(await members()).to.equal(1));
    client.close();
    await eventually(async () => expect((await members()) ?? 0).to.equal(0));
  });

  it('tell a quiet client that they live, and where it stands', async () => {
    const quick = await start({ PING_INTERVAL_MS: '50' });
    const [client, other] = [stream('', { to: quick }), stream('?types=TASK_UPDATED', { to: quick })];
    const { epoch } = await other.live();
    await client.live();
    await eventually(() => expect(client.comments.length).to.be.greaterThan(2));
    const { seq } = await tasks.updateTaskFee(task, 9);
    // What it did not ask for moves its position too.
    await eventually(() => expect(other.lastEventId).to.equal(`${epoch}-${seq}`));
    expect(other.seqs).to.deep.equal([]);
    const lines = await linesOf(
      await fetch(`${quick.url}${pathOf(`job:${job}`)}?snapshot=false`, {
        headers: { accept: 'application/x-ndjson', 'x-api-key': ada },
      }),
      2,
    );
    expect(lines[1]).to.deep.include({ type: 'POSITION', data: { positions: [{ room: `job:${job}`, seq, epoch }] } });
  });

  it('end when their key does', async () => {
    const { key, record } = await apiKeys.create({ owner: 'ada', rate_limit: 1_000 });
    const admin = await apiKeys.create({ owner: 'root', role: 'admin' });
    const client = stream('', { key });
    await client.live();
    const gone = await fetch(`${server.url}/api/keys/${record.key_id}`, {
      method: 'DELETE',
      headers: { 'x-api-key': admin.key },
    });
    expect(gone.status).to.equal(200);
    await client.ended();
    expect(client.messages.at(-1)).to.deep.include({ type: 'ERROR' });
    expect(client.messages.at(-1).data.code).to.equal('INACTIVE_API_KEY');
    const again = stream('', { key });
    await again.ended();
    expect(again.status).to.equal(401);
  });

  it('are sent away by a worker that drains, and told to come back', async () => {
    const leaving = await start();
    const client = stream('', { to: leaving });
    const { seq, epoch } = await client.live();
    const lines = fetch(`${leaving.url}${pathOf(`job:${job}`)}?snapshot=false`, {
      headers: { accept: 'application/x-ndjson', 'x-api-key': ada },
    });
    const response = await lines;
    await leaving.server.drain(0);
    await client.ended();
    expect(client.messages.at(-1).data.code).to.equal('SERVER_DRAINING');
    expect(client.retryMs).to.be.within(1_000, 2_000);
    expect(client.lastEventId).to.equal(`${epoch}-${seq}`);
    const text = (await response.text()).trim().split('\n');
    expect(JSON.parse(text.at(-1)!).data.code).to.equal('SERVER_DRAINING');

    // Its listener is still there: who comes now is told in words that a browser understands.
    const late = stream('', { to: leaving });
    await late.ended();
    expect(late.status).to.equal(200);
    expect(late.messages.map(({ data }) => data.code)).to.deep.equal(['SERVER_DRAINING']);
  });

  it('pay what they replay from what their key may, so that the next one begins later', async () => {
    const poor = await start({ MAX_MESSAGES_PER_SECOND_PER_KEY: '1' });
    const { key } = await apiKeys.create({ owner: 'ada', rate_limit: 60 });
    for (let batch = 0; batch < 4; batch += 1) {
      await tasks.createManyTaskData(
        'ada',
        Array.from({ length: 400 }, () => ({ job_id: job, task_definition_id: 1 })),
      );
    }
    const began = performance.now();
    // Ten units are there, and this takes seventeen: the key owes five, the most that it may.
    const response = await fetch(`${poor.url}${pathOf(`job:${job}`)}?since=1&limit=1600`, {
      headers: { accept: 'application/x-ndjson', 'x-api-key': key },
    });
    expect((await response.text()).trim().split('\n')).to.have.length(1_600);
    const next = stream('', { to: poor, key });
    // Another key of the same user has an allowance of its own.
    await stream('', { to: poor }).live();
    expect(next.messages).to.deep.equal([]);
    await next.live();
    expect(performance.now() - began).to.be.above(5_000);
  });

  it('are waited for when they are not read, and go on without loss', async function () {
    this.timeout(300_000);
    const small = await start({ MAX_BUFFERED_BYTES: '100000', SLOW_CONSUMER_MS: '600000' });
    const made = await tasks.createManyTaskData(
      'ada',
      Array.from({ length: FLOOD }, () => ({ job_id: job, task_definition_id: 1 })),
    );
    const flood = (size: number): Promise<unknown> =>
      tasks.updateManyTaskData(
        'ada',
        made.map((write) => ({
          kind: 'execution',
          task_id: (write as TaskWrite).task_id,
          proof_of_task: 'x'.repeat(size),
        })),
      );
    const [slow, quick] = [stream('', { to: small, reconnects: true }), stream('', { to: small })];
    const { seq } = await slow.live();
    await quick.live();
    slow.pause();
    await flood(60_000);
    await eventually(() => expect(quick.seqs).to.have.length(FLOOD), { timeoutMs: 120_000 });
    await flood(100);
    await eventually(() => expect(quick.seqs).to.have.length(2 * FLOOD), { timeoutMs: 120_000 });
    slow.resume();
    await eventually(() => expect(slow.seqs).to.have.length(2 * FLOOD), { timeoutMs: 120_000 });
    const all = Array.from({ length: 2 * FLOOD }, (_, n) => seq + n + 1);
    expect(slow.connections).to.equal(1);
    expect(slow.seqs).to.deep.equal(all);
    expect(quick.seqs).to.deep.equal(all);
    expect(quick.connections).to.equal(1);
  });
});
