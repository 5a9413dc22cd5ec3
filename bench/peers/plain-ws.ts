/**
 * The ws package with Redis pub/sub: two workers behind node's cluster module, a channel per room that a worker
 * subscribes to while it has members of it, and the heartbeat of the package's documentation. Environment: PORT,
 * WORKERS, REDIS_URL.
 */
import cluster from 'node:cluster';
import { createServer } from 'node:http';
import { Redis } from 'ioredis';
import { WebSocket, WebSocketServer } from 'ws';
import { roomsOf, runPrimary, workerReady } from './process.js';

const HEARTBEAT_MS = 30_000;

interface Client extends WebSocket {
  isAlive: boolean;
  rooms: Set<string>;
}

async function subscribe(redis: Redis, members: Map<string, Set<Client>>, client: Client, room: string): Promise<void> {
  client.rooms.add(room);
  const clients = members.get(room);
  if (clients === undefined) {
    members.set(room, new Set([client]));
    await redis.subscribe(room);
  } else {
    clients.add(client);
  }
}

function leaveAll(redis: Redis, members: Map<string, Set<Client>>, client: Client): void {
  for (const room of client.rooms) {
    const clients = members.get(room);
    clients?.delete(client);
    if (clients?.size === 0) {
      members.delete(room);
      void redis.unsubscribe(room);
    }
  }
}

function runWorker(): void {
  const redis = new Redis(process.env['REDIS_URL']!);
  const members = new Map<string, Set<Client>>();
  const httpServer = createServer();
  const server = new WebSocketServer({ server: httpServer, path: '/api/ws/tasks' });

  redis.on('messageBuffer', (channel: Buffer, message: Buffer) => {
    for (const client of members.get(channel.toString()) ?? []) {
      if (client.readyState === WebSocket.OPEN) {
        client.send(message, { binary: false });
      }
    }
  });

  server.on('connection', (socket) => {
    const client = Object.assign(socket, { isAlive: true, rooms: new Set<string>() });
    client.on('error', console.error);
    client.on('pong', () => {
      client.isAlive = true;
    });
    client.on('message', async (bytes) => {
      const { type, data, request_id } = JSON.parse(bytes.toString()) as Record<string, unknown>;
      if (type === 'SUBSCRIBE') {
        const rooms = roomsOf(data);
        await Promise.all(rooms.map((room) => subscribe(redis, members, client, room)));
        const answer = { rooms: rooms.map((room) => ({ room })) };
        client.send(JSON.stringify({ type: 'SUCCESS', data: { data: answer }, request_id }));
      }
    });
    client.on('close', () => leaveAll(redis, members, client));
  });

  const heartbeat = setInterval(() => {
    for (const client of server.clients as Set<Client>) {
      if (!client.isAlive) {
        client.terminate();
      } else {
        client.isAlive = false;
        client.ping();
      }
    }
  }, HEARTBEAT_MS);
  server.on('close', () => clearInterval(heartbeat));

  redis.once('ready', () => httpServer.listen(Number(process.env['PORT']), '127.0.0.1', 4096, workerReady));
}

if (cluster.isPrimary) {
  runPrimary();
} else {
  runWorker();
}
