import { setMaxListeners } from 'node:events';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import WebSocket from 'ws';
import { NAMESPACE } from '../../src/protocol/paths.js';
import { count, type Outcome, type Target } from './attack.js';

const BLOCK_BYTES = 65_536;
const PAUSE_MS = 250;

type Opened = WebSocket & { readonly _socket: Socket };

/** Opens a plain connection. */
export const openPlain = ({ port, key, address }: Target): WebSocket =>
  new WebSocket(`ws://127.0.0.1:${port}${NAMESPACE}?api_key=${key}`, { localAddress: address });

/** Opens a plain connection that is to say later whose it is. */
export const openStranger = ({ port, address }: Target): WebSocket =>
  new WebSocket(`ws://127.0.0.1:${port}${NAMESPACE}`, { localAddress: address });

/** Opens an Engine.IO connection that has not said whose it is. */
export const openEngine = ({ port, address }: Target): WebSocket =>
  new WebSocket(`ws://127.0.0.1:${port}/socket.io/?EIO=4&transport=websocket`, { localAddress: address });

/** Opens a Socket.IO connection and enters the namespace. */
export function openSocketio(target: Target): WebSocket {
  const ws = openEngine(target);
  ws.on('message', (bytes) => {
    const text = String(bytes);
    if (text.startsWith('0')) {
      ws.send(`40${NAMESPACE},{"api_key":"${target.key}"}`);
    } else if (text === '2') {
      ws.send('3');
    }
  });
  return ws;
}

/** Resolves when a connection is open, with what it was told first. It rejects when it has ended. */
export function ready(ws: WebSocket, outcome: Outcome, first: RegExp | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const done = (): void => {
      outcome.opened += 1;
      resolve();
    };
    ws.on('error', () => {});
    ws.on('message', (bytes) => {
      const code = /"code":"([A-Z_]+)"/.exec(String(bytes))?.[1];
      if (code !== undefined) {
        count(outcome.codes, code);
      }
    });
    ws.on('close', (code) => {
      count(outcome.closes, code);
      reject(new Error(`closed with ${code}`));
    });
    ws.on('unexpected-response', (_request, response) => {
      count(outcome.statuses, response.statusCode ?? 0);
      response.resume();
      reject(new Error(`refused with ${response.statusCode}`));
    });
    if (first === undefined) {
      ws.once('open', done);
    } else {
      ws.on('message', (bytes) => {
        if (first.test(String(bytes))) {
          done();
        }
      });
    }
  });
}

export interface FloodOptions {
  readonly open: (target: Target) => WebSocket;
  /** What the server says when the connection is ready; undefined: nothing. */
  readonly first?: RegExp;
  /** Sent once before. */
  readonly begin?: Buffer;
  /** A whole frame of a client, sent again and again. */
  readonly frame: Buffer;
  readonly connections: number;
}

/** Opens connections, sends one frame over each as fast as it is taken, and comes back whenever it is closed. */
export async function flood(target: Target, outcome: Outcome, stop: AbortSignal, options: FloodOptions): Promise<void> {
  const { open, first, frame, connections } = options;
  const block = Buffer.concat(Array<Buffer>(Math.ceil(BLOCK_BYTES / frame.length)).fill(frame));
  let openNow = 0;
  const one = async (): Promise<void> => {
    while (!stop.aborted) {
      const ws = open(target);
      try {
        await ready(ws, outcome, first);
        openNow += 1;
        outcome.most = Math.max(outcome.most, openNow);
        (ws as Opened)._socket.write(options.begin ?? Buffer.alloc(0));
        await writeAll((ws as Opened)._socket, block, outcome, stop);
        openNow -= 1;
      } catch {
        // It was refused, and comes back.
      }
      if (stop.aborted) {
        ws.terminate();
      }
      await sleep(PAUSE_MS);
    }
  };
  await Promise.all(Array.from({ length: connections }, one));
}

async function writeAll(socket: Socket, block: Buffer, outcome: Outcome, stop: AbortSignal): Promise<void> {
  let before = socket.bytesWritten;
  while (!stop.aborted && !socket.destroyed) {
    if (!socket.write(block)) {
      await Promise.race([heard(socket, 'drain'), heard(socket, 'close'), sleep(PAUSE_MS)]);
    }
    while (socket.writableLength > 0 && !socket.destroyed && !stop.aborted) {
      await sleep(1);
    }
    outcome.bytes += socket.bytesWritten - before;
    before = socket.bytesWritten;
  }
}

function heard(socket: Socket, event: 'drain' | 'close'): Promise<void> {
  return new Promise((resolve) => socket.once(event, () => resolve()));
}

/** A socket that writes one thing and never reads. Who reads nothing learns of the end by writing: it goes on with `more`. */
export function silentSocket(target: Target, outcome: Outcome, begin: string, more: string): Promise<void> {
  const socket = connect({ host: '127.0.0.1', port: target.port, localAddress: target.address });
  socket.on('error', () => {});
  socket.once('connect', () => {
    outcome.opened += 1;
    socket.write(begin);
  });
  const timer = setInterval(() => socket.write(more), 500);
  return new Promise((resolve) => {
    socket.once('close', () => {
      clearInterval(timer);
      count(outcome.closes, 'cut');
      resolve();
    });
  });
}

/** Does something again and again, so many at a time, until it is told to stop; what fails is done again after a while. */
export async function again(stop: AbortSignal, atOnce: number, work: (n: number) => Promise<unknown>): Promise<void> {
  const one = async (n: number): Promise<void> => {
    while (!stop.aborted) {
      await work(n).catch(() => {});
      await sleep(20);
    }
  };
  setMaxListeners(0, stop);
  const stopped = new Promise((resolve) => stop.addEventListener('abort', resolve));
  await Promise.race([Promise.all(Array.from({ length: atOnce }, (_, n) => one(n))), stopped]);
}
