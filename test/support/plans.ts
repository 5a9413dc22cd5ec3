import type { Knex } from 'knex';
import pg from 'pg';
import { SESSION_SETTINGS } from '../../src/database/connect-database.js';

/** A statement as a repository sent it. */
export interface Sent {
  readonly sql: string;
  readonly bindings: readonly unknown[];
}

/** What a statement read. */
export interface Cost {
  /** Rows that were read from tables, returned or not. */
  readonly rows: number;
  /** Pages of tables and indexes that were looked at. */
  readonly pages: number;
}

interface PlanNode {
  readonly 'Node Type': string;
  readonly 'Relation Name'?: string;
  readonly 'Actual Rows': number;
  readonly 'Actual Loops': number;
  readonly 'Rows Removed by Filter'?: number;
  readonly 'Rows Removed by Index Recheck'?: number;
  readonly 'Shared Hit Blocks': number;
  readonly 'Shared Read Blocks': number;
  readonly Plans?: readonly PlanNode[];
}

/** The statements that some work sends. */
export async function sentBy(db: Knex, work: () => Promise<unknown>): Promise<Sent[]> {
  const sent: Sent[] = [];
  const note = ({ sql, bindings = [] }: { sql: string; bindings?: unknown[] }): unknown => sent.push({ sql, bindings });
  db.on('query', note);
  try {
    await work();
  } finally {
    db.removeListener('query', note);
  }
  return sent;
}

/** Looks at what statements read, over one connection with the settings that pools have. Nothing that they write stays. */
export class Plans {
  private readonly client: pg.Client;
  private readonly names = new Map<string, string>();

  private constructor(url: string, options: string) {
    this.client = new pg.Client({ connectionString: url, options });
  }

  /** @param url of the database, as pools are given it */
  static async connect(url: string): Promise<Plans> {
    const settings = Object.entries(SESSION_SETTINGS).map(([name, value]) => `-c ${name}=${value}`);
    const plans = new Plans(url, settings.join(' '));
    await plans.client.connect();
    return plans;
  }

  end(): Promise<void> {
    return this.client.end();
  }

  /** What a statement reads that is planned for its values. */
  unprepared({ sql, bindings }: Sent): Promise<Cost> {
    return this.explain(sql, bindings);
  }

  /** What a statement reads that was planned when it was first asked for here, without its values. */
  async prepared({ sql, bindings }: Sent): Promise<Cost> {
    let name = this.names.get(sql);
    if (name === undefined) {
      name = `plan_${this.names.size + 1}`;
      this.names.set(sql, name);
      await this.client.query('SET plan_cache_mode = force_generic_plan');
      await this.client.query(`PREPARE ${name} AS ${sql}`);
    }
    const values = bindings.length === 0 ? '' : `(${bindings.map(literal).join(', ')})`;
    return this.explain(`EXECUTE ${name}${values}`, []);
  }

  private async explain(sql: string, bindings: readonly unknown[]): Promise<Cost> {
    await this.client.query('BEGIN');
    try {
      const text = `EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) ${sql}`;
      const { rows } = await this.client.query<{ 'QUERY PLAN': [{ Plan: PlanNode }] }>(text, [...bindings]);
      const { Plan: plan } = rows[0]!['QUERY PLAN'][0];
      return { rows: rowsRead(plan), pages: plan['Shared Hit Blocks'] + plan['Shared Read Blocks'] };
    } finally {
      await this.client.query('ROLLBACK');
    }
  }
}

function rowsRead(node: PlanNode): number {
  const own =
    node['Relation Name'] === undefined || node['Node Type'] === 'ModifyTable'
      ? 0
      : (node['Actual Rows'] + (node['Rows Removed by Filter'] ?? 0) + (node['Rows Removed by Index Recheck'] ?? 0)) *
        node['Actual Loops'];
  return (node.Plans ?? []).reduce((sum, child) => sum + rowsRead(child), own);
}

function literal(value: unknown): string {
  if (value === null || value === undefined) {
    return 'NULL';
  }
  return pg.escapeLiteral(
    Array.isArray(value) ? `{${value.map((item) => JSON.stringify(item)).join(',')}}` : String(value),
  );
}
