import { existsSync, readFileSync } from 'node:fs';
import { expect } from 'chai';
import WebSocket from 'ws';
import { TaskRepository } from '../../src/repository/task-repository.js';
import type { TaskWrite } from '../../src/repository/write-runner.js';
import { Account } from '../support/account.js';
import { eventually } from '../support/eventually.js';
import { Instance } from '../support/instance.js';
import { POSTGRES_PROGRAMS, type PostgresServer, startPostgres } from '../support/postgres.js';
import { describeWith } from '../support/programs.js';
import { Scene } from '../support/scene.js';
import { Subscriber, type Wire } from '../support/subscriber.js';

const SILENT = 100;
const EVENTS = 50_000;
const BATCH = 500;
const BUFFERED_BYTES = 262_144;
/** What a worker may grow by beside the buffers that are allowed: its ring, and garbage that is not collected yet. */
const ALLOWANCE_KB = 300 * 1024;

/** The most memory that a process has had, in kB. */
function peakKb(pid: number): number {
  return Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]);
}

/** A client that subscribes, and from then on never reads. */
async function silentClient(wire: Wire, url: string, key: string, room: string): Promise<WebSocket> {
  const base = url.replace(/^http/, 'ws');
  const socket = new WebSocket(
    wire === 'websocket' ? `${base}/api/ws/tasks?api_key=${key}` : `${base}/socket.io/?EIO=4&transport=websocket`,
  );
  socket.on('error', () => {});
  const subscribed = new Promise<void>((resolve) => {
    socket.on('message', (bytes) => {
      const text = String(bytes);
      if (text.startsWith('0{')) {
        socket.send(`40/api/ws/tasks,{"api_key":"${key}"}`);
      } else if (text.startsWith('40/')) {
        socket.send(`42/api/ws/tasks,1["SUBSCRIBE",{"room":"${room}"}]`);
      } else if (text.startsWith('43/') || text.includes('"SUCCESS"')) {
        resolve();
      }
    });
  });
  if (wire === 'websocket') {
    socket.once('open', () => socket.send(JSON.stringify({ type: 'SUBSCRIBE', data: { room } })));
  }
  await subscribed;
  socket.pause();
  return socket;
}

describeWith(POSTGRES_PROGRAMS, 'clients that never read', function () {
  this.timeout(180_000);
  let postgres: PostgresServer;
  let scene: Scene;
  let instance: Instance;

  before(async function () {
    if (!existsSync('/proc/self/status')) {
      this.skip();
    }
    postgres = await startPostgres();
    const databaseUrl = await postgres.createDatabase();
    scene = await Scene.make(databaseUrl, { users: 1, jobsPerUser: 1 });
    instance = await Instance.start({
      workers: 1,
      env: {
        DATABASE_URL: databaseUrl,
        MAX_BUFFERED_BYTES: String(BUFFERED_BYTES),
        RECONCILE_IDLE_MS: '100',
      },
    });
  });

  after(async () => {
    await instance?.kill();
    await scene?.close();
    await postgres?.stop();
  });

  it('do not grow the server, and hold up nobody', async () => {
    const key = scene.keys.get('user_1')!;
    const room = `job:${scene.jobs[0]!.jobId}`;
    const good = (['websocket', 'socket.io'] as const).map((wire) => new Subscriber(wire, instance.url, key, [room]));
    await eventually(() => expect(good.every(({ live }) => live)).to.equal(true));
    const silent: WebSocket[] = [];
    for (let n = 0; n < SILENT; n += 1) {
      silent.push(await silentClient(n % 2 === 0 ? 'websocket' : 'socket.io', instance.url, key, room));
    }
    const [worker] = instance.workers;
    const before = peakKb(worker!);

    // No publisher in between: the worker finds everything in the log.
    const tasks = new TaskRepository(scene.db, { publish: () => {} });
    const { task_id } = await tasks.createTaskData({ job_id: scene.jobs[0]!.jobId, task_definition_id: 1 });
    const others = await tasks.createManyTaskData(
      'user_1',
      Array.from({ length: BATCH - 1 }, () => ({ job_id: scene.jobs[0]!.jobId, task_definition_id: 1 })),
    );
    const ids = [task_id, ...others.map((outcome) => (outcome as TaskWrite).task_id)];
    const proof = 'x'.repeat(300);
    for (let made = 0; made < EVENTS; made += BATCH) {
      await tasks.updateManyTaskData(
        'user_1',
        ids.map((id) => ({ task_id: id, kind: 'execution', proof_of_task: `${made} ${proof}` })),
      );
    }

    const account = new Account(scene.db);
    for (const subscriber of good) {
      await account.settle(subscriber, 60_000);
      expect(subscriber.rooms.get(room)!.seqs.length).to.equal(EVENTS + BATCH);
    }
    await eventually(async () => {
      const { body } = await instance.get('/api/ws/stats');
      expect(body.data.total_clients).to.equal(good.length);
    });
    const grown = peakKb(worker!) - before;
    expect(grown).to.be.below((SILENT * BUFFERED_BYTES) / 1024 + ALLOWANCE_KB);

    for (const socket of silent) {
      socket.terminate();
    }
    for (const subscriber of good) {
      subscriber.close();
    }
  });
});
