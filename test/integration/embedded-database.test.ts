import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import type { Knex } from 'knex';
import pg from 'pg';
import { silentLogger } from '../../src/base/logger.js';
import { connectDatabase } from '../../src/database/connect-database.js';
import { type EmbeddedDatabase, startEmbeddedDatabase } from '../../src/embedded/embedded-database.js';
import { UnusableFolderError } from '../../src/embedded/make-folder.js';
import { eventually } from '../support/eventually.js';

const CONNECTIONS = 8;
const ROUNDS = 40;

describe('embedded database', () => {
  let dir: string;
  /** The folder of most tests. */
  let whole: string;
  let database: EmbeddedDatabase | undefined;
  const clients: pg.Client[] = [];
  const pools: Knex[] = [];

  const start = async (): Promise<EmbeddedDatabase> => {
    database = await startEmbeddedDatabase({ dir, logger: silentLogger });
    return database;
  };
  const stop = async (): Promise<void> => {
    await Promise.all(pools.splice(0).map((pool) => pool.destroy()));
    await Promise.all(clients.splice(0).map((client) => client.end().catch(() => undefined)));
    await database?.stop();
    database = undefined;
  };
  const connect = async (): Promise<pg.Client> => {
    const client = new pg.Client({ connectionString: database!.url });
    client.on('error', () => {
      // Its queries reject.
    });
    await client.connect();
    clients.push(client);
    return client;
  };
  const pool = (max: number): Knex => {
    const made = connectDatabase({ url: database!.url, pool: max });
    pools.push(made);
    return made;
  };

  before(async function () {
    this.timeout(60_000);
    whole = mkdtempSync(join(tmpdir(), 'taskwire-embedded-'));
    dir = whole;
    await start();
    await pool(1).raw('CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL)');
    await pools[0]!.raw('INSERT INTO accounts SELECT n, 0 FROM generate_series(1, ?) n', [CONNECTIONS]);
  });

  after(async () => {
    await stop();
    rmSync(dir, { recursive: true, force: true });
  });

  it('keeps the statements of many connections apart', async function () {
    this.timeout(60_000);
    const work = async (id: number): Promise<void> => {
      const client = await connect();
      for (let n = 0; n < ROUNDS; n += 1) {
        // Of different shapes, so that a statement in another's place shows.
        const echo = await client.query(`SELECT ${'$1::int, '.repeat(id)}$2::text AS text`, [n, `${id}-${n}`]);
        expect(echo.rows[0].text).to.equal(`${id}-${n}`);
        const failing = await client.query('SELECT 1 / $1::int', [0]).catch((error: Error) => error.message);
        expect(failing).to.match(/division by zero/);
        await client.query('BEGIN');
        const { rows } = await client.query('SELECT balance FROM accounts WHERE id = $1', [id]);
        expect(rows[0].balance).to.equal(n - Math.floor(n / 4));
        await client.query('UPDATE accounts SET balance = balance + $2 WHERE id = $1', [id, 1]);
        await client.query(n % 4 === 3 ? 'ROLLBACK' : 'COMMIT');
      }
      await client.end();
    };
    await Promise.all(Array.from({ length: CONNECTIONS }, (_, n) => work(n + 1)));
    const { rows } = await pool(1).raw('SELECT DISTINCT balance FROM accounts');
    expect(rows).to.deep.equal([{ balance: ROUNDS * 0.75 }]);
  });

  it('rolls back what a lost connection left open, and goes on', async function () {
    this.timeout(60_000);
    const db = pool(2);
    for (let round = 0; round < 5; round += 1) {
      const dying = await connect();
      await dying.query('BEGIN');
      await dying.query('UPDATE accounts SET balance = -1');
      const waiting = db.raw('SELECT min(balance) AS least FROM accounts');
      // Without a goodbye, while another connection waits for its turn.
      socketOf(dying).destroy();
      expect((await waiting).rows[0].least).to.equal(ROUNDS * 0.75);
    }
    // In the middle of what it says, and while its BEGIN is being run.
    const half = await connect();
    socketOf(half).write(Buffer.from([0x50, 0, 0, 0, 200, 0]));
    socketOf(half).destroy();
    const first = await connect();
    first.query('BEGIN').catch(() => undefined);
    await new Promise((resolve) => socketOf(first).write('', resolve));
    socketOf(first).destroy();
    expect((await db.raw('SELECT count(*)::int AS count FROM accounts')).rows[0].count).to.equal(CONNECTIONS);
  });

  it('closes a connection that speaks another protocol, and serves the others', async () => {
    const stranger = await connect();
    const ended = new Promise((resolve) => stranger.once('end', resolve));
    socketOf(stranger).write('GET / HTTP/1.1\r\n\r\n');
    await ended;
    expect((await pool(1).raw('SELECT 1 AS one')).rows[0].one).to.equal(1);
  });

  it('is entered by its own user only', function () {
    if (process.platform === 'win32') {
      this.skip();
    }
    expect(statSync(join(dir, 'run')).mode & 0o077).to.equal(0);
  });

  it('keeps its files to its user in a folder that others may enter, older files too', async function () {
    if (process.platform === 'win32') {
      this.skip();
    }
    this.timeout(60_000);
    const open = (): string[] =>
      readdirSync(join(dir, 'data'), { recursive: true, encoding: 'utf8' }).filter(
        (name) => (statSync(join(dir, 'data', name)).mode & 0o077) !== 0,
      );
    await pool(1).raw('CREATE TABLE made_later AS SELECT 1 AS one');
    expect(open()).to.deep.equal([]);
    await stop();
    chmodSync(dir, 0o755);
    chmodSync(join(dir, 'data'), 0o755);
    chmodSync(join(dir, 'data', 'PG_VERSION'), 0o666);
    await start();
    expect(open()).to.deep.equal([]);
    expect(statSync(join(dir, 'data')).mode & 0o777).to.equal(0o700);
  });

  it('says at once when its folder cannot be made', async () => {
    const file = join(dir, 'a-file');
    writeFileSync(file, '');
    const places = [join(file, 'below', 'it'), ...(existsSync('/proc/self') ? ['/proc/taskwire/data'] : [])];
    for (const place of places) {
      const error = await startEmbeddedDatabase({ dir: place, logger: silentLogger }).catch((thrown: Error) => thrown);
      expect(error, place).to.be.instanceOf(UnusableFolderError);
      expect((error as Error).message).to.contain('choose another one with DATA_DIR');
    }
  });

  it('belongs to one process at a time', async () => {
    const refusal = await startEmbeddedDatabase({ dir, logger: silentLogger }).catch((error: Error) => error);
    expect(refusal).to.be.instanceOf(Error);
    expect((refusal as Error).message).to.include(`in use by process ${process.pid}`);
  });

  it('keeps its data over a restart', async function () {
    this.timeout(60_000);
    await pool(1).raw('UPDATE accounts SET balance = 7');
    await stop();
    await start();
    expect((await pool(1).raw('SELECT DISTINCT balance FROM accounts')).rows).to.deep.equal([{ balance: 7 }]);
  });

  it('keeps what was committed when its process is killed', async function () {
    this.timeout(60_000);
    await stop();
    const program = `
      const { startEmbeddedDatabase } = await import(process.argv[2]);
      const { connectDatabase } = await import(process.argv[3]);
      const quiet = { error() {}, warn() {}, info() {}, debug() {}, child() { return quiet; } };
      const { url } = await startEmbeddedDatabase({ dir: process.argv[4], logger: quiet });
      const db = connectDatabase({ url, pool: 1 });
      for (let n = 1; ; n += 1) {
        await db.raw('UPDATE accounts SET balance = ?', [n]);
        process.stdout.write(n + '\\n');
      }`;
    const modules = ['../../src/embedded/embedded-database.js', '../../src/database/connect-database.js'];
    const urls = modules.map((module) => new URL(module, import.meta.url).href);
    const file = join(dir, 'writer.mjs');
    writeFileSync(file, program);
    const child = spawn(process.execPath, [file, ...urls, dir], { stdio: ['ignore', 'pipe', 'inherit'] });
    const seen = await readUntil(child, 50);
    child.kill('SIGKILL');
    await once(child, 'exit');
    await start();
    const { rows } = await pool(1).raw('SELECT DISTINCT balance FROM accounts');
    expect(rows).to.have.length(1);
    expect(rows[0].balance).to.be.at.least(seen);
  });

  for (const [what, effect, left] of [
    ['was killed', "process.kill(process.pid, 'SIGKILL')", ''],
    [
      'found no room on the disk',
      "throw Object.assign(new Error('ENOSPC'), { code: 'ENOSPC' })",
      'cannot be opened: no space is left on the disk',
    ],
  ] as const) {
    it(`begins anew where its first start ${what}, and keeps what comes after that`, async function () {
      this.timeout(60_000);
      await stop();
      const first = mkdtempSync(join(tmpdir(), 'taskwire-embedded-'));
      try {
        // It happens after the file by which Postgres knows a database, and before the last one.
        const hook = join(first, 'hook.mjs');
        writeFileSync(
          hook,
          `import fs from 'node:fs';
          const open = fs.openSync;
          fs.openSync = (path, ...rest) => {
            if (String(path).endsWith('/data/postgresql.auto.conf')) { ${effect}; }
            return open(path, ...rest);
          };`,
        );
        const program = join(first, 'program.mjs');
        writeFileSync(
          program,
          `const { startEmbeddedDatabase } = await import(process.argv[2]);
          const quiet = { error() {}, warn() {}, info() {}, debug() {}, child() { return quiet; } };
          await startEmbeddedDatabase({ dir: process.argv[3], logger: quiet });`,
        );
        const module = new URL('../../src/embedded/embedded-database.js', import.meta.url).href;
        const data = join(first, 'folder');
        const args = [`--import=${hook}`, program, module, data];
        const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'] });
        let said = '';
        child.stderr!.setEncoding('utf8').on('data', (text) => {
          said += text;
        });
        await once(child, 'close');
        expect(said).to.include(left);
        expect(existsSync(join(data, 'data', 'PG_VERSION'))).to.equal(true);
        dir = data;
        await start();
        await pool(1).raw('CREATE TABLE accounts AS SELECT 1 AS balance');
        await stop();
        await start();
        expect((await pool(1).raw('SELECT balance FROM accounts')).rows).to.deep.equal([{ balance: 1 }]);
        expect(readdirSync(data).sort()).to.deep.equal(['data', 'locks', 'run']);
      } finally {
        await stop();
        rmSync(first, { recursive: true, force: true });
        dir = whole;
        await start();
      }
    });
  }

  it('comes back by itself when the database fails', async function () {
    this.timeout(60_000);
    const client = await connect();
    // COPY from the client is what the database does not survive.
    await client.query('COPY accounts FROM STDIN').catch(() => undefined);
    const db = pool(1);
    await eventually(async () => {
      expect((await db.raw('SELECT count(*)::int AS count FROM accounts')).rows[0].count).to.equal(CONNECTIONS);
    });
  });
});

/** The driver's own socket, to cut it. */
function socketOf(client: pg.Client) {
  return (client as unknown as { connection: { stream: import('node:net').Socket } }).connection.stream;
}

/** @returns the first number from `least` on that the child printed */
async function readUntil(child: ChildProcess, least: number): Promise<number> {
  for await (const chunk of child.stdout!) {
    const last = Number(String(chunk).trim().split('\n').at(-1));
    if (last >= least) {
      return last;
    }
  }
  throw new Error('the child ended early');
}
