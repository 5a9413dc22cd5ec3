import { expect } from 'chai';
import { io, type Socket } from 'socket.io-client';
import WebSocket from 'ws';
import { eventually } from '../support/eventually.js';
import { Instance } from '../support/instance.js';
import { POSTGRES_PROGRAMS, sharedPostgres } from '../support/postgres.js';
import { describeWith } from '../support/programs.js';
import { RawClient } from '../support/raw-client.js';
import { REDIS_PROGRAMS, startRedis } from '../support/redis.js';
import { Scene } from '../support/scene.js';

const CLIENTS = 2_000;
const USERS = 20;
/** Clients of the burst, over bare sockets. */
const BURST = 5_000;
const BUSY = new URL('../support/busy-primary.js', import.meta.url).href;

/** A client of either wire that connects, says SUBSCRIBE at once, and waits for one answer. */
interface Client {
  readonly answered: Promise<unknown>;
  close(): void;
}

function plainClient(url: string, key: string, room: string): Client {
  const socket = new WebSocket(`${url.replace('http', 'ws')}/api/ws/tasks?api_key=${key}`);
  const answered = new Promise((resolve, reject) => {
    socket.once('open', () => socket.send(JSON.stringify({ type: 'SUBSCRIBE', data: { room }, request_id: 'one' })));
    socket.on('message', (text) => {
      const message = JSON.parse(String(text));
      if (message.type === 'SUCCESS') {
        resolve(message.data.data.room);
      } else if (message.type === 'ERROR') {
        reject(new Error(JSON.stringify(message)));
      }
    });
    socket.once('error', reject);
    socket.once('close', (code) => reject(new Error(`closed with ${code}`)));
  });
  return { answered, close: () => socket.terminate() };
}

function socketioClient(url: string, key: string, room: string): Client {
  const socket: Socket = io(`${url}/api/ws/tasks`, {
    auth: { api_key: key },
    transports: ['websocket'],
    forceNew: true,
    reconnection: false,
    timeout: 60_000,
  });
  const answered = new Promise((resolve, reject) => {
    socket.once('connect', () => {
      socket.emit('SUBSCRIBE', { room }, (answer: { room?: string }) => resolve(answer.room));
    });
    socket.once('connect_error', reject);
    socket.once('disconnect', (reason) => reject(new Error(reason)));
  });
  return { answered, close: () => socket.disconnect() };
}

describeWith([...POSTGRES_PROGRAMS, ...REDIS_PROGRAMS], 'a storm of connections through sticky', function () {
  this.timeout(180_000);
  let redis: Awaited<ReturnType<typeof startRedis>>;
  let scene: Scene;
  let instance: Instance;
  let env: Record<string, string>;

  before(async () => {
    const databaseUrl = await (await sharedPostgres()).createDatabase();
    redis = await startRedis();
    scene = await Scene.make(databaseUrl, { users: USERS, jobsPerUser: 1 });
    env = { DATABASE_URL: databaseUrl, REDIS_URL: redis.url };
    instance = await Instance.start({ env });
  });

  after(async () => {
    await instance?.stop();
    await scene?.close();
    await redis?.stop();
  });

  for (const [wire, connect] of [
    ['plain WebSocket', plainClient],
    ['Socket.IO', socketioClient],
  ] as const) {
    it(`answers each of ${CLIENTS} SUBSCRIBEs over ${wire}`, async () => {
      const clients: Client[] = [];
      const expected: string[] = [];
      for (let index = 0; index < CLIENTS; index += 1) {
        const { jobId, userId } = scene.jobs[index % scene.jobs.length]!;
        expected.push(`job:${jobId}`);
        clients.push(connect(instance.url, scene.keys.get(userId)!, `job:${jobId}`));
      }
      try {
        const answers = await Promise.all(clients.map(({ answered }) => answered));
        expect(answers).to.deep.equal(expected);
        await eventually(async () => {
          const { body } = await instance.get('/api/ws/stats');
          expect(body.data.total_clients).to.equal(CLIENTS);
          expect(body.data.rooms[`job:${scene.jobs[0]!.jobId}`]).to.equal(CLIENTS / USERS);
        });
      } finally {
        for (const client of clients) {
          client.close();
        }
      }
    });
  }

  it(`answers each of ${BURST} SUBSCRIBEs that come with the connection, though the primary is busy`, async () => {
    const busy = await Instance.start({ env, preload: BUSY });
    const clients: RawClient[] = [];
    try {
      const answers: string[][] = [];
      const expected: string[][] = [];
      for (let index = 0; index < BURST; index += 1) {
        const { jobId, userId } = scene.jobs[index % scene.jobs.length]!;
        const target = { wire: 'websocket', port: busy.port, key: scene.keys.get(userId)! } as const;
        const heard: string[] = [];
        answers.push(heard);
        expected.push([`SUCCESS job:${jobId}`]);
        const request = { room: `job:${jobId}`, snapshot: false };
        clients.push(
          new RawClient(target, request, ({ payload }) => {
            const { type, data } = JSON.parse(payload.toString());
            heard.push(`${type} ${type === 'SUCCESS' ? data.data.room : data.code}`);
          }),
        );
      }
      await eventually(
        () => {
          const waiting = clients.filter((client, index) => answers[index]!.length === 0 && client.ended === undefined);
          expect(waiting.length, 'clients without an answer').to.equal(0);
        },
        { timeoutMs: 60_000 },
      );
      expect(clients.flatMap(({ ended }) => ended ?? [])).to.deep.equal([]);
      await eventually(async () => {
        const { body } = await busy.get('/api/ws/stats');
        expect(body.data.rooms[`job:${scene.jobs[0]!.jobId}`]).to.equal(BURST / USERS);
      });
      expect(answers).to.deep.equal(expected);
    } finally {
      for (const client of clients) {
        client.destroy();
      }
      await busy.stop();
    }
  });
});
