import pg from 'pg';
import type { Job } from '../support/writers.js';
import { deletionTag, type Ledger, SQL_TAG, type SqlWrite } from './ledger.js';

const INSERT = `INSERT INTO tasks (job_id, user_id, task_definition_id, is_imua, task_status, created_at, tx_url)
  VALUES ($1, $2, 5, true, 'pending', now(), $3) RETURNING task_id`;

/** A program that knows nothing of the service: it has a connection to whatever is the primary, and writes rows. */
export class SqlWriter {
  private client: pg.Client | undefined;
  private count = 0;
  /** Tasks that it has made, and nobody else writes. */
  private readonly own: number[] = [];

  /** @param url of the server that takes writes now */
  constructor(
    private readonly url: () => string,
    private readonly name: string,
    private readonly jobs: readonly Job[],
    private readonly next: () => number,
    private readonly ledger: Ledger,
  ) {}

  /** Makes one transaction, of a random kind. @throws Error when it is not known to be committed or rolled back */
  async write(): Promise<void> {
    this.count += 1;
    const tag = `${SQL_TAG}${this.name}-${this.count}`;
    const job = this.jobs[Math.floor(this.next() * this.jobs.length)]!;
    const roll = this.next();
    if (this.own.length < 5 || roll < 0.3) {
      await this.transaction(tag, async (query) => {
        const { rows } = await query(INSERT, [job.jobId, job.userId, tag]);
        return { rows: 1, committed: () => this.own.push(Number(rows[0].task_id)) };
      });
    } else if (roll < 0.5) {
      const taskId = this.own.shift()!;
      await this.transaction(deletionTag(taskId), (query) =>
        rowsOf(query('DELETE FROM tasks WHERE task_id = $1', [taskId])),
      );
    } else {
      // In the order of their ids, as whoever writes several has to lock them.
      const some = `SELECT task_id FROM tasks WHERE job_id = $2 ORDER BY task_id DESC LIMIT 3`;
      const update = `UPDATE tasks SET tx_url = $1, task_opx_cost = $3 WHERE task_id IN
        (SELECT task_id FROM tasks WHERE task_id IN (${some}) ORDER BY task_id FOR UPDATE)`;
      await this.transaction(tag, (query) => rowsOf(query(update, [tag, job.jobId, this.count])), roll > 0.9);
    }
  }

  async stop(): Promise<void> {
    await this.client?.end().catch(() => {});
  }

  private async transaction(
    tag: string,
    work: (query: pg.Client['query']) => Promise<{ rows: number; committed?: () => void }>,
    thenRollBack = false,
  ): Promise<void> {
    let fate: SqlWrite['fate'] = 'unknown';
    let rows: number | undefined;
    try {
      const client = await this.connect();
      await client.query('BEGIN');
      const done = await work(client.query.bind(client) as pg.Client['query']);
      await client.query(thenRollBack ? 'ROLLBACK' : 'COMMIT');
      ({ rows } = done);
      fate = thenRollBack ? 'rolled back' : 'committed';
      done.committed?.();
    } catch (error) {
      await this.client?.end().catch(() => {});
      this.client = undefined;
      throw error;
    } finally {
      this.ledger.sql.push({ tag, fate, rows });
    }
  }

  private async connect(): Promise<pg.Client> {
    if (this.client === undefined) {
      const client = new pg.Client({ connectionString: this.url(), connectionTimeoutMillis: 3_000 });
      client.on('error', () => {
        // The next statement says it again.
      });
      await client.connect();
      this.client = client;
    }
    return this.client;
  }
}

const rowsOf = async (answer: Promise<pg.QueryResult>): Promise<{ rows: number }> => ({
  rows: (await answer).rowCount ?? 0,
});
