import { type ChildProcess, execFile, spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { chownSync, closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import pg from 'pg';
import { connectDatabase } from '../../src/database/connect-database.js';
import { migrate } from '../../src/schema/migrate.js';
import { eventually } from './eventually.js';
import { findProgram, freePort } from './programs.js';

/** The programs that `startPostgres` needs, for `describeWith`. */
export const POSTGRES_PROGRAMS: readonly string[] = ['initdb', 'postgres'];
/** Those that `startStandby` needs. */
export const STANDBY_PROGRAMS: readonly string[] = [...POSTGRES_PROGRAMS, 'pg_basebackup'];

/** Configuration parameters of Postgres. */
export type PostgresSettings = Readonly<Record<string, string | number>>;

const TEMPLATE = 'taskwire_template';

/** How the server is told to stop: `smart` is of no use in tests, `kill` is SIGKILL. */
type StopMode = 'fast' | 'immediate' | 'kill';
const SIGNALS = { fast: 'SIGINT', immediate: 'SIGQUIT', kill: 'SIGKILL' } as const;

/** Postgres refuses to run as root; root lends it the identity of somebody without rights. */
export function unprivileged(): { uid: number; gid: number } | undefined {
  if (process.getuid?.() !== 0) {
    return undefined;
  }
  const users = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .map((line) => line.split(':'));
  const user = ['postgres', 'nobody'].flatMap((name) => users.filter((fields) => fields[0] === name))[0];
  if (user === undefined) {
    throw new Error('postgres does not run as root, and there is neither a user "postgres" nor "nobody"');
  }
  return { uid: Number(user[2]), gid: Number(user[3]) };
}

/** A Postgres server of the test's own: a temporary folder, a free port of 127.0.0.1, everybody trusted. */
export class PostgresServer {
  /** Database `postgres`, for statements that no test database can take. */
  readonly adminUrl: string;
  /** An empty database; `createDatabase` makes migrated ones. */
  readonly url: string;
  private child: ChildProcess | undefined;
  private template: Promise<void> | undefined;

  constructor(
    readonly port: number,
    private readonly dir: string,
    private readonly identity: { uid: number; gid: number } | undefined,
    private readonly settings: PostgresSettings,
  ) {
    this.adminUrl = this.urlOf('postgres');
    this.url = this.urlOf('taskwire');
  }

  /** Process id of the postmaster; undefined while it is stopped. */
  get pid(): number | undefined {
    return this.child?.pid;
  }

  /** Starts the server on its port and waits until it answers. */
  async start(): Promise<void> {
    // After a SIGKILL the processes of the dead server hold its shared memory for a moment, and a new one gives up.
    await eventually(() => this.launch(), { timeoutMs: 30_000, intervalMs: 200 });
  }

  private async launch(): Promise<void> {
    if (this.child !== undefined) {
      return;
    }
    const log = openSync(join(this.dir, 'log'), 'a');
    const settings = {
      port: this.port,
      listen_addresses: '127.0.0.1',
      unix_socket_directories: '',
      // Only a test that kills the whole machine would need them, and none does.
      fsync: 'off',
      full_page_writes: 'off',
      max_connections: 200,
      shared_buffers: '32MB',
      max_wal_size: '256MB',
      dynamic_shared_memory_type: 'mmap',
      ...this.settings,
    };
    const child = spawn(
      findProgram('postgres')!,
      ['-D', join(this.dir, 'data'), ...Object.entries(settings).flatMap(([key, value]) => ['-c', `${key}=${value}`])],
      { stdio: ['ignore', log, log], cwd: this.dir, ...this.identity },
    );
    closeSync(log);
    // A suite that fails before it stops its server still ends: the exit handler stops what is left.
    child.unref();
    this.child = child;
    child.once('exit', () => {
      if (this.child === child) {
        this.child = undefined;
      }
    });
    await eventually(() => (this.child === child ? this.admin('SELECT 1') : undefined), { timeoutMs: 20_000 });
    if (this.child !== child) {
      throw new Error(`postgres did not start:\n${readFileSync(join(this.dir, 'log'), 'utf8').slice(-2_000)}`);
    }
  }

  /**
   * Stops the server and keeps its data.
   * @param mode `fast` ends sessions in order, `immediate` is a crash that the next start recovers from
   */
  async halt(mode: StopMode = 'fast'): Promise<void> {
    const { child } = this;
    if (child !== undefined) {
      child.ref();
      const exited = once(child, 'exit');
      child.kill(SIGNALS[mode]);
      await exited;
    }
  }

  /** SIGKILL of the postmaster; its children end as they notice. */
  kill(): Promise<void> {
    return this.halt('kill');
  }

  async restart(mode: 'immediate' | 'fast' = 'immediate'): Promise<void> {
    await this.halt(mode);
    await this.start();
  }

  /** Stops the server for good and removes its folder. */
  async stop(): Promise<void> {
    await this.halt('immediate');
    servers.delete(this);
    rmSync(this.dir, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
  }

  /** @returns the URL of a new, migrated, empty database: a copy of a template that is migrated once */
  async createDatabase(): Promise<string> {
    this.template ??= this.migrateTemplate();
    await this.template;
    const name = `test_${randomBytes(6).toString('hex')}`;
    // The server refuses to copy a template that another session is just copying or leaving.
    await eventually(() => this.admin(`CREATE DATABASE ${name} TEMPLATE ${TEMPLATE}`));
    return this.urlOf(name);
  }

  /**
   * Starts a streaming replica of this server. With `halt` and `start` it goes away and comes back; with `promote` it
   * becomes a primary.
   */
  async startStandby(): Promise<PostgresServer> {
    const { dir, identity } = newFolder();
    const standby = new PostgresServer(await freePort(), dir, identity, this.settings);
    servers.add(standby);
    try {
      await standby.follow(this);
    } catch (error) {
      await standby.stop();
      throw error;
    }
    return standby;
  }

  /** Makes this server, whatever it was, a streaming replica of another one, at its own port. */
  async follow(primary: PostgresServer): Promise<void> {
    await this.halt('immediate');
    const data = join(this.dir, 'data');
    rmSync(data, { recursive: true, force: true });
    const source = ['-h', '127.0.0.1', '-p', String(primary.port), '-U', 'postgres'];
    const options = ['-D', data, ...source, '-R', '-X', 'stream', '-c', 'fast'];
    await promisify(execFile)(findProgram('pg_basebackup')!, options, { cwd: this.dir, ...this.identity });
    await this.start();
  }

  /** Makes a standby a primary, and waits until it is one. */
  async promote(): Promise<void> {
    await this.admin('SELECT pg_promote(true)');
  }

  /** Runs one statement in database `postgres`. */
  async admin(statement: string): Promise<pg.QueryResult> {
    const client = new pg.Client({ connectionString: this.adminUrl });
    client.on('error', () => {
      // The query rejects with the same error; without a listener the process would end.
    });
    await client.connect();
    try {
      return await client.query(statement);
    } finally {
      await client.end();
    }
  }

  /** From now on the server asks this role for its password. */
  async requirePasswords(role: string): Promise<void> {
    const file = join(this.dir, 'data', 'pg_hba.conf');
    writeFileSync(file, `host all ${role} all scram-sha-256\n${readFileSync(file, 'utf8')}`);
    await this.admin('SELECT pg_reload_conf()');
  }

  /** Ends the server within an exit handler, where nothing can be awaited. */
  abandon(): void {
    this.child?.kill('SIGQUIT');
    const pidFile = join(this.dir, 'data', 'postmaster.pid');
    const pause = new Int32Array(new SharedArrayBuffer(4));
    for (let waited = 0; existsSync(pidFile) && this.child !== undefined && waited < 6_000; waited += 50) {
      Atomics.wait(pause, 0, 0, 50);
    }
    rmSync(this.dir, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  }

  private async migrateTemplate(): Promise<void> {
    await this.admin(`CREATE DATABASE ${TEMPLATE}`);
    const db = connectDatabase({ url: this.urlOf(TEMPLATE), pool: 1 });
    try {
      await migrate(db);
    } finally {
      await db.destroy();
    }
  }

  private urlOf(database: string): string {
    return `postgres://postgres@127.0.0.1:${this.port}/${database}`;
  }
}

/** A temporary folder that belongs to who the server runs as. */
function newFolder(parent = tmpdir()): { dir: string; identity: ReturnType<typeof unprivileged> } {
  const dir = mkdtempSync(join(parent, 'taskwire-pg-'));
  const identity = unprivileged();
  if (identity !== undefined) {
    chownSync(dir, identity.uid, identity.gid);
  }
  return { dir, identity };
}

const servers = new Set<PostgresServer>();
process.once('exit', () => {
  for (const server of servers) {
    server.abandon();
  }
});

/**
 * Starts a Postgres server that nobody else uses. The caller stops it; what is left is stopped when the process exits.
 * @param settings beside those that suit tests
 * @param parent where its folder is made, for a server on a disk of its own
 */
export async function startPostgres(settings: PostgresSettings = {}, parent?: string): Promise<PostgresServer> {
  const { dir, identity } = newFolder(parent);
  const made = spawnSync(
    findProgram('initdb')!,
    ['-D', join(dir, 'data'), '-U', 'postgres', '-A', 'trust', '-E', 'UTF8', '--locale=C', '--no-sync'],
    { encoding: 'utf8', cwd: dir, ...identity },
  );
  if (made.status !== 0) {
    rmSync(dir, { recursive: true, force: true });
    throw new Error(`initdb failed: ${made.error?.message ?? made.stderr}`);
  }
  const server = new PostgresServer(await freePort(), dir, identity, settings);
  servers.add(server);
  await server.start();
  await server.admin('CREATE DATABASE taskwire');
  return server;
}

let shared: Promise<PostgresServer> | undefined;

/** One server for all suites of this process that do not stop it; each takes a database of its own. Ends with the process. */
export function sharedPostgres(): Promise<PostgresServer> {
  shared ??= startPostgres();
  return shared;
}
