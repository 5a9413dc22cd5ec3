import { expect } from 'chai';
import { io, type Socket } from 'socket.io-client';
import WebSocket from 'ws';
import { Instance } from '../support/instance.js';
import { POSTGRES_PROGRAMS, sharedPostgres } from '../support/postgres.js';
import { describeWith } from '../support/programs.js';
import { REDIS_PROGRAMS, startRedis } from '../support/redis.js';
import { Scene } from '../support/scene.js';

const CLIENTS = 2_000;
const USERS = 20;

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

  before(async () => {
    const databaseUrl = await (await sharedPostgres()).createDatabase();
    redis = await startRedis();
    scene = await Scene.make(databaseUrl, { users: USERS, jobsPerUser: 1 });
    instance = await Instance.start({ env: { DATABASE_URL: databaseUrl, REDIS_URL: redis.url } });
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
        const { body } = await instance.get('/api/ws/stats');
        expect(body.data.total_clients).to.equal(CLIENTS);
        expect(body.data.rooms[`job:${scene.jobs[0]!.jobId}`]).to.equal(CLIENTS / USERS);
      } finally {
        for (const client of clients) {
          client.close();
        }
      }
    });
  }
});
