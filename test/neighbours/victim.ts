import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { io } from 'socket.io-client';
import WebSocket from 'ws';
import { NAMESPACE } from '../../src/protocol/paths.js';

/** What a victim is given. */
export interface VictimTarget {
  readonly port: number;
  readonly key: string;
  readonly job: string;
}

export const ASKED = ['ping', 'subscribe', 'connect', 'read', 'write'] as const;
export type Asked = (typeof ASKED)[number];

/** What a victim has seen since the last report. */
export interface VictimReport {
  /** How long good answers took, in milliseconds. */
  readonly times: Record<Asked, number[]>;
  /** What was not answered well. */
  readonly failures: string[];
  /** Connections that were closed. */
  readonly closed: string[];
}

/** A request that takes longer than this has failed, in milliseconds. */
const PATIENCE_MS = 30_000;
const PAUSE_MS = 40;

const newReport = (): VictimReport => ({
  times: { ping: [], subscribe: [], connect: [], read: [], write: [] },
  failures: [],
  closed: [],
});

// The process of one user who does nothing wrong: it asks for one thing after the other, on each wire, and reports.
if (process.send !== undefined) {
  process.once('disconnect', () => process.exit());
  await live(JSON.parse(process.argv[2]!) as VictimTarget);
}

type Ask = (type: string, data?: unknown) => Promise<{ readonly error?: unknown }>;

async function live(target: VictimTarget): Promise<void> {
  let report = newReport();
  process.on('message', () => {
    process.send?.(report);
    report = newReport();
  });
  const wires = [
    await plain(target, (text) => report.closed.push(text)),
    await socketio(target, (text) => report.closed.push(text)),
  ];
  const timed = async (kind: Asked, work: () => Promise<unknown>): Promise<void> => {
    const start = performance.now();
    try {
      await work();
      report.times[kind].push(performance.now() - start);
    } catch (error) {
      report.failures.push(`${kind}: ${(error as Error).message}`);
    }
    await sleep(PAUSE_MS);
  };
  const rest = async (method: string, path: string, body?: unknown): Promise<string> => {
    const response = await fetch(`http://127.0.0.1:${target.port}${path}`, {
      method,
      headers: { 'x-api-key': target.key, 'content-type': 'application/json' },
      signal: AbortSignal.timeout(PATIENCE_MS),
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    if (!response.ok) {
      throw new Error(`${response.status} ${await response.text()}`);
    }
    return response.text();
  };
  // One task: a job that grew would make the snapshots that it asks for ever dearer, and its own allowance would end.
  const made = await rest('POST', '/api/tasks', { job_id: target.job, task_definition_id: 1 });
  const { task_id } = JSON.parse(made) as { task_id: number };
  process.send?.(wires.map(({ port }) => port));
  const asks = wires.map(async ({ ask }) => {
    for (;;) {
      await timed('ping', () => ask('PING'));
      await timed('subscribe', () => ask('SUBSCRIBE', { room: `job:${target.job}` }));
    }
  });
  const requests = (async () => {
    for (;;) {
      await timed('read', () => rest('GET', `/api/tasks/job/${target.job}?limit=20`));
      await timed('write', () => rest('PUT', `/api/tasks/${task_id}/fee`, { fee: 1 }));
    }
  })();
  const connects = (async () => {
    for (;;) {
      await timed('connect', () => within(comeAndGo(target)));
    }
  })();
  await Promise.all([...asks, requests, connects]);
}

/** A connection that is made, asks for something and goes. */
function comeAndGo({ port, key }: VictimTarget): Promise<void> {
  const ws = new WebSocket(`ws://127.0.0.1:${port}${NAMESPACE}?api_key=${key}`);
  return new Promise((resolve, reject) => {
    ws.on('error', reject);
    ws.on('close', (code, reason) => reject(new Error(`${code} ${String(reason)}`)));
    ws.once('open', () => ws.send('{"type":"PING"}'));
    ws.once('message', () => {
      resolve();
      ws.close();
    });
  });
}

function within<T>(promise: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error('no answer')), PATIENCE_MS);
    void promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

function assertGood(answer: { readonly error?: unknown }): { readonly error?: unknown } {
  if (answer.error !== undefined) {
    throw new Error(JSON.stringify(answer.error));
  }
  return answer;
}

/** A connection that stays. */
interface Wire {
  /** Of this end. */
  readonly port: number | undefined;
  readonly ask: Ask;
}

/** What Node.js' WebSockets have below them. */
type Lower = { readonly _socket?: Socket };

async function plain({ port, key }: VictimTarget, closed: (text: string) => void): Promise<Wire> {
  const ws = new WebSocket(`ws://127.0.0.1:${port}${NAMESPACE}?api_key=${key}`);
  const waiting = new Map<string, (answer: { error?: unknown }) => void>();
  let last = 0;
  ws.on('error', () => {});
  ws.on('close', (code, reason) => closed(`plain: ${code} ${String(reason)}`));
  ws.on('message', (bytes) => {
    const { type, data, request_id: id } = JSON.parse(String(bytes)) as Record<string, unknown>;
    waiting.get(String(id))?.(type === 'ERROR' ? { error: data } : {});
  });
  await new Promise((resolve) => ws.once('open', resolve));
  const ask: Ask = async (type, data) => {
    last += 1;
    const id = String(last);
    const answer = new Promise<{ error?: unknown }>((resolve) => waiting.set(id, resolve));
    ws.send(JSON.stringify({ type, data, request_id: id }));
    return assertGood(await within(answer));
  };
  return { port: (ws as Lower)._socket?.localPort, ask };
}

async function socketio({ port, key }: VictimTarget, closed: (text: string) => void): Promise<Wire> {
  const socket = io(`http://127.0.0.1:${port}${NAMESPACE}`, { auth: { api_key: key }, transports: ['websocket'] });
  socket.on('disconnect', (reason) => closed(`socket.io: ${reason}`));
  await new Promise((resolve) => socket.once('connect', () => resolve(undefined)));
  const { ws } = socket.io.engine.transport as unknown as { readonly ws: Lower };
  return {
    port: ws._socket?.localPort,
    ask: async (type, data) =>
      assertGood(await within(new Promise((resolve) => socket.emit(type, data ?? {}, resolve)))),
  };
}
