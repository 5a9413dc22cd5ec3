import { execFileSync } from 'node:child_process';
import { chownSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import type { Knex } from 'knex';
import pg from 'pg';
import { connectDatabase } from '../../src/database/connect-database.js';
import { connectPools, type DatabasePools } from '../../src/database/database-pools.js';
import { type DatabaseTrouble, DatabaseWatch } from '../../src/database/database-watch.js';
import { TaskwireError } from '../../src/protocol/errors.js';
import { EventLog } from '../../src/repository/event-log.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import { TaskReader } from '../../src/repository/task-reader.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { eventually } from '../support/eventually.js';
import { Instance } from '../support/instance.js';
import { type Addresses, startNameServer } from '../support/name-server.js';
import { askNameServer, NAME_SERVER_PORT } from '../support/own-names.js';
import { PlainClient } from '../support/plain-client.js';
import {
  type PostgresServer,
  type PostgresSettings,
  STANDBY_PROGRAMS,
  startPostgres,
  unprivileged,
} from '../support/postgres.js';
import { describeWith } from '../support/programs.js';
import { Scene } from '../support/scene.js';
import { startTcpProxy, type TcpProxy } from '../support/tcp-proxy.js';

/** A repository and a task of a new job. */
async function taskOn(db: Knex): Promise<{ tasks: TaskRepository; taskId: number }> {
  await new JobRepository(db).create({ job_id: '1', user_id: 'alice' });
  const tasks = new TaskRepository(db, { publish() {} });
  const { task_id } = await tasks.createTaskData({ job_id: '1', task_definition_id: 1, is_imua: false });
  return { tasks, taskId: task_id };
}

const writes = (tasks: TaskRepository, taskId: number, fee: number): Promise<string> =>
  tasks.updateTaskFee(taskId, fee).then(
    () => 'ok',
    (error: unknown) => (error instanceof TaskwireError ? error.code : String(error)),
  );

/** Waits until the standby has all that the primary has committed. */
async function caughtUp(primary: PostgresServer): Promise<void> {
  await eventually(async () => {
    const { rows } = await primary.admin(
      'SELECT bool_and(replay_lsn = pg_current_wal_lsn()) AS same FROM pg_stat_replication',
    );
    expect(rows[0]?.same).to.equal(true);
  });
}

describeWith(STANDBY_PROGRAMS, 'a Postgres that fails over', function () {
  this.timeout(120_000);
  let primary: PostgresServer;
  let standby: PostgresServer;
  let proxy: TcpProxy | undefined;
  let name: string;
  const warnings: string[] = [];
  const open: Knex[] = [];

  const connect = (url: string): Knex => {
    const db = connectDatabase({ url, pool: 4, onWarning: (message) => warnings.push(message) });
    open.push(db);
    return db;
  };

  beforeEach(async () => {
    primary = await startPostgres();
    const url = await primary.createDatabase();
    name = url.slice(url.lastIndexOf('/') + 1);
    standby = await primary.startStandby();
    warnings.length = 0;
  });

  afterEach(async () => {
    await Promise.all(open.splice(0).map((db) => db.destroy()));
    await proxy?.stop();
    proxy = undefined;
    await standby.stop();
    await primary.stop();
  });

  it('keeps no connection to a server that was demoted, and writes go on where the address leads', async () => {
    proxy = await startTcpProxy({ port: primary.port });
    const db = connect(`postgres://postgres@127.0.0.1:${proxy.port}/${name}`);
    const { tasks, taskId } = await taskOn(db);
    // Four connections exist, and all of them stay open to the server that takes no writes any more.
    await Promise.all([1, 2, 3, 4].map((fee) => writes(tasks, taskId, fee)));
    await caughtUp(primary);
    await primary.admin('ALTER SYSTEM SET default_transaction_read_only = on');
    await primary.admin('SELECT pg_reload_conf()');
    await eventually(async () => expect(await writes(tasks, taskId, 5)).to.equal('DATABASE_UNAVAILABLE'));
    await standby.promote();
    proxy.setTarget({ port: standby.port });
    expect(await Promise.all(Array.from({ length: 20 }, (_, fee) => writes(tasks, taskId, fee)))).to.deep.equal(
      Array(20).fill('ok'),
    );
    expect(warnings).to.include('the database server takes no writes; connections are made anew');
  });

  describe('and its pools', () => {
    let pools: DatabasePools;
    let told: Array<DatabaseTrouble | 'recovered'>;
    let tasks: TaskRepository;
    let taskId: number;

    /** Ports of the servers that the pools' present connections lead to. */
    const servers = async (): Promise<number[]> => {
      const ports = await Promise.all(
        [pools.writes, pools.reads, pools.lookups].map(async (db) => {
          const { rows } = await db.raw('SELECT inet_server_port() AS port');
          return rows[0].port as number;
        }),
      );
      return [...new Set(ports)];
    };

    beforeEach(async () => {
      proxy = await startTcpProxy({ port: primary.port });
      told = [];
      const watch = new DatabaseWatch({
        onTrouble: (trouble) => told.push(trouble),
        onRecovery: () => told.push('recovered'),
        calmMs: 10,
      });
      const url = `postgres://postgres@127.0.0.1:${proxy.port}/${name}`;
      pools = connectPools({ url, connections: 10, watch, onWarning: (message) => warnings.push(message) });
      ({ tasks, taskId } = await taskOn(pools.writes));
      expect(await servers()).to.deep.equal([primary.port]);
      await caughtUp(primary);
    });
    afterEach(() => pools.destroy());

    const demote = async (): Promise<void> => {
      await primary.admin('ALTER SYSTEM SET default_transaction_read_only = on');
      await primary.admin('SELECT pg_reload_conf()');
      await eventually(async () => {
        const { rows } = await pools.lookups.raw('SHOW default_transaction_read_only');
        expect(rows[0].default_transaction_read_only).to.equal('on');
      });
    };

    it('go together: reads follow as soon as writes have met it', async () => {
      await demote();
      expect(await writes(tasks, taskId, 1)).to.equal('DATABASE_UNAVAILABLE');
      await standby.promote();
      proxy!.setTarget({ port: standby.port });
      expect(await writes(tasks, taskId, 2)).to.equal('ok');
      expect(await servers()).to.deep.equal([standby.port]);
    });

    it('follow the address also where nobody writes', async () => {
      await demote();
      await standby.promote();
      proxy!.setTarget({ port: standby.port });
      await eventually(async () => expect(await servers()).to.deep.equal([standby.port]), { timeoutMs: 30_000 });
    });

    it('leave a server of before that still takes writes, as soon as one of them has met the new one', async () => {
      await standby.promote();
      proxy!.setTarget({ port: standby.port });
      expect(await servers()).to.deep.equal([primary.port]);
      // Two at a time need one connection more.
      await Promise.all([1, 2].map(() => pools.writes.raw('SELECT pg_sleep(0.1)')));
      expect(await servers()).to.deep.equal([standby.port]);
    });

    it('read on while nobody takes writes, and say so', async () => {
      await demote();
      for (let turn = 0; turn < 5; turn += 1) {
        expect(await writes(tasks, taskId, 1)).to.equal('DATABASE_UNAVAILABLE');
        expect(await new TaskReader(pools.reads).getTask(taskId)).to.have.property('task_id', taskId);
        expect(await new EventLog(pools.lookups).heads(['alice'])).to.have.lengthOf(1);
      }
      expect(told).to.have.lengthOf(1);
      expect(told[0]).to.include({ status: 'read-only' });
      expect(warnings).to.deep.equal(['the database server takes no writes; connections are made anew']);
      await primary.admin('ALTER SYSTEM RESET default_transaction_read_only');
      await primary.admin('SELECT pg_reload_conf()');
      await eventually(async () => expect(await writes(tasks, taskId, 2)).to.equal('ok'));
      await eventually(() => expect(told.at(-1)).to.equal('recovered'));
    });
  });

  it('of several servers uses the one that takes writes, before and after', async () => {
    const db = connect(`postgres://postgres@127.0.0.1:${standby.port},127.0.0.1:${primary.port}/${name}`);
    const { tasks, taskId } = await taskOn(db);
    await caughtUp(primary);
    await primary.halt('immediate');
    expect(await writes(tasks, taskId, 1)).to.equal('DATABASE_UNAVAILABLE');
    await standby.promote();
    await eventually(async () => expect(await writes(tasks, taskId, 2)).to.equal('ok'));
    expect(await Promise.all(Array.from({ length: 20 }, (_, fee) => writes(tasks, taskId, fee)))).to.deep.equal(
      Array(20).fill('ok'),
    );
  });

  it('says so when no server of the wanted kind is there', async () => {
    const db = connect(`postgres://postgres@127.0.0.1:${standby.port}/${name}`);
    const tasks = new TaskRepository(db);
    expect(await writes(tasks, 1, 1)).to.equal('DATABASE_UNAVAILABLE');
    const both = connect(
      `postgres://postgres@127.0.0.1:${standby.port},127.0.0.1:${primary.port}/${name}?target_session_attrs=standby`,
    );
    const { rows } = await both.raw('SELECT pg_is_in_recovery() AS standby');
    expect(rows[0].standby).to.equal(true);
  });
});

describeWith([...STANDBY_PROGRAMS, 'openssl'], 'a host name of several Postgres servers', function () {
  this.timeout(120_000);
  const HOST = 'db.test';
  const [FIRST, SECOND, THIRD] = ['127.0.8.1', '127.0.8.2', '127.0.8.3'] as const;
  let primary: PostgresServer;
  let standby: PostgresServer;
  let name: string;
  /** What the addresses lead to. */
  let proxies: Map<string, TcpProxy>;
  let port: number;
  let addresses: Addresses;
  let nameServerPort: number;
  let warnings: string[];
  let endings: Array<() => Promise<unknown> | unknown>;

  beforeEach(() => {
    endings = [];
    warnings = [];
    proxies = new Map();
    addresses = new Map();
    port = 0;
  });

  afterEach(async () => {
    for (const end of endings.reverse()) {
      await end();
    }
  });

  /** A standby at the first address of the name, and the primary at the second one. */
  async function start(settings: PostgresSettings = {}): Promise<void> {
    primary = await startPostgres(settings);
    endings.push(() => primary.stop());
    name = (await primary.createDatabase()).split('/').at(-1)!;
    standby = await primary.startStandby();
    endings.push(() => standby.stop());
    await lead(FIRST, standby);
    await lead(SECOND, primary);
    addresses.set(HOST, [FIRST, SECOND]);
    const names = await startNameServer(addresses);
    nameServerPort = names.port;
    endings.push(names.stop, askNameServer(names.port));
  }

  /** Leads an address, at the port that all of them have, to a server. */
  async function lead(host: string, server: PostgresServer): Promise<void> {
    const proxy = await startTcpProxy({ port: server.port }, { host, port });
    ({ port } = proxy);
    proxies.set(host, proxy);
    endings.push(() => (proxies.get(host) === proxy ? proxy.stop() : undefined));
  }

  /** From now on the address refuses connections, as that of a machine does on which nothing listens. */
  async function desert(host: string): Promise<void> {
    await proxies.get(host)!.stop();
    proxies.delete(host);
  }

  const urlOf = (query = ''): string => `postgres://postgres@${HOST}:${port}/${name}${query}`;

  function connect(url: string): Knex {
    const db = connectDatabase({ url, pool: 4, onWarning: (message) => warnings.push(message) });
    endings.push(() => db.destroy());
    return db;
  }

  const twentyWrites = ({ tasks, taskId }: Awaited<ReturnType<typeof taskOn>>): Promise<string[]> =>
    Promise.all(Array.from({ length: 20 }, (_, fee) => writes(tasks, taskId, fee)));
  const ALL_OK = Array(20).fill('ok');

  it('uses the one that takes writes, though a standby comes first', async () => {
    await start();
    expect(await twentyWrites(await taskOn(connect(urlOf())))).to.deep.equal(ALL_OK);
    expect(warnings).to.deep.equal([]);
  });

  it('uses the one that takes writes, though one comes first that was told to take none', async () => {
    await start();
    const alone = await startPostgres();
    endings.push(() => alone.stop());
    await alone.admin(`CREATE DATABASE ${name}`);
    await alone.admin('ALTER SYSTEM SET default_transaction_read_only = on');
    await alone.admin('SELECT pg_reload_conf()');
    addresses.set(HOST, [THIRD, FIRST, SECOND]);
    await lead(THIRD, alone);
    expect(await twentyWrites(await taskOn(connect(urlOf())))).to.deep.equal(ALL_OK);
    expect(warnings).to.deep.equal([]);
  });

  for (const [title, begin] of [
    ['uses the second, though the first refuses connections', () => desert(FIRST)],
    ['uses the second, though the first ends connections', async () => proxies.get(FIRST)!.setMode('refuse')],
    ['uses the second, though the first hangs', async () => proxies.get(FIRST)!.setMode('blackhole')],
    ['uses the second, though nobody is behind the first', () => standby.halt('immediate')],
  ] as const) {
    it(title, async () => {
      await start();
      await begin();
      expect(await twentyWrites(await taskOn(connect(urlOf())))).to.deep.equal(ALL_OK);
      expect(warnings).to.deep.equal([]);
    });
  }

  it('keeps its connections when all of them are in use for long', async () => {
    await start();
    const db = connect(urlOf());
    const pids = async (): Promise<number[]> => {
      const { rows } = await db.raw('SELECT pg_backend_pid() AS pid');
      return rows.map(({ pid }: { pid: number }) => pid);
    };
    const holders = await Promise.all([1, 2, 3, 4].map(() => db.transaction()));
    const { rows: before } = await holders[0]!.raw('SELECT pg_backend_pid() AS pid');
    // It waits for as long as a statement may, and is told that there is no connection.
    expect(await new TaskRepository(db).updateTaskFee(1, 1).catch(({ code }: TaskwireError) => code)).to.equal(
      'DATABASE_UNAVAILABLE',
    );
    await Promise.all(holders.slice(1).map((holder) => holder.rollback()));
    await holders[0]!.rollback();
    const used = new Set((await Promise.all(Array.from({ length: 20 }, pids))).flat());
    const { rows: after } = await db.raw(
      'SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid = ?',
      [before[0].pid],
    );
    expect(after).to.have.length(1);
    expect(used.size).to.be.at.most(4);
  });

  it('finds a standby for who reads, and any server for whom any will do', async () => {
    await start();
    addresses.set(HOST, [SECOND, FIRST]);
    for (const [query, expected] of [
      ['?target_session_attrs=standby', true],
      ['?target_session_attrs=prefer-standby', true],
      ['?target_session_attrs=any', false],
    ] as const) {
      const { rows } = await connect(urlOf(query)).raw('SELECT pg_is_in_recovery() AS standby');
      expect([query, rows[0].standby]).to.deep.equal([query, expected]);
    }
    await desert(SECOND);
    const { rows } = await connect(urlOf('?target_session_attrs=any')).raw('SELECT pg_is_in_recovery() AS standby');
    expect(rows[0].standby).to.equal(true);
  });

  it('goes to the heir when the primary is gone, also when the name has moved meanwhile', async () => {
    await start();
    const db = connect(urlOf());
    const task = await taskOn(db);
    expect(await twentyWrites(task)).to.deep.equal(ALL_OK);
    await caughtUp(primary);
    await desert(SECOND);
    await primary.halt('immediate');
    expect(await writes(task.tasks, task.taskId, 1)).to.equal('DATABASE_UNAVAILABLE');
    await standby.promote();
    await eventually(async () => expect(await writes(task.tasks, task.taskId, 2)).to.equal('ok'));
    expect(await twentyWrites(task)).to.deep.equal(ALL_OK);

    // The heir gets an address that the name did not have. Nobody is left at the old ones.
    await lead(THIRD, standby);
    addresses.set(HOST, [SECOND, THIRD]);
    await desert(FIRST);
    await eventually(async () => expect(await writes(task.tasks, task.taskId, 3)).to.equal('ok'));
    expect(await twentyWrites(task)).to.deep.equal(ALL_OK);
    addresses.set(HOST, THIRD);
    proxies.get(THIRD)!.cut();
    await eventually(async () => expect(await writes(task.tasks, task.taskId, 4)).to.equal('ok'));
    expect(await twentyWrites(task)).to.deep.equal(ALL_OK);
  });

  it('is waited for when nobody knows it, or when none of them takes writes', async () => {
    await start();
    const task = await taskOn(connect(primary.adminUrl.replace(/postgres$/, name)));
    addresses.delete(HOST);
    const db = connect(urlOf());
    const tasks = new TaskRepository(db);
    const cause = await tasks.updateTaskFee(task.taskId, 1).catch(({ cause: error }: Error) => error);
    expect(cause).to.have.property('code', 'ENOTFOUND');
    await caughtUp(primary);
    await desert(SECOND);
    addresses.set(HOST, [FIRST, SECOND]);
    expect(await writes(tasks, task.taskId, 2)).to.equal('DATABASE_UNAVAILABLE');
    await lead(SECOND, primary);
    await eventually(async () => expect(await writes(tasks, task.taskId, 3)).to.equal('ok'));
  });

  it('is what certificates are checked for, whichever of them is used', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'taskwire-tls-'));
    endings.push(() => rmSync(dir, { recursive: true, force: true }));
    const issue = (certificate: string, host: string): void => {
      const subject = ['-subj', `/CN=${host}`, '-addext', `subjectAltName=DNS:${host}`];
      const files = ['-keyout', `${certificate}.key`, '-out', `${certificate}.pem`];
      const options = ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', ...subject, ...files];
      execFileSync('openssl', options, { cwd: dir, stdio: 'ignore' });
    };
    issue('right', HOST);
    issue('wrong', 'other.test');
    const user = unprivileged();
    if (user !== undefined) {
      for (const file of ['', 'right.key', 'right.pem']) {
        chownSync(join(dir, file), user.uid, user.gid);
      }
    }
    await start({ ssl: 'on', ssl_cert_file: join(dir, 'right.pem'), ssl_key_file: join(dir, 'right.key') });
    const checked = (certificate: string): string =>
      urlOf(`?sslmode=verify-full&sslrootcert=${join(dir, `${certificate}.pem`)}`);
    const db = connect(checked('right'));
    expect(await twentyWrites(await taskOn(db))).to.deep.equal(ALL_OK);
    const { rows } = await db.raw('SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()');
    expect(rows).to.deep.equal([{ ssl: true }]);
    const refusal = await connect(checked('wrong'))
      .raw('SELECT 1')
      .catch((error: Error) => error);
    expect((refusal as NodeJS.ErrnoException).code).to.match(/SELF_SIGNED|UNABLE_TO_VERIFY/);
    addresses.set('another.test', [FIRST, SECOND]);
    const another = connect(checked('right').replace(HOST, 'another.test'));
    const mismatch = await another.raw('SELECT 1').catch((error: Error) => error);
    expect(mismatch).to.have.property('code', 'ERR_TLS_CERT_ALTNAME_INVALID');
  });

  it('serves a whole instance: writes, and changes by other programs, before and after a failover', async () => {
    await start();
    const scene = await Scene.make(primary.adminUrl.replace(/postgres$/, name), { users: 1, jobsPerUser: 1 });
    endings.push(() => scene.close());
    const { jobId } = scene.jobs[0]!;
    const never = String(3_600_000);
    const instance = await Instance.start({
      workers: 1,
      preload: new URL('../support/own-names.js', import.meta.url).href,
      env: {
        DATABASE_URL: urlOf(),
        [NAME_SERVER_PORT]: String(nameServerPort),
        // The log is not looked into: what another program writes is heard.
        RECONCILE_MS: never,
        RECONCILE_IDLE_MS: never,
      },
    });
    endings.push(() => instance.kill());
    const client = new PlainClient(`${instance.url}/api/ws/tasks`, { 'x-api-key': scene.keys.get('user_1')! });
    endings.push(() => client.socket.terminate());
    await eventually(() => expect(client.socket.readyState).to.equal(client.socket.OPEN));
    client.send({ type: 'SUBSCRIBE', data: { room: `job:${jobId}` }, request_id: 'r' });
    expect(await client.answer('r')).to.have.property('type', 'SUCCESS');
    const post = async (task_definition_id: number): Promise<number> => {
      const response = await fetch(`${instance.url}/api/tasks`, {
        method: 'POST',
        headers: { 'x-api-key': scene.serviceKey, 'content-type': 'application/json' },
        body: JSON.stringify({ job_id: jobId, task_definition_id }),
      });
      return response.status;
    };
    /** Another program writes on a server. */
    const write = async (server: PostgresServer, fee: number): Promise<void> => {
      const other = new pg.Client({ connectionString: server.adminUrl.replace(/postgres$/, name) });
      await other.connect();
      await other.query('UPDATE tasks SET task_opx_cost = $1 WHERE job_id = $2', [fee, jobId]);
      await other.end();
    };
    const heard = (fee: number): Promise<unknown> =>
      client.find(({ type, data }) => type === 'TASK_FEE_UPDATED' && Number(data.changes.new_fee) === fee);
    expect(await post(1)).to.equal(201);
    await eventually(() => expect(client.messages.map(({ type }) => type)).to.include('TASK_CREATED'));
    await write(primary, 0.5);
    await heard(0.5);
    expect((await instance.get('/api/ws/health')).body.status).to.equal('healthy');
    expect(instance.log.filter(({ level }) => level !== 'info')).to.deep.equal([]);

    await caughtUp(primary);
    await desert(SECOND);
    await primary.halt('immediate');
    await eventually(async () => expect(await post(2)).to.equal(503));
    await standby.promote();
    await eventually(async () => expect(await post(3)).to.equal(201), { timeoutMs: 20_000 });
    // Whoever listens is told of what it missed, and then of each change at once.
    await eventually(
      async () => {
        const fee = Date.now() % 1_000_000;
        await write(standby, fee);
        await heard(fee);
      },
      { timeoutMs: 30_000 },
    );
    await eventually(async () => expect((await instance.get('/api/ws/health')).body.status).to.equal('healthy'), {
      timeoutMs: 20_000,
    });
    expect(client.closed).to.equal(undefined);
  });
});
