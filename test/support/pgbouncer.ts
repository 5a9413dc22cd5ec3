import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, chownSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { eventually } from './eventually.js';
import { unprivileged } from './postgres.js';
import { findProgram, freePort } from './programs.js';

/** The program that `startPgBouncer` needs, for `describeWith`. */
export const PGBOUNCER_PROGRAMS: readonly string[] = ['pgbouncer'];

/** A PgBouncer, in transaction mode unless its settings say otherwise, in front of a Postgres, on a free port of 127.0.0.1. */
export class PgBouncer {
  private constructor(
    readonly port: number,
    private readonly dir: string,
    private readonly child: ChildProcess,
  ) {}

  /** @param postgresPort where the Postgres listens; connections to it are few, so that sessions change hands often */
  static async start(postgresPort: number, settings: Readonly<Record<string, string>> = {}): Promise<PgBouncer> {
    const dir = mkdtempSync(join(tmpdir(), 'taskwire-pgbouncer-'));
    const identity = unprivileged();
    const port = await freePort();
    const ini = join(dir, 'pgbouncer.ini');
    writeFileSync(
      ini,
      `[databases]
* = host=127.0.0.1 port=${postgresPort} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
logfile = ${join(dir, 'log')}
${Object.entries(settings)
  .map(([name, value]) => `${name} = ${value}\n`)
  .join('')}`,
    );
    chmodSync(ini, 0o644);
    if (identity !== undefined) {
      chownSync(dir, identity.uid, identity.gid);
    }
    const child = spawn(findProgram('pgbouncer')!, [ini], { stdio: 'ignore', cwd: dir, ...identity });
    const bouncer = new PgBouncer(port, dir, child);
    const abandon = (): void => {
      child.kill('SIGKILL');
    };
    process.once('exit', abandon);
    child.once('exit', () => process.off('exit', abandon));
    await eventually(async () => {
      const client = new pg.Client({ connectionString: bouncer.url('postgres') });
      await client.connect();
      await client.end();
    });
    return bouncer;
  }

  url(database: string, parameters = ''): string {
    return `postgres://postgres@127.0.0.1:${this.port}/${database}${parameters}`;
  }

  async stop(): Promise<void> {
    if (this.child.exitCode === null && this.child.signalCode === null) {
      const exited = once(this.child, 'exit');
      this.child.kill('SIGKILL');
      await exited;
    }
    rmSync(this.dir, { recursive: true, force: true });
  }
}
