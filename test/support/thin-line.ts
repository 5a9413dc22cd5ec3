import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

/** Bytes that go on at a time. */
const PIECE = 8_192;

/** A wire that carries so many bytes a second to the client, and takes no more from the server than it carries. */
export class ThinLine {
  private readonly sockets = new Set<Socket>();

  private constructor(private readonly server: Server) {}

  get url(): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}`;
  }

  /** @param bytesPerSecond to each client */
  static async start(target: number, bytesPerSecond: number): Promise<ThinLine> {
    const server = createServer((client) => {
      const upstream = connect({ port: target, host: '127.0.0.1', highWaterMark: PIECE } as never);
      for (const socket of [client, upstream]) {
        line.sockets.add(socket);
        socket.on('error', () => {});
        socket.once('close', () => {
          client.destroy();
          upstream.destroy();
          line.sockets.delete(socket);
        });
      }
      client.pipe(upstream);
      void carry(upstream, client, bytesPerSecond);
    });
    const line = new ThinLine(server);
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return line;
  }

  async stop(): Promise<void> {
    for (const socket of this.sockets) {
      socket.destroy();
    }
    this.server.close();
    await once(this.server, 'close');
  }
}

async function carry(from: Socket, to: Socket, bytesPerSecond: number): Promise<void> {
  let due = performance.now();
  try {
    for await (const chunk of from as AsyncIterable<Buffer>) {
      for (let at = 0; at < chunk.length; at += PIECE) {
        const piece = chunk.subarray(at, at + PIECE);
        due = Math.max(due, performance.now()) + (piece.length / bytesPerSecond) * 1_000;
        await sleep(due - performance.now());
        to.write(piece);
      }
    }
  } catch {
    // One side has gone, and the other one goes with it.
  }
  to.destroy();
}
