import type { Knex } from 'knex';
import type { Logger } from '../base/logger.js';
import { connectPool, finderOf, type PooledConnection } from './connect-database.js';
import { SESSION_FACTS, type ServerFinder, type SessionFacts } from './server-finder.js';

/** How often the connection is checked, in milliseconds: one that broke silently is noticed by that, and a server that was demoted. */
const CHECK_MS = 5_000;
const RETRY_MS = 1_000;

/** What is used of the driver's connection. */
interface ListeningConnection extends Pick<PooledConnection, 'generation'> {
  query(sql: string, done: (error: Error | null, result: { readonly rows: readonly object[] }) => void): unknown;
  on(event: 'notification', listener: (message: { readonly payload?: string }) => void): unknown;
  once(event: 'error' | 'end', listener: () => void): unknown;
  removeAllListeners(event: 'notification'): unknown;
}

export interface ChangeListenerOptions {
  readonly url: string;
  readonly logger: Pick<Logger, 'info' | 'warn'>;
  /**
   * Events were committed that nobody publishes: the log has them.
   * @param userId whose; undefined: of whomever
   */
  readonly onChange: (userId: string | undefined) => void;
  /** Whether changes are heard, whenever that changes. */
  readonly onState: (listening: boolean) => void;
}

/**
 * Hears of events that were committed without a publisher: changes by other programs, and writes within their
 * transactions. It only makes delivery quick: without it, workers find the events in the log at the next reconcile.
 */
export class ChangeListener {
  private readonly finder: ServerFinder;
  private readonly db: Knex;
  private stopped = false;
  private wake: (() => void) | undefined;
  private running: Promise<void> | undefined;

  constructor(private readonly options: ChangeListenerOptions) {
    const { url } = options;
    this.finder = finderOf({ url });
    this.db = connectPool({ url, pool: 1, applicationName: 'taskwire listen' }, this.finder);
  }

  /** Begins to listen, and does so again whenever the connection is lost. Does nothing behind a transaction pooler. */
  start(): void {
    if (this.finder.prepare) {
      this.running ??= this.run();
    }
  }

  async stop(): Promise<void> {
    this.stopped = true;
    this.wake?.();
    await this.running;
    await this.db.destroy();
  }

  private async run(): Promise<void> {
    const { logger, onState } = this.options;
    for (let told = false; !this.stopped; ) {
      try {
        await this.listen();
        told = false;
      } catch (error) {
        if (!told && !this.stopped) {
          logger.warn('not listening for changes by other programs; they are found in the log, later', { error });
          told = true;
        }
      }
      onState(false);
      await this.pause(RETRY_MS);
    }
  }

  /** Listens until the connection is lost. */
  private async listen(): Promise<void> {
    const { onChange, onState } = this.options;
    const client = this.db.client as {
      acquireConnection(): Promise<ListeningConnection>;
      releaseConnection(connection: ListeningConnection): Promise<void>;
    };
    const connection = await client.acquireConnection();
    let lost = false;
    const lose = (): void => {
      lost = true;
      this.wake?.();
    };
    connection.once('error', lose);
    connection.once('end', lose);
    try {
      connection.on('notification', ({ payload }) => onChange(payload === '' ? undefined : payload));
      const [row] = await run<{ channel: string }>(connection, 'SELECT taskwire_channel() AS channel');
      await run(connection, `LISTEN "${row?.channel}"`);
      onState(true);
      // Something may have been committed before this connection listened.
      onChange(undefined);
      while (!lost && !this.stopped) {
        await this.pause(CHECK_MS);
        await this.finder.examine(async () => (await run<SessionFacts>(connection, SESSION_FACTS))[0]!);
        lost ||= connection.generation !== this.finder.generation;
      }
    } finally {
      connection.removeAllListeners('notification');
      await run(connection, 'UNLISTEN *').catch(() => {
        // The connection is gone, and the pool makes another one.
      });
      await client.releaseConnection(connection);
    }
  }

  private pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

const run = <Row extends object>(connection: ListeningConnection, sql: string): Promise<readonly Row[]> =>
  new Promise((resolve, reject) => {
    connection.query(sql, (error, result) =>
      error === null || error === undefined ? resolve(result.rows as readonly Row[]) : reject(error),
    );
  });
