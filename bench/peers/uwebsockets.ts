/**
 * uWebSockets.js with Redis pub/sub: two workers that listen on one port, which the kernel shares out, and the library's
 * own topics. Environment: PORT, WORKERS, REDIS_URL.
 */
import cluster from 'node:cluster';
import { Redis } from 'ioredis';
import { roomsOf, runPrimary, workerReady } from './process.js';
import { loadUws } from './uwebsockets-module.js';

interface UserData {
  rooms: Set<string>;
}

function runWorker(): void {
  const uws = loadUws();
  if (uws === undefined) {
    throw new Error('uWebSockets.js cannot be loaded');
  }
  const redis = new Redis(process.env['REDIS_URL']!);
  const members = new Map<string, number>();
  const app = uws.App();
  app.ws<UserData>('/api/ws/tasks', {
    // The default of 64 kB drops what a burst leaves behind it.
    maxBackpressure: 16 * 1_048_576,
    upgrade: (response, request, context) => {
      response.upgrade(
        { rooms: new Set<string>() },
        request.getHeader('sec-websocket-key'),
        request.getHeader('sec-websocket-protocol'),
        request.getHeader('sec-websocket-extensions'),
        context,
      );
    },
    message: async (socket, bytes) => {
      const { type, data, request_id } = JSON.parse(Buffer.from(bytes).toString()) as Record<string, unknown>;
      if (type !== 'SUBSCRIBE') {
        return;
      }
      const { rooms } = socket.getUserData();
      const asked = roomsOf(data);
      const first: string[] = [];
      for (const room of asked) {
        if (!rooms.has(room)) {
          rooms.add(room);
          socket.subscribe(room);
          members.set(room, (members.get(room) ?? 0) + 1);
          if (members.get(room) === 1) {
            first.push(room);
          }
        }
      }
      if (first.length > 0) {
        await redis.subscribe(...first);
      }
      const answer = { rooms: asked.map((room) => ({ room })) };
      try {
        socket.send(JSON.stringify({ type: 'SUCCESS', data: { data: answer }, request_id }));
      } catch {
        // It was closed meanwhile; the library says so by throwing.
      }
    },
    close: (socket) => {
      for (const room of socket.getUserData().rooms) {
        const left = members.get(room)! - 1;
        members.set(room, left);
        if (left === 0) {
          members.delete(room);
          void redis.unsubscribe(room);
        }
      }
    },
  });
  redis.on('messageBuffer', (channel: Buffer, message: Buffer) => {
    app.publish(channel.toString(), message, false);
  });
  redis.once('ready', () =>
    app.listen('127.0.0.1', Number(process.env['PORT']), (listening) => {
      if (listening === false) {
        throw new Error('the port is taken');
      }
      workerReady();
    }),
  );
}

if (cluster.isPrimary) {
  runPrimary();
} else {
  runWorker();
}
