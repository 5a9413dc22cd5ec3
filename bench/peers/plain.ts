/**
 * Stock Socket.IO as its documentation shows it: sticky primary, two workers, the Redis adapter. Events come from
 * elsewhere, through @socket.io/redis-emitter. Environment: PORT, WORKERS, REDIS_URL.
 */
import cluster from 'node:cluster';
import { createServer } from 'node:http';
import { createAdapter } from '@socket.io/redis-adapter';
import { setupMaster, setupWorker } from '@socket.io/sticky';
import { Redis } from 'ioredis';
import { Server } from 'socket.io';
import { roomsOf, runPrimary, workerReady } from './process.js';

if (cluster.isPrimary) {
  const httpServer = createServer();
  setupMaster(httpServer, { loadBalancingMethod: 'least-connection' });
  cluster.setupPrimary({ serialization: 'advanced' });
  runPrimary((listening) => httpServer.listen(Number(process.env['PORT']), '127.0.0.1', 4096, listening));
} else {
  const httpServer = createServer();
  const publisher = new Redis(process.env['REDIS_URL']!);
  const subscriber = publisher.duplicate();
  const io = new Server(httpServer, { adapter: createAdapter(publisher, subscriber) });
  setupWorker(io);
  io.of('/api/ws/tasks').on('connection', (socket) => {
    socket.on('SUBSCRIBE', (data: unknown, acknowledge?: (answer: object) => void) => {
      const rooms = roomsOf(data);
      socket.join(rooms);
      acknowledge?.({ rooms: rooms.map((room) => ({ room })) });
    });
  });
  subscriber.once('ready', workerReady);
}
