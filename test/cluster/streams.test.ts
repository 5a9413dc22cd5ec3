import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { expect } from 'chai';
import pg from 'pg';
import { io, type Socket } from 'socket.io-client';
import type { EventEnvelope } from '../../src/protocol/events.js';
import { EVENT_TYPES } from '../../src/protocol/events.js';
import { EventStream } from '../support/event-stream.js';
import { eventually } from '../support/eventually.js';
import { Instance } from '../support/instance.js';
import { PlainClient } from '../support/plain-client.js';
import { POSTGRES_PROGRAMS, sharedPostgres } from '../support/postgres.js';
import { describeWith, findProgram } from '../support/programs.js';
import { NGINX, type ReverseProxy } from '../support/proxy.js';
import { merge, type Row } from '../support/rows.js';
import { RestWrites, Scene } from '../support/scene.js';
import { random, Writer } from '../support/writers.js';

const WRITERS = 3;

describeWith([...POSTGRES_PROGRAMS, 'nginx', 'curl'], 'streams of a cluster', function () {
  this.timeout(120_000);
  let databaseUrl: string;
  let scene: Scene;
  let instance: Instance;
  let nginx: ReverseProxy;
  let running = true;
  const opened: Array<{ close(): void }> = [];
  let children: ChildProcess[] = [];

  before(async () => {
    databaseUrl = await (await sharedPostgres()).createDatabase();
    scene = await Scene.make(databaseUrl, { users: 1, jobsPerUser: 2 });
    instance = await Instance.start({ env: { DATABASE_URL: databaseUrl, TRUSTED_PROXIES: 'loopback' } });
    nginx = await NGINX.start({ instances: [instance.port, instance.port] });
  });

  after(async () => {
    await nginx?.stop();
    await instance?.stop();
    await scene?.close();
  });

  beforeEach(() => {
    running = true;
  });

  afterEach(async () => {
    running = false;
    for (const client of opened.splice(0)) {
      client.close();
    }
    for (const child of children) {
      child.kill('SIGKILL');
    }
    children = [];
  });

  /** Changes many rows at once, by SQL: makes, moves and deletes tasks, and takes some of it back. */
  async function changeRows(seed: number): Promise<void> {
    const next = random(seed);
    const [one, two] = scene.jobs as [(typeof scene.jobs)[0], (typeof scene.jobs)[0]];
    const client = new pg.Client({ connectionString: databaseUrl });
    await client.connect();
    // By their numbers, so that it is all over the pages; in one order, as whoever locks several has to.
    const some = `task_id IN (SELECT task_id FROM tasks WHERE task_id % 11 = $1 ORDER BY task_id FOR UPDATE)`;
    while (running) {
      const k = Math.floor(next() * 11);
      await client.query('BEGIN');
      await client.query(`UPDATE tasks SET task_error = $2, task_opx_cost = $3 WHERE ${some}`, [
        k,
        `error ${k}`,
        next(),
      ]);
      const roll = next();
      if (roll < 0.3) {
        await client.query(`UPDATE tasks SET job_id = $2 WHERE ${some}`, [k, next() < 0.7 ? one.jobId : two.jobId]);
      } else if (roll < 0.5) {
        await client.query(`DELETE FROM tasks WHERE ${some}`, [k]);
      }
      await client.query(
        `INSERT INTO tasks (job_id, user_id, task_definition_id, is_imua, task_status, created_at)
         SELECT $1::numeric, $2, n, false, 'pending', now() FROM generate_series(1, 3) n`,
        [one.jobId, one.userId],
      );
      await client.query(next() < 0.2 ? 'ROLLBACK' : 'COMMIT');
    }
    await client.end();
  }

  /** Writes to all jobs until it is stopped. @returns how it is stopped: with the number of writes, when the last is done */
  function writeOn(seed: number): () => Promise<number> {
    const writes = new RestWrites(() => [instance.url], scene.serviceKey);
    let count = 0;
    const work = Array.from({ length: WRITERS }, async (_, n) => {
      const writer = new Writer(writes, scene.jobs, random(seed + n));
      while (running) {
        // Somebody else may have deleted its task.
        await writer.write().catch((error) => expect(String(error)).to.include('404'));
        count += 1;
      }
    });
    const changes = changeRows(seed + WRITERS);
    return async () => {
      running = false;
      await Promise.all([...work, changes]);
      return count;
    };
  }

  const get = async (path: string): Promise<Record<string, never>> => {
    const response = await fetch(`${nginx.url}${path}`, { headers: { 'x-api-key': scene.serviceKey } });
    expect(response.status, path).to.equal(200);
    return (await response.json()) as Record<string, never>;
  };

  /** The rows of a job, page by page, and the position of the first page. */
  async function page(jobId: string): Promise<{ rows: Map<number, Row>; since: number; epoch: string }> {
    const rows = new Map<number, Row>();
    let first: { since: number; epoch: string } | undefined;
    for (let after: number | null = 0; after !== null; ) {
      const { tasks, next, seq, epoch } = (await get(`/api/tasks/job/${jobId}?limit=20&after=${after}`)) as unknown as {
        tasks: Array<Row & { task_id: number }>;
        next: number | null;
        seq: number;
        epoch: string;
      };
      for (const row of tasks) {
        rows.set(row.task_id, { ...row, seq });
      }
      first ??= { since: seq, epoch };
      after = next;
    }
    return { rows, ...first! };
  }

  const table = (rows: Map<number, Row>): Row[] =>
    [...rows.values()].map(({ seq, ...row }) => row).sort((a, b) => Number(a['task_id']) - Number(b['task_id']));

  it('carry on a page that was read over REST, as both other wires do, while others write', async () => {
    const stop = writeOn(1);
    const { jobId } = scene.jobs[0]!;
    await eventually(async () => expect((await page(jobId)).rows.size).to.be.greaterThan(25), { timeoutMs: 30_000 });

    // Pages that are several and not of one moment.
    const { rows, since, epoch } = await page(jobId);
    expect(new Set([...rows.values()].map(({ seq }) => seq)).size).to.be.greaterThan(1);
    const subscription = { room: `job:${jobId}`, since, epoch };
    const got: Record<string, EventEnvelope[]> = { sse: [], websocket: [], 'socket.io': [] };
    const isEvent = ({ type }: { type: string }): boolean => (EVENT_TYPES as readonly string[]).includes(type);

    const headers = { 'x-api-key': scene.serviceKey };
    const sse = new EventStream(`${nginx.url}/api/jobs/${jobId}/events?since=${since}&epoch=${epoch}`, { headers });
    const plain = new PlainClient(`${nginx.url}/api/ws/tasks?api_key=${scene.serviceKey}`);
    const socket: Socket = io(`${nginx.url}/api/ws/tasks`, { auth: { api_key: scene.serviceKey }, forceNew: true });
    opened.push(sse, plain.socket, socket);
    socket.onAny((_type, envelope) => {
      if (isEvent(envelope)) {
        got['socket.io']!.push(envelope);
      }
    });
    await once(plain.socket, 'open');
    plain.send({ type: 'SUBSCRIBE', data: subscription, request_id: 'page' });
    const answers = [
      await sse.live(),
      (await plain.answer('page')).data.data,
      await socket.timeout(10_000).emitWithAck('SUBSCRIBE', subscription),
    ];
    expect(answers.map(({ recovered }) => recovered)).to.deep.equal([true, true, true]);
    // Some more, live.
    await eventually(() => expect(sse.seqs.length).to.be.greaterThan(100), { timeoutMs: 30_000 });
    expect(await stop()).to.be.greaterThan(10);

    const now = await page(jobId);
    // The stream's last event may be of the other job; the history says which is the last of this one.
    const { events } = (await get(`/api/jobs/${jobId}/events?since=${since}&epoch=${epoch}&limit=1000`)) as unknown as {
      events: EventEnvelope[];
    };
    const seqs = events.map(({ seq }) => seq);
    await eventually(() => {
      got['sse'] = sse.messages.filter(isEvent);
      got['websocket'] = plain.messages.filter(isEvent);
      for (const [wire, list] of Object.entries(got)) {
        expect(list.at(-1)?.seq, wire).to.be.at.least(seqs.at(-1)!);
      }
    });
    for (const [wire, list] of Object.entries(got)) {
      expect(list.slice(0, seqs.length), wire).to.deep.equal(events);
      const merged = new Map([...rows].map(([id, row]) => [id, { ...row }]));
      merge(merged, list);
      expect(table(merged), wire).to.deep.equal(table(now.rows));
    }
  });

  it('reach curl -N through nginx line by line, without waiting for more', async () => {
    const writes = new RestWrites(() => [instance.url], scene.serviceKey);
    const { jobId } = scene.jobs[1]!;
    const { task_id } = await writes.createTaskData({ job_id: jobId, task_definition_id: 1 });
    for (const type of ['text/event-stream', 'application/x-ndjson']) {
      const url = `${nginx.url}/api/tasks/${task_id}/events`;
      const child = spawn(findProgram('curl')!, [
        '-sN',
        '-H',
        `Accept: ${type}`,
        '-H',
        `X-Api-Key: ${scene.serviceKey}`,
        url,
      ]);
      children.push(child);
      let output = '';
      child.stdout.setEncoding('utf8').on('data', (text: string) => {
        output += text;
      });
      await eventually(() => expect(output).to.include('"SUCCESS"'));
      for (let fee = 1; fee <= 3; fee += 1) {
        const { seq } = await writes.updateTaskFee(task_id, fee);
        // Each is there before the next one is made: nothing on the way collects them.
        await eventually(() => expect(output).to.match(new RegExp(`"seq":${seq},.*"new_fee": ?${fee}\\b.*\n`)));
      }
      child.kill('SIGKILL');
    }
  });

  it('come back by themselves when the workers are replaced, and miss nothing', async () => {
    const { jobId } = scene.jobs[0]!;
    const headers = { 'x-api-key': scene.serviceKey };
    const url = `${nginx.url}/api/jobs/${jobId}/events?snapshot=false`;
    const sse = new EventStream(url, { headers, reconnects: true });
    opened.push(sse);
    const { seq, epoch } = await sse.live();
    const stop = writeOn(7);
    const before = [...instance.workers];
    instance.signal('SIGHUP');
    await eventually(
      () => {
        expect([...instance.workers].filter((pid) => before.includes(pid))).to.deep.equal([]);
        expect(instance.workers.size).to.equal(before.length);
      },
      { timeoutMs: 60_000 },
    );
    await stop();
    const { events } = (await get(`/api/jobs/${jobId}/events?since=${seq}&epoch=${epoch}&limit=1000`)) as unknown as {
      events: EventEnvelope[];
    };
    await eventually(() => expect(sse.seqs.length).to.be.at.least(events.length), { timeoutMs: 30_000 });
    // The worker that is replaced ends its streams one by one.
    await eventually(() => expect(sse.connections).to.be.greaterThan(1), { timeoutMs: 30_000 });
    expect(
      sse.messages
        .filter(({ type }) => type === 'SUCCESS')
        .slice(1)
        .every(({ data }) => data.data.recovered),
    ).to.equal(true);
    expect(sse.seqs.slice(0, events.length)).to.deep.equal(events.map((event) => event.seq));
  });
});
