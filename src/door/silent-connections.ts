import type { IncomingMessage, Server } from 'node:http';
import type { Socket } from 'node:net';
import { peerGroup } from './client-address.js';
import { WaitingRoom } from './waiting-room.js';

/** Most connections that have not asked for anything, of one address and in all: those that go have waited a second. */
const LIMITS = { perAddress: 256, inAll: 10_000, graceMs: 1_000 };

/** Connections whose request has not come. Where there are too many, the one that has waited longest is cut off. */
export class SilentConnections {
  private readonly room: WaitingRoom;
  private readonly waiting = new WeakMap<Socket, () => void>();

  /** @param patienceMs how long one may wait, in milliseconds */
  constructor(patienceMs: number) {
    this.room = new WaitingRoom({ ...LIMITS, patienceMs });
  }

  /** @returns a function that is called when its request has come; idempotent */
  enter(socket: Socket): () => void {
    const forget = this.room.enter(peerGroup(socket), () => socket.destroy());
    const leave = (): void => {
      socket.off('close', leave);
      forget();
    };
    socket.on('close', leave);
    return leave;
  }

  /** Counts each connection of a server until the head of its first request is there. To be called when all listeners are there. */
  watch(server: Server): void {
    const asked = ({ socket }: IncomingMessage): void => {
      this.waiting.get(socket)?.();
      this.waiting.delete(socket);
    };
    server.on('connection', (socket: Socket) => {
      // One whose offer of another protocol was ignored comes twice.
      if (!this.waiting.has(socket)) {
        this.waiting.set(socket, this.enter(socket));
      }
    });
    server.prependListener('request', asked);
    if (server.listenerCount('upgrade') > 0) {
      server.prependListener('upgrade', asked);
    }
  }

  stop(): void {
    this.room.stop();
  }
}
