import { expect } from 'chai';
import type { BrowserContext, Page } from 'playwright-core';
import { Publisher } from '../../../../dist/src/broker/publisher.js';
import { connectTransport, type RedisTransport } from '../../../../dist/src/broker/redis/redis-transport.js';
import { TaskRepository } from '../../../../dist/src/repository/task-repository.js';
import { eventually } from '../../../../dist/test/support/eventually.js';
import { Instance } from '../../../../dist/test/support/instance.js';
import { type PostgresServer, startPostgres } from '../../../../dist/test/support/postgres.js';
import { type RedisServer, startRedis } from '../../../../dist/test/support/redis.js';
import { Scene } from '../../../../dist/test/support/scene.js';
import { type ProxyMode, TcpProxy } from '../../../../dist/test/support/tcp-proxy.js';
import { random } from '../../../../dist/test/support/writers.js';
import { PageServer } from '../support/page-server.js';
import { startChromium } from './chrome.js';
import { Load } from './load.js';

/** How the page of the newcomer reaches the service: what is written into it. */
const TRANSPORTS: Readonly<Record<string, string | undefined>> = {
  'plain WebSocket': undefined,
  'Socket.IO': `import { socketio } from '@taskwire/client/socketio'; import { io } from 'socket.io-client';\nsocketio(io)`,
  'Server-Sent Events': `import { sse } from '@taskwire/client/sse';\nsse()`,
  'one connection for all tabs': `import { websocket } from '@taskwire/client'; import { tabs } from '@taskwire/client/tabs';\ntabs({ transport: websocket(), name: 'user_1' })`,
};

/** The user and the job of the page, and another job of the user, in the same stream. */
const USER = 'user_1';
const JOB = '1001';
/** How long everything may take to come back after a fault, in milliseconds. */
export const PATIENCE = { timeoutMs: 120_000, intervalMs: 100 };

/** The page over one transport, and the tabs in which it is open. */
export interface Site {
  readonly transport: string;
  readonly pages: PageServer;
  /** Between the browser and the service: an address of its own, as browsers count connections by address. */
  readonly proxy: TcpProxy;
  readonly tabs: Page[];
}

/** What a quiet point has found. */
export interface QuietPoint {
  /** Rows that were compared, of all tabs together. */
  readonly rows: number;
  /** Rows that are not those of the table, are missing or too many. */
  readonly wrong: string[];
  /** How long after the last write the last tab showed it, in milliseconds. */
  readonly lateMs: number;
}

/** Everything that the page of the newcomer needs, in one place: the service, what it stands on, writers, a browser. */
export class Stage {
  instance!: Instance;
  redis!: RedisServer;
  postgres!: PostgresServer;
  /** The browser. */
  context!: BrowserContext;
  load!: Load;
  readonly sites: Site[] = [];
  private scene!: Scene;
  private transport!: RedisTransport;
  private env!: Record<string, string>;
  private marks = 0;
  /** What is stopped in the end, last first. */
  private readonly started: Array<() => unknown> = [];

  /** @param options `rate`: rows that are written in a second */
  constructor(private readonly options: { readonly seed: number; readonly rate: number }) {}

  async start(): Promise<void> {
    this.postgres = await startPostgres();
    this.started.push(() => this.postgres.stop());
    const databaseUrl = await this.postgres.createDatabase();
    this.redis = await startRedis();
    this.started.push(() => this.redis.stop());
    this.scene = await Scene.make(databaseUrl, { users: 1, jobsPerUser: 2 });
    this.started.push(() => this.scene.close());
    this.env = {
      DATABASE_URL: databaseUrl,
      REDIS_URL: this.redis.url,
      TOKEN_SECRET: 'of a test and long enough for a secret',
    };
    this.instance = await Instance.start({ env: this.env });
    this.started.push(() => this.instance.stop());
    this.transport = await connectTransport({ url: this.redis.url });
    this.started.push(() => this.transport.close());
    const { context, stop } = await startChromium();
    this.context = context;
    this.started.push(stop);
    const repository = new TaskRepository(this.scene.db, new Publisher(this.transport));
    // The first task of the job is the one that marks quiet points.
    await repository.createTaskData({ job_id: JOB, task_definition_id: 1 });
    for (const [transport, source] of Object.entries(TRANSPORTS)) {
      await this.openSite(transport, source);
    }
    const { seed, rate } = this.options;
    const ports = { url: () => this.instance.url, scene: this.scene, repository, random: random(seed), rate };
    this.load = new Load(ports);
    this.load.start();
    this.started.push(() => this.load.stop());
  }

  async stop(): Promise<void> {
    const failures: unknown[] = [];
    for (const end of this.started.reverse()) {
      try {
        await end();
      } catch (error) {
        failures.push(error);
      }
    }
    if (failures.length > 0) {
      throw new AggregateError(failures, `Not all could be stopped: ${failures.join('; ')}`);
    }
  }

  get tabs(): Page[] {
    return this.sites.flatMap(({ tabs }) => tabs);
  }

  /** Opens tabs, by turns of each site, until there are so many. */
  async openTabs(count: number): Promise<void> {
    for (let turn = 0; this.tabs.length < count; turn += 1) {
      await this.openTab(this.sites[turn % this.sites.length]!);
    }
  }

  async openTab({ pages, tabs }: Site): Promise<Page> {
    const tab = await this.context.newPage();
    tabs.push(tab);
    await tab.goto(pages.url, { waitUntil: 'commit' });
    return tab;
  }

  /** What the network does. */
  network(mode: ProxyMode | 'cut'): void {
    for (const { proxy } of this.sites) {
      mode === 'cut' ? proxy.cut() : proxy.setMode(mode);
    }
  }

  /** Kills the service and starts it again at its address. */
  async restartService(): Promise<void> {
    const { port } = this.instance;
    await this.instance.kill();
    this.instance = await Instance.start({ env: this.env, port });
  }

  /** How long tokens of the pages live from now on, in seconds. */
  set tokenSeconds(seconds: number) {
    for (const { pages } of this.sites) {
      pages.tokenSeconds = seconds;
    }
  }

  /** What each tab says of its rows: `live`, `stale` and so on. */
  statuses(): Promise<Array<string | null>> {
    return Promise.all(
      this.tabs.map((tab) => tab.evaluate(() => document.querySelector('table')?.dataset['status'] ?? null)),
    );
  }

  /**
   * Writers stop, one last write is marked, and each tab has to show the table as soon as it shows the mark.
   * @throws AssertionError when a tab does not show it within `PATIENCE`
   */
  async quietPoint(): Promise<QuietPoint> {
    await this.load.pause();
    try {
      for (;;) {
        const due = await this.mark();
        const since = performance.now();
        const shown = await Promise.all(this.sites.flatMap((site) => site.tabs.map((tab) => see(site, tab, due))));
        const lateMs = Math.round(performance.now() - since);
        // What an interrupted write leaves may be committed behind the mark.
        if ((await this.head()) === due.head) {
          const wrong = shown.flatMap(({ rows, transport }) =>
            differences(rows, due.rows).map((row) => `${transport}: ${row}`),
          );
          return { rows: due.rows.length * shown.length, wrong, lateMs };
        }
      }
    } finally {
      this.load.resume();
    }
  }

  private async openSite(transport: string, source: string | undefined): Promise<void> {
    const proxy = new TcpProxy({ port: this.instance.port });
    await proxy.start();
    this.started.push(() => proxy.stop());
    const pages = new PageServer({
      url: `http://127.0.0.1:${proxy.port}`,
      api: () => this.instance.url,
      key: this.scene.keys.get(USER)!,
      user: USER,
      job: JOB,
      ...(source === undefined ? {} : { transport: source }),
    });
    await pages.start();
    this.started.push(() => pages.stop());
    this.sites.push({ transport, pages, proxy, tabs: [] });
  }

  /** Writes the mark, and reads the table as it is then. */
  private async mark(): Promise<Due> {
    this.marks += 1;
    const mark = 1_000_000 + this.marks;
    return eventually(async () => {
      const { db } = this.scene;
      await db.raw(
        'UPDATE tasks SET task_opx_cost = ? WHERE task_id = (SELECT min(task_id) FROM tasks WHERE job_id = ?)',
        [mark, JOB],
      );
      const head = await this.head();
      const { rows } = await db.raw<{
        rows: Array<{ task_id: string; task_status: string; task_opx_cost: number | null }>;
      }>('SELECT task_id, task_status, task_opx_cost FROM tasks WHERE job_id = ? ORDER BY task_id', [JOB]);
      return {
        mark: String(mark),
        head,
        rows: rows.map(({ task_id, task_status, task_opx_cost }) => `${task_id} ${task_status} ${task_opx_cost ?? ''}`),
      };
    }, PATIENCE);
  }

  private async head(): Promise<string> {
    const { rows } = await this.scene.db.raw<{ rows: Array<{ seq: string }> }>(
      'SELECT seq FROM event_streams WHERE user_id = ?',
      [USER],
    );
    return rows[0]!.seq;
  }
}

interface Due {
  readonly mark: string;
  /** Last number of the stream after the mark. */
  readonly head: string;
  readonly rows: readonly string[];
}

/** Reads a tab once it shows the mark, in one go. */
async function see({ transport }: Site, tab: Page, { mark }: Due): Promise<{ transport: string; rows: string[] }> {
  let rows: string[] = [];
  await eventually(async () => {
    const { status, connection, lines } = await tab.evaluate(() => ({
      status: document.querySelector('table')?.dataset['status'],
      connection: document.querySelector('table')?.dataset['connection'],
      lines: [...document.querySelectorAll('tr')].map((row) =>
        [...row.cells].map((cell) => cell.textContent).join(' '),
      ),
    }));
    expect({ transport, connection, first: lines[0]?.split(' ').at(-1) }).to.include({ transport, first: mark });
    expect({ transport, connection, status }).to.include({ status: 'live' });
    rows = lines;
  }, PATIENCE);
  return { transport, rows };
}

/** Rows that only one of the two has. */
function differences(shown: readonly string[], due: readonly string[]): string[] {
  const [left, right] = [new Set(shown), new Set(due)];
  const order = shown.length === due.length && shown.some((row, index) => row !== due[index]) ? ['another order'] : [];
  const odd = [
    ...shown.filter((row) => !right.has(row)).map((row) => `shows ${row}`),
    ...due.filter((row) => !left.has(row)).map((row) => `misses ${row}`),
  ];
  return odd.length > 0 ? odd : order;
}
