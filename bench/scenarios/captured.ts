import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import WebSocket from 'ws';
import { eventually } from '../../test/support/eventually.js';
import type { Server } from '../lib/server.js';
import { latencyFigures } from '../lib/stats.js';
import type { World } from '../lib/world.js';
import type { Context, Outcome, Scenario, Subject } from './context.js';

/** Users, each with a stream of its own; a client is in all of them. */
const USERS = 50;
/** Shortest pause between two changes; up to twice as long, so that changes come at any time between two reads of the log. */
const PAUSE_MS = 40;

/** A client that waits for an event which it knows will come. */
class Watcher {
  readonly latencies: number[] = [];
  private readonly sent = new Map<number, number>();
  private live = false;

  private constructor(private readonly socket: WebSocket) {
    socket.on('message', (bytes) => this.hear(bytes as Buffer));
  }

  static async open({ port }: Server, { key, jobs }: World): Promise<Watcher> {
    const socket = new WebSocket(`ws://127.0.0.1:${port}/api/ws/tasks`, { headers: { 'x-api-key': key } });
    const watcher = new Watcher(socket);
    const rooms = jobs.map(({ userId }) => `user:${userId}`);
    socket.once('open', () => socket.send(JSON.stringify({ type: 'SUBSCRIBE', data: { rooms } })));
    await eventually(() => {
      if (!watcher.live) {
        throw new Error('not subscribed');
      }
    });
    return watcher;
  }

  /** The change with this fee is about to be committed. */
  expect(fee: number): void {
    this.sent.set(fee, performance.now());
  }

  get missing(): number {
    return this.sent.size;
  }

  close(): void {
    this.socket.terminate();
  }

  private hear(bytes: Buffer): void {
    const at = performance.now();
    const { type, data } = JSON.parse(String(bytes));
    this.live ||= type === 'SUCCESS';
    const sent = type === 'TASK_FEE_UPDATED' ? this.sent.get(data.changes.new_fee) : undefined;
    if (sent !== undefined) {
      this.sent.delete(data.changes.new_fee);
      this.latencies.push(at - sent);
    }
  }
}

/**
 * Changes rows one after the other by a session that knows nothing of us, on a system that does nothing else. The time of a
 * change begins when its statement is sent: the commit is later.
 */
async function measured(
  context: Context,
  world: World,
  server: Server,
  changes: number,
): Promise<Record<string, number>> {
  const watcher = await Watcher.open(server, world);
  const client = new pg.Client({ connectionString: world.databaseUrl });
  await client.connect();
  const base = context.kept.get('fees') ?? 0;
  context.kept.set('fees', base + changes);
  try {
    for (let change = 1; change <= changes; change += 1) {
      await sleep(Math.random() * 2 * PAUSE_MS);
      const { taskIds } = world.jobs[change % USERS]!;
      watcher.expect(base + change);
      await client.query('UPDATE tasks SET task_opx_cost = $1 WHERE task_id = $2', [base + change, taskIds[0]]);
    }
    await eventually(() => {
      if (watcher.missing > 0) {
        throw new Error(`${watcher.missing} of ${changes} changes did not arrive`);
      }
    });
    return latencyFigures(
      Float64Array.from(watcher.latencies, (ms) => ms * 1_000),
      'latency',
    );
  } finally {
    watcher.close();
    await client.end();
  }
}

async function run(context: Context, { variant }: Subject): Promise<Outcome[]> {
  const world = await context.world({ jobs: USERS, users: USERS, tasksPerJob: 1 });
  const outcomes: Outcome[] = [];
  for (const [scenario, url] of [
    ['S9 with the listener', world.databaseUrl],
    // As behind a transaction pooler, where nobody can listen.
    ['S9 without the listener', `${world.databaseUrl}?prepare=false`],
  ] as const) {
    const server = await context.server(variant, { ...world, databaseUrl: url });
    try {
      outcomes.push({ scenario, figures: await measured(context, world, server, context.size(1_000, 10)) });
    } finally {
      await server.stop();
    }
  }
  return outcomes;
}

export const capturedScenario: Scenario = {
  name: 'S9',
  title: 'from a change by another program to the client',
  run,
  concerns: ({ variant, wire }) => variant.name === 'ours' && wire === 'plain',
};
