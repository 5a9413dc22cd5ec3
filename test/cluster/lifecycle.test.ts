import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { Agent, type IncomingMessage, request } from 'node:http';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { io } from 'socket.io-client';
import WebSocket from 'ws';
import { embeddedUrlFile } from '../../src/embedded/url-file.js';
import { errorEntry } from '../../src/protocol/errors.js';
import { Account } from '../support/account.js';
import { eventually } from '../support/eventually.js';
import { Instance } from '../support/instance.js';
import { unprivileged } from '../support/postgres.js';
import { freePort, TASKWIRE } from '../support/programs.js';
import { RestWrites, Scene } from '../support/scene.js';
import { SmallDisk, withDisks } from '../support/small-disk.js';
import { Subscriber } from '../support/subscriber.js';
import { random, Writer } from '../support/writers.js';

const keyOf = (instance: Instance, kind: 'user' | 'service'): string =>
  new RegExp(`${kind} key +(tw_\\S+)`).exec(instance.output)![1]!;

const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

/** Sends requests through an agent, and tells what became of their connection. */
const caller =
  (agent: Agent, port: number, key: string) =>
  async (
    method: string,
    path: string,
    body = '',
    // biome-ignore lint/suspicious/noExplicitAny: tests look into answers of every form
  ): Promise<{ status: number; connection: string | undefined; reused: boolean; body: any }> => {
    const headers = {
      'x-api-key': key,
      ...(body === '' ? {} : { 'content-type': 'application/json', 'content-length': body.length }),
    };
    const call = request({ agent, host: '127.0.0.1', port, method, path, headers });
    call.end(body);
    const [response] = (await once(call, 'response')) as [IncomingMessage];
    const text = (await response.toArray()).join('');
    return {
      status: response.statusCode!,
      connection: response.headers.connection,
      reused: call.reusedSocket,
      body: JSON.parse(text),
    };
  };

/** Holds that one line, and no more, says that nothing can be kept in a folder, why, and what to do. */
function expectNoPlace(log: ReadonlyArray<{ readonly message: string }>, folder: string, reason: string): void {
  expect(log, JSON.stringify(log)).to.have.length(1);
  expect(log[0]!.message).to.match(
    new RegExp(`^DATA_DIR: got ${JSON.stringify(folder)}; .*${reason}.*another one with DATA_DIR$`),
  );
}

/** Resolves when what a newcomer reads has been printed. */
async function greeted(instance: Instance): Promise<void> {
  await eventually(() => expect(instance.output).to.include('/api/ws/stats'), { timeoutMs: 30_000 });
}

describe('an instance on embedded defaults', function () {
  this.timeout(120_000);

  it('starts with nothing configured, and what it prints works', async () => {
    const instance = await Instance.start({ fromNothing: true });
    try {
      await greeted(instance);
      const subscriber = new WebSocket(
        `${instance.url.replace('http', 'ws')}/api/ws/tasks?api_key=${keyOf(instance, 'user')}`,
      );
      const messages: Array<{ type: string }> = [];
      subscriber.on('message', (text) => messages.push(JSON.parse(String(text))));
      await once(subscriber, 'open');
      subscriber.send(JSON.stringify({ type: 'SUBSCRIBE', data: { room: 'job:1' } }));
      await eventually(() => expect(messages.map(({ type }) => type)).to.include('SUCCESS'));
      const answer = await fetch(`${instance.url}/api/tasks`, {
        method: 'POST',
        headers: { 'x-api-key': keyOf(instance, 'service'), 'content-type': 'application/json' },
        body: '{"job_id":"1","task_definition_id":7,"is_imua":false}',
      });
      expect(answer.status).to.equal(201);
      await eventually(() =>
        expect(messages.map(({ type }) => type)).to.deep.equal(['JOB_TASKS_SNAPSHOT', 'SUCCESS', 'TASK_CREATED']),
      );
      const { body } = await instance.get('/api/ws/stats');
      expect(body.data).to.deep.include({ total_clients: 1, total_rooms: 1, rooms: { 'job:1': 1 }, nodes: 2 });
      expect((await instance.get('/api/ws/health')).body.status).to.equal('healthy');
      subscriber.terminate();
      expect(instance.log.filter((line) => JSON.stringify(line).includes('tw_'))).to.deep.equal([]);
    } finally {
      expect(await instance.stop()).to.equal(0);
    }
  });

  it('serves polling, WebSocket and the upgrade through sticky', async () => {
    const instance = await Instance.start();
    try {
      await greeted(instance);
      for (const transports of [['polling'], ['websocket'], ['polling', 'websocket']]) {
        for (let round = 0; round < 3; round += 1) {
          const socket = io(`${instance.url}/api/ws/tasks`, {
            auth: { api_key: keyOf(instance, 'user') },
            transports,
            forceNew: true,
            reconnection: false,
          });
          await new Promise((resolve, reject) => {
            socket.once('connect', () => resolve(undefined));
            socket.once('connect_error', reject);
          });
          const { room } = await socket.emitWithAck('SUBSCRIBE', { room: 'job:1' });
          expect(room).to.equal('job:1');
          if (transports.length === 2) {
            await eventually(() => expect(socket.io.engine.transport.name).to.equal('websocket'));
            expect((await socket.emitWithAck('PING')).positions).to.have.length(1);
          }
          socket.disconnect();
        }
      }
    } finally {
      await instance.stop();
    }
  });

  it('knows a polling session before its client comes back, however quick that is', async () => {
    const instance = await Instance.start({ env: { MAX_CONNECTIONS_PER_IP: '10000' } });
    try {
      const polls = `${instance.url}/socket.io/?EIO=4&transport=polling`;
      const comeBack = async (): Promise<number[]> => {
        const statuses: number[] = [];
        for (let round = 0; round < 100; round += 1) {
          const opened = await fetch(polls);
          const { sid } = JSON.parse((await opened.text()).slice(1)) as { sid: string };
          const answer = await fetch(`${polls}&sid=${sid}`, { method: 'POST', body: '1' });
          statuses.push(answer.status);
          await answer.text();
        }
        return statuses;
      };
      const statuses = await Promise.all(Array.from({ length: 8 }, comeBack));
      expect(new Set(statuses.flat())).to.deep.equal(new Set([200]));
    } finally {
      await instance.stop();
    }
  });

  it('shows the keys once, and keeps the data', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'taskwire-test-'));
    const env = { DATA_DIR: dir };
    const first = await Instance.start({ env });
    await greeted(first);
    const key = keyOf(first, 'user');
    await first.stop();
    const second = await Instance.start({ env });
    try {
      await eventually(() => expect(second.output).to.include('listens on'));
      expect(second.output).to.not.include('tw_');
      expect((await second.get('/api/tasks/job/1', { 'x-api-key': key })).body.tasks).to.deep.equal([]);
    } finally {
      await second.stop();
      rmSync(dir, { recursive: true, force: true });
    }
  });

  it('ends with 78 and names the variable when the configuration cannot be used', async () => {
    const instance = await Instance.launch({ env: { PING_INTERVAL_MS: 'soon' } });
    expect(await instance.end()).to.equal(78);
    expect(instance.log.map(({ message }) => message).join('\n')).to.match(/^PING_INTERVAL_MS: got "soon"; /);
  });

  it('ends with 78 when REST_PORT is PORT', async () => {
    const port = await freePort();
    const instance = await Instance.launch({ port, env: { REST_PORT: String(port) } });
    expect(await instance.end()).to.equal(78);
    expect(instance.log.map(({ message }) => message)).to.deep.equal([
      `REST_PORT: got "${port}"; is taken: PORT uses it, or a worker with LISTEN=workers; choose another one`,
    ]);
  });

  for (const variable of ['PORT', 'REST_PORT']) {
    it(`says so at once when ${variable} is taken`, async () => {
      const server = createServer().listen(0, '127.0.0.1');
      await once(server, 'listening');
      const { port } = server.address() as { port: number };
      const instance = await Instance.launch({ env: { [variable]: String(port) } });
      expect(await instance.end()).to.equal(1);
      expect(JSON.stringify(instance.log))
        .to.include(`127.0.0.1:${port} is in use; choose another address with HOST and ${variable}`)
        .and.not.include('worker');
      server.close();
    });
  }

  /** Holds that the service and its commands say at once that nothing can be kept in a folder. */
  async function expectRefusal(
    DATA_DIR: string,
    reason: string,
    user?: ReturnType<typeof unprivileged>,
  ): Promise<void> {
    for (const workers of [1, 2]) {
      const instance = await Instance.launch({ env: { DATA_DIR }, workers, user });
      expect(await instance.end(), DATA_DIR).to.equal(78);
      expectNoPlace(instance.log, DATA_DIR, reason);
      expect(instance.output).to.equal('');
    }
    const command = spawnSync(process.execPath, [TASKWIRE, 'keys', 'list'], {
      encoding: 'utf8',
      env: { PATH: process.env['PATH'], DATA_DIR },
      ...user,
    });
    expect(command.status, command.stderr).to.equal(78);
    expectNoPlace([{ message: command.stderr.trimEnd() }], DATA_DIR, reason);
  }

  it('says so at once when DATA_DIR is no folder, and what to do', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'taskwire-test-'));
    const file = join(dir, 'file');
    writeFileSync(file, '');
    try {
      await expectRefusal(file, 'EEXIST');
      await expectRefusal(join(file, 'below'), 'ENOTDIR');
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  });

  it('says so at once when DATA_DIR is closed to its user, and what to do', async function () {
    // Root writes wherever it likes, and lends its identity.
    const user = unprivileged();
    if (spawnSync(process.execPath, [TASKWIRE, '--version'], { ...user }).status !== 0) {
      // Another user cannot even read the program.
      this.skip();
    }
    const dir = mkdtempSync(join(tmpdir(), 'taskwire-test-'));
    chmodSync(dir, 0o755);
    const closed = join(dir, 'closed');
    mkdirSync(closed, { mode: 0o555 });
    try {
      await expectRefusal(closed, 'EACCES', user);
      await expectRefusal(join(closed, 'below'), 'EACCES', user);
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  });

  withDisks('says so at once when DATA_DIR is on a file system that is read-only', (title, pending) => {
    (pending ? it.skip : it)(title, async () => {
      const disk = new SmallDisk({ megabytes: 128 });
      try {
        const used = join(disk.dir, 'used');
        const instance = await Instance.start({ env: { DATA_DIR: used } });
        expect(await instance.stop()).to.equal(0);
        mkdirSync(join(disk.dir, 'empty'));
        disk.makeReadOnly();
        for (const DATA_DIR of [used, join(disk.dir, 'empty'), join(disk.dir, 'none')]) {
          for (const workers of [1, 2]) {
            const refused = await Instance.launch({ env: { DATA_DIR }, workers });
            expect(await refused.end(), DATA_DIR).to.equal(78);
            expectNoPlace(refused.log, DATA_DIR, 'EROFS');
          }
        }
      } finally {
        disk.stop();
      }
    });
  });

  withDisks('says so at once when the disk of DATA_DIR is full, and starts when there is room', (title, pending) => {
    (pending ? it.skip : it)(title, async () => {
      const disk = new SmallDisk({ megabytes: 128 });
      try {
        disk.fill();
        const env = { DATA_DIR: join(disk.dir, 'data') };
        for (const workers of [1, 2]) {
          const refused = await Instance.launch({ env, workers });
          // No mistake of who configured it: a supervisor may try again.
          expect(await refused.end()).to.equal(1);
          expect(refused.log.map(({ message }) => message)).to.deep.equal(['cannot start']);
          expect(JSON.stringify(refused.log)).to.match(/ENOSPC|No space left/);
        }
        disk.makeRoom();
        const instance = await Instance.start({ env });
        await greeted(instance);
        expect(await instance.stop()).to.equal(0);
      } finally {
        disk.stop();
      }
    });
  });

  it('is led nowhere by what the environment tells clients of another Postgres', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'taskwire-test-'));
    const others = {
      PGHOST: '127.0.0.9',
      PGHOSTADDR: '127.0.0.9',
      PGPORT: '1',
      PGUSER: 'nobody',
      PGPASSWORD: 'secret',
      PGDATABASE: 'elsewhere',
      PGSSLMODE: 'require',
      PGSSLNEGOTIATION: 'direct',
      PGSSLROOTCERT: '/no/such/file',
      PGSSLCERT: '/no/such/file',
      PGOPTIONS: '-c search_path=nowhere -c default_transaction_read_only=on -c statement_timeout=1',
      PGTARGETSESSIONATTRS: 'standby',
      PGAPPNAME: 'another',
      PGCLIENTENCODING: 'LATIN1',
      PGCONNECT_TIMEOUT: '1',
      PGDATESTYLE: 'German',
      PGTZ: 'Asia/Tokyo',
      PGDATA: '/no/such/folder',
      PGSERVICE: 'another',
    };
    try {
      for (const workers of [1, 2]) {
        const instance = await Instance.start({ env: { ...others, DATA_DIR: dir }, workers });
        try {
          const command = spawnSync(process.execPath, [TASKWIRE, 'keys', 'create', '--owner', 'ada', '--json'], {
            encoding: 'utf8',
            env: { PATH: process.env['PATH'], DATA_DIR: dir, ...others },
          });
          expect(command.status, command.stderr).to.equal(0);
          const { key } = JSON.parse(command.stdout) as { key: string };
          const headers = { 'x-api-key': key, 'content-type': 'application/json' };
          const send = async (method: string, path: string, body: object): Promise<Record<string, string>> => {
            const response = await fetch(`${instance.url}${path}`, { method, headers, body: JSON.stringify(body) });
            expect(response.status).to.be.oneOf([200, 201]);
            return (await response.json()) as Record<string, string>;
          };
          const { job_id } = await send('POST', '/api/jobs', {});
          const socket = io(`${instance.url}/api/ws/tasks`, { auth: { api_key: key }, transports: ['websocket'] });
          const heard: Array<{ data: { changes: Record<string, unknown> } }> = [];
          for (const type of ['TASK_CREATED', 'TASK_UPDATED']) {
            socket.on(type, (event) => heard.push(event));
          }
          try {
            await once(socket as never, 'connect');
            await socket.emitWithAck('SUBSCRIBE', { room: `job:${job_id}` });
            const before = Date.now();
            const { task_id } = await send('POST', '/api/tasks', { job_id, task_definition_id: 1 });
            await send('PUT', `/api/tasks/execution/${task_id}`, { proof_of_task: 'ä€😀' });
            await eventually(() => expect(heard).to.have.length(2));
            expect(Math.abs(Date.parse(String(heard[0]!.data.changes['created_at'])) - before)).to.be.below(60_000);
            expect(heard[1]!.data.changes).to.include({ proof_of_task: 'ä€😀' });
          } finally {
            socket.disconnect();
          }
          expect((await instance.get('/api/ws/health')).body.status).to.equal('healthy');
          expect(instance.log.filter(({ level }) => level !== 'info')).to.deep.equal([]);
        } finally {
          expect(await instance.stop()).to.equal(0);
        }
      }
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  });

  it('serves REST on REST_PORT, and keeps connections there', async () => {
    const restPort = await freePort();
    const instance = await Instance.start({ env: { REST_PORT: String(restPort) } });
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    try {
      await greeted(instance);
      const call = caller(agent, restPort, keyOf(instance, 'service'));
      const made = await call('POST', '/api/tasks', '{"job_id":"1","task_definition_id":7,"is_imua":false}');
      expect(made).to.deep.include({ status: 201, connection: 'keep-alive', reused: false });
      const paid = await call('PUT', `/api/tasks/${made.body.task_id}/fee`, '{"fee":1.5}');
      expect(paid).to.deep.include({ status: 200, connection: 'keep-alive', reused: true });
      expect(paid.body).to.deep.include({ fee: 1.5, seq: made.body.seq + 1 });
      // An error ends no connection either.
      const bad = await call('PUT', `/api/tasks/${made.body.task_id}/fee`, '{"fee":');
      expect(bad).to.deep.include({ status: 400, connection: 'keep-alive', reused: true });
      expect(bad.body.error.code).to.equal('INVALID_REQUEST');
      const unknown = await caller(agent, restPort, 'tw_nobody')('GET', '/api/tasks/job/1');
      expect(unknown).to.deep.include({ status: 401, connection: 'keep-alive', reused: true });
      expect(unknown.body.error.code).to.equal('INVALID_API_KEY');
      expect((await call('GET', '/api/ws/health')).body.status).to.equal('healthy');
      expect((await call('GET', '/api/nothing')).status).to.equal(404);
      // What was written there is seen everywhere.
      const { body } = await instance.get('/api/tasks/job/1', { 'x-api-key': keyOf(instance, 'user') });
      expect(body.tasks[0]).to.deep.include({ task_id: made.body.task_id, task_opx_cost: 1.5 });
    } finally {
      agent.destroy();
      await instance.stop();
    }
  });

  it('serves clients that keep connections, which sticky ends after each answer', async () => {
    const instance = await Instance.start();
    const agent = new Agent({ keepAlive: true, maxSockets: 2 });
    try {
      await greeted(instance);
      const call = caller(agent, instance.port, keyOf(instance, 'service'));
      const answers = await Promise.all(
        Array.from({ length: 40 }, (_, index) =>
          index % 2 === 0
            ? call('POST', '/api/tasks', '{"job_id":"1","task_definition_id":7,"is_imua":false}')
            : call('GET', '/api/tasks/job/1'),
        ),
      );
      expect(answers.map(({ status }) => status)).to.deep.equal(Array(20).fill([201, 200]).flat());
      for (const answer of answers) {
        expect(answer).to.deep.include({ connection: 'close', reused: false });
      }
    } finally {
      agent.destroy();
      await instance.stop();
    }
  });

  it('revives a worker that was killed, and knows it in the statistics', async () => {
    const instance = await Instance.start();
    try {
      const killed = instance.killWorker()!;
      await instance.ready(2);
      expect([...instance.workers]).to.not.include(killed);
      await eventually(async () => {
        const { body } = await instance.get('/api/ws/stats');
        expect(body.data).to.deep.include({ nodes: 2, partial: false });
      });
    } finally {
      await instance.stop();
    }
  });

  it('gives connections that wait for a worker to another one when it is killed', async () => {
    const instance = await Instance.start({ workers: 2 });
    const clients: Socket[] = [];
    let answers = 0;
    try {
      const [worker] = instance.workers as unknown as [number];
      process.kill(worker, 'SIGSTOP');
      for (let count = 0; count < 40; count += 1) {
        const client = connect(instance.port, '127.0.0.1');
        client.on('error', () => {});
        client.once('data', () => {
          answers += 1;
        });
        client.write('GET /api/ws/health HTTP/1.1\r\nHost: a\r\n\r\n');
        clients.push(client);
        await once(client, 'connect');
      }
      await eventually(() => expect(answers).to.be.at.least(20));
      process.kill(worker, 'SIGKILL');
      // The one that the killed worker had been sent already ends without an answer.
      await eventually(() => expect(clients.filter(({ destroyed }) => !destroyed)).to.have.length(0));
      expect(answers).to.be.at.least(39);
      await instance.ready(2);
    } finally {
      await instance.stop();
    }
  });

  it('leaves no worker behind when the primary is killed', async () => {
    const instance = await Instance.start();
    const workers = [...instance.workers];
    instance.signal('SIGKILL');
    await instance.end();
    await eventually(() => expect(workers.filter(isAlive)).to.deep.equal([]));
  });

  it('gives up loudly when workers cannot start at all', async () => {
    const failing = new URL('../support/failing-worker.js', import.meta.url).href;
    const instance = await Instance.launch({ preload: failing });
    expect(await instance.end()).to.equal(1);
    expect(instance.log.map(({ message }) => message)).to.include('workers cannot start, giving up');
  });

  it('replaces its workers one by one on SIGHUP; clients come back by themselves and miss nothing', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'taskwire-test-'));
    const instance = await Instance.start({ env: { DATA_DIR: dir } });
    const scene = await Scene.make(readFileSync(embeddedUrlFile(dir), 'utf8'), { users: 1, jobsPerUser: 2 });
    const rooms = ['user:user_1', ...scene.jobs.map(({ jobId }) => `job:${jobId}`)];
    const subscribers = (['websocket', 'websocket', 'socket.io', 'socket.io'] as const).map(
      (wire) => new Subscriber(wire, instance.url, scene.keys.get('user_1')!, rooms),
    );
    try {
      const live = () =>
        eventually(() => expect(subscribers.every((one) => one.live)).to.equal(true), { timeoutMs: 30_000 });
      await live();
      const before = new Set(instance.workers);
      const writer = new Writer(new RestWrites(() => [instance.url], scene.serviceKey), scene.jobs, random(1));
      const statuses = new Set<number>();
      let rolling = true;
      // Somebody serves all the time: no write and no question is refused.
      const writing = (async () => {
        let count = 0;
        for (; rolling; count += 1) {
          await writer.write();
          statuses.add((await instance.get('/api/ws/health')).status);
        }
        return count;
      })();
      instance.signal('SIGHUP');
      const rolled = eventually(
        () => {
          expect(instance.log.map(({ message }) => message)).to.include('workers replaced');
          expect(instance.workers.size).to.equal(2);
          expect([...instance.workers].filter((pid) => before.has(pid))).to.deep.equal([]);
        },
        { timeoutMs: 60_000 },
      );
      await Promise.race([rolled, writing]);
      await rolled;
      await live();
      rolling = false;
      expect(await writing).to.be.greaterThan(1);
      expect([...statuses]).to.deep.equal([200]);
      const account = new Account(scene.db);
      for (const subscriber of subscribers) {
        await account.settle(subscriber);
        await account.compareState(subscriber);
        expect(subscriber.connections).to.be.greaterThan(1);
        expect(subscriber.unrecovered).to.equal(0);
      }
    } finally {
      for (const subscriber of subscribers) {
        subscriber.close();
      }
      await scene.close();
      expect(await instance.stop()).to.equal(0);
      rmSync(dir, { recursive: true, force: true });
    }
  });

  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
    it(`lets a request in flight finish on ${signal}`, async () => {
      // There is somebody to replace on SIGHUP.
      const instance = await Instance.start({ workers: signal === 'SIGHUP' ? 2 : 1 });
      try {
        await greeted(instance);
        const headers = { 'x-api-key': keyOf(instance, 'service'), 'content-type': 'application/json' };
        const socket = new WebSocket(`${instance.url.replace('http', 'ws')}/api/ws/tasks`, { headers });
        await once(socket, 'open');
        const call = request(`${instance.url}/api/tasks`, {
          method: 'POST',
          headers: { ...headers, 'content-length': '53' },
        });
        call.write('{"job_id":"1","task_definition_id":7,');
        // The worker has it when another request that came later has been answered.
        await instance.get('/api/ws/health');
        const answered = once(call, 'response') as Promise<[IncomingMessage]>;
        const closed = once(socket, 'close');
        instance.signal(signal);
        if (signal === 'SIGHUP') {
          await eventually(() => expect(instance.log.map(({ message }) => message)).to.include('replacing workers'));
        } else {
          // The worker sends its connections away when it has been told to drain.
          await closed;
        }
        call.end('"is_imua":false}');
        const [response] = await answered;
        response.resume();
        expect(response.statusCode).to.equal(201);
        expect((await closed)[0]).to.equal(errorEntry('SERVER_DRAINING').close);
        if (signal === 'SIGHUP') {
          instance.signal('SIGTERM');
        }
        expect(await instance.end()).to.equal(0);
      } finally {
        await instance.kill();
      }
    });
  }

  it('ends in order on a SIGTERM that comes while its workers start', async () => {
    const instance = await Instance.launch({ workers: 2, fromNothing: true });
    try {
      const said = (message: string) => instance.log.filter((line) => line.message === message);
      await eventually(() => expect(said('schema brought up to date')).to.have.length(1), { timeoutMs: 60_000 });
      instance.signal('SIGTERM');
      expect(await instance.end()).to.equal(0);
      expect(said('worker ended').filter(({ signal }) => signal === 'SIGKILL')).to.deep.equal([]);
    } finally {
      await instance.kill();
    }
  });

  it('drains on a Ctrl-C and ends at once on another one, with all of its processes', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'taskwire-test-'));
    const env = { DATA_DIR: dir, DRAIN_SECONDS: '600' };
    const instance = await Instance.start({ env });
    const workers = [...instance.workers];
    const [hanging, other] = workers as [number, number];
    const said = () => instance.log.map(({ message }) => message);
    try {
      // It ends by no request of anybody, so that the drain goes on.
      process.kill(hanging, 'SIGSTOP');
      // As a terminal does, to all processes; npm passes its own on to the primary.
      process.kill(other, 'SIGINT');
      instance.signal('SIGINT');
      instance.signal('SIGINT');
      await eventually(() => expect(instance.workers).to.deep.equal(new Set([hanging])), { timeoutMs: 30_000 });
      expect(said()).to.include('ending').and.not.include('ending at once');
      // What comes soon after the first is taken for the same.
      await eventually(
        () => {
          instance.signal('SIGINT');
          expect(instance.ended).to.equal(true);
        },
        { timeoutMs: 30_000, intervalMs: 200 },
      );
      expect(instance.exitCode).to.equal(1);
      expect(said().filter((message) => message.startsWith('ending'))).to.deep.equal(['ending', 'ending at once']);
      await eventually(() => expect(workers.filter(isAlive)).to.deep.equal([]));
      // Nothing is in the way of the next start.
      const next = await Instance.start({ env: { DATA_DIR: dir }, workers: 1 });
      expect(await next.stop()).to.equal(0);
    } finally {
      await instance.kill();
      rmSync(dir, { recursive: true, force: true });
    }
  });

  it('answers all requests on connections that clients keep, and sends these away, on SIGTERM', async () => {
    const restPort = await freePort();
    const instance = await Instance.start({ env: { REST_PORT: String(restPort) }, workers: 1 });
    const agents: Agent[] = [];
    const client = (key: string) => {
      const agent = new Agent({ keepAlive: true, maxSockets: 1 });
      agents.push(agent);
      return { agent, call: caller(agent, restPort, key) };
    };
    const body = '{"job_id":"1","task_definition_id":7,"is_imua":false}';
    try {
      await greeted(instance);
      const key = keyOf(instance, 'service');
      const [slow, late, idle] = [client(key), client(key), client(key)];
      const busy = Array.from({ length: 16 }, () => client(key));
      const keep = async ({ call }: typeof slow): Promise<void> => {
        expect(await call('GET', '/api/nothing')).to.include({ status: 404, connection: 'keep-alive' });
      };
      const socket = new WebSocket(`${instance.url.replace('http', 'ws')}/api/ws/tasks?api_key=${key}`);
      await once(socket, 'open');
      // To the other port: one on which nothing has been said yet.
      const silent = connect(instance.port, '127.0.0.1');
      await once(silent, 'connect');

      // Some send one request after the other for as long as they may.
      await Promise.all(busy.map(keep));
      const answers: string[] = [];
      const loops = busy.map(async ({ call }, index) => {
        for (;;) {
          const write = index % 4 === 0;
          const { status, reused, connection } = await (write
            ? call('POST', '/api/tasks', body)
            : call('GET', '/api/nothing'));
          answers.push(`${status} ${reused ? 'on the same' : 'on another'}`);
          if (connection === 'close') {
            return;
          }
        }
      });
      const ended = Promise.allSettled(loops);
      await eventually(() => expect(answers.length).to.be.greaterThan(busy.length));
      // One is in the middle of a request.
      await keep(slow);
      const headers = { 'x-api-key': key, 'content-type': 'application/json', 'content-length': body.length };
      const post = request({
        agent: slow.agent,
        host: '127.0.0.1',
        port: restPort,
        method: 'POST',
        path: '/api/tasks',
        headers,
      });
      post.write(body.slice(0, 20));
      const answered = once(post, 'response') as Promise<[IncomingMessage]>;
      // The worker has it when others that came later have been answered.
      await Promise.all([keep(late), keep(idle)]);
      const gone = Object.values(idle.agent.freeSockets).map((sockets) => once(sockets![0]!, 'close'));

      instance.signal('SIGTERM');
      expect((await once(socket, 'close'))[0]).to.equal(errorEntry('SERVER_DRAINING').close);
      // Who has kept its connection cannot know yet.
      expect(await late.call('POST', '/api/tasks', body)).to.include({
        status: 201,
        connection: 'close',
        reused: true,
      });
      silent.write('GET /api/nothing HTTP/1.1\r\nHost: localhost\r\n\r\n');
      const [answer] = (await once(silent, 'data')) as [Buffer];
      expect(String(answer))
        .to.match(/^HTTP\/1\.1 404 /)
        .and.include('Connection: close');
      post.end(body.slice(20));
      const [response] = await answered;
      response.resume();
      expect([response.statusCode, response.headers.connection]).to.deep.equal([201, 'close']);
      const failed = (await ended).flatMap((loop) => (loop.status === 'rejected' ? [String(loop.reason)] : []));
      expect(failed).to.deep.equal([]);
      expect([...new Set(answers)].sort()).to.deep.equal(['201 on the same', '404 on the same']);
      expect(await instance.end()).to.equal(0);
      expect(gone).to.have.length(1);
      await Promise.all(gone);
    } finally {
      for (const agent of agents) {
        agent.destroy();
      }
      await instance.kill();
    }
  });
});
