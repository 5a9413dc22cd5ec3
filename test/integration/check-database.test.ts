import { expect } from 'chai';
import type { Knex } from 'knex';
import { connectDatabase } from '../../src/database/connect-database.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import { check, of } from '../support/check.js';
import { eventually } from '../support/eventually.js';
import { PGBOUNCER_PROGRAMS, PgBouncer } from '../support/pgbouncer.js';
import { POSTGRES_PROGRAMS, type PostgresServer, STANDBY_PROGRAMS, startPostgres } from '../support/postgres.js';
import { describeWith, freePort } from '../support/programs.js';

/** What a check says about the database or its replica, as one line for each finding. */
async function said(env: Record<string, string>, kind: 'postgres' | 'replica' = 'postgres'): Promise<string[]> {
  const { findings } = await check(env);
  return of(findings, kind).map(
    ({ status, message, hint }) => `${status} ${message}${hint === undefined ? '' : `; ${hint}`}`,
  );
}
/** The same without what is as it should be. */
const wrong = async (...asked: Parameters<typeof said>): Promise<string[]> =>
  (await said(...asked)).filter((line) => !line.startsWith('ok'));
const asUser = (url: string, user: string): string => url.replace('postgres@', `${user}@`);

describeWith(POSTGRES_PROGRAMS, 'taskwire check of Postgres', function () {
  this.timeout(120_000);
  let server: PostgresServer;
  let url: string;
  let db: Knex;

  before(async () => {
    server = await startPostgres();
    await server.admin('CREATE ROLE app LOGIN');
  });
  beforeEach(async () => {
    url = await server.createDatabase();
    db = connectDatabase({ url, pool: 1 });
  });
  afterEach(() => db.destroy());
  after(() => server?.stop());

  it('tells what was dropped of the triggers and functions, of any table', async () => {
    await db.raw('DROP TRIGGER taskwire_updated ON tasks');
    await db.raw('DROP FUNCTION taskwire_make_stream() CASCADE');
    await db.raw('ALTER TABLE task_changes ENABLE REPLICA TRIGGER taskwire_tell');
    const [missing, off, ...rest] = await wrong({ DATABASE_URL: url });
    expect(missing).to.match(
      /^warning .*not heard: taskwire_make_stream\(\), taskwire_made, taskwire_updated is not there; start the service/,
    );
    expect(off).to.match(/^warning .*not heard: taskwire_tell turned off; start the service with CAPTURE=on/);
    expect(rest).to.deep.equal([]);
  });

  it('tells that a table is not there', async () => {
    await db.raw('DROP TABLE leases');
    expect(await wrong({ DATABASE_URL: url })).to.deep.equal([
      'failed leases of the schema is not there; restore it from a backup',
    ]);
  });

  it('notes that the schema is of a newer version', async () => {
    await db.raw(`INSERT INTO taskwire_migrations (name, batch, migration_time) VALUES ('9999_future', 9, now())`);
    const lines = await said({ DATABASE_URL: url });
    expect(lines).to.include(
      'ok the schema is of a newer version (9999_future); it is used as it is; update this instance',
    );
    expect(lines.filter((line) => !line.startsWith('ok'))).to.deep.equal([]);
  });

  it('tells that another program has tables of our names', async () => {
    const own = connectDatabase({ url: server.url, pool: 1 });
    await own.raw('CREATE TABLE users (id int)');
    await own.destroy();
    expect(await wrong({ DATABASE_URL: server.url })).to.deep.equal([
      'failed another program has users in schema public; ' +
        'make a schema for taskwire, and name it in DATABASE_URL with options=-csearch_path%3DNAME',
    ]);
  });

  it('tells that somebody who is not the owner cannot remove expired events', async () => {
    await db.raw('GRANT ALL ON ALL TABLES IN SCHEMA public TO app');
    await db.raw('GRANT ALL ON SCHEMA public TO app');
    expect(await wrong({ DATABASE_URL: asUser(url, 'app') })).to.deep.equal([
      'warning this user is not the owner of task_events: expired events are not removed; ' +
        'connect as the owner, or GRANT the owner to this user',
    ]);
  });

  it('tells that the role or the database may have too few connections', async () => {
    await db.raw('GRANT ALL ON ALL TABLES IN SCHEMA public TO app');
    const name = new URL(url).pathname.slice(1);
    const few = async (): Promise<string[]> =>
      (await wrong({ DATABASE_URL: asUser(url, 'app') })).filter((line) => line.includes('connections'));
    expect(await few()).to.deep.equal([]);
    await db.raw(`ALTER DATABASE ${name} CONNECTION LIMIT 9`);
    expect(await few()).to.deep.equal([
      'warning this instance may open 21 connections (WORKERS x DATABASE_POOL, and one that listens), and there are 9 (CONNECTION LIMIT of the ' +
        'database); lower DATABASE_POOL, or raise the CONNECTION LIMIT of the database',
    ]);
    await db.raw('ALTER ROLE app CONNECTION LIMIT 5');
    expect((await few())[0]).to.match(/there are 5 \(CONNECTION LIMIT of the role\)/);
    await db.raw('ALTER ROLE app CONNECTION LIMIT -1');
  });

  it('tells that a server takes no writes', async () => {
    await db.raw(`ALTER DATABASE ${new URL(url).pathname.slice(1)} SET default_transaction_read_only = on`);
    expect(await wrong({ DATABASE_URL: url })).to.deep.equal([
      'failed it takes no writes; turn default_transaction_read_only off',
    ]);
    expect(await wrong({ DATABASE_URL: `${url}?target_session_attrs=read-write` })).to.deep.equal([
      'failed it takes no writes; turn default_transaction_read_only off',
    ]);
  });

  it('says at once that a password is wanted', async () => {
    // So long the server waits for a password. It does not hold up the check.
    const own = await startPostgres({ authentication_timeout: '600s' });
    try {
      await own.admin(`SET password_encryption = 'scram-sha-256'; CREATE ROLE locked LOGIN PASSWORD 'secret'`);
      await own.requirePasswords('locked');
      expect(await wrong({ DATABASE_URL: asUser(own.adminUrl, 'locked'), HOME: '/nonexistent' })).to.deep.equal([
        'failed The database wants a password, and there is none: write it in the URL, or set PGPASSWORD; see DATABASE_URL',
      ]);
    } finally {
      await own.stop();
    }
  });
});

describeWith(STANDBY_PROGRAMS, 'taskwire check of a replica', function () {
  this.timeout(120_000);
  let primary: PostgresServer;
  let standby: PostgresServer;
  let url: string;
  let name: string;

  before(async () => {
    primary = await startPostgres();
    url = await primary.createDatabase();
    name = new URL(url).pathname.slice(1);
    const db = connectDatabase({ url, pool: 1 });
    await new JobRepository(db).create({ job_id: '1', user_id: 'alice' });
    await db.destroy();
    await primary.admin('CREATE ROLE weak LOGIN');
    standby = await primary.startStandby();
    await eventually(() => standby.admin(`SELECT 'weak'::regrole`));
  });
  after(() => Promise.all([standby?.stop(), primary?.stop()]));

  const at = (port: number, database = name): string => `postgres://postgres@127.0.0.1:${port}/${database}`;
  const replica = (address: string): Promise<string[]> =>
    said({ DATABASE_URL: url, DATABASE_READ_URL: address }, 'replica');

  it('finds nothing wrong with one, nor with the primary', async () => {
    for (const [address, kind] of [
      [at(standby.port), 'a standby'],
      [url, 'no standby'],
    ] as const) {
      const [line, ...rest] = await replica(address);
      expect(line).to.match(new RegExp(`^ok Postgres \\d.*, ${kind}, .* ms for a question$`));
      expect(rest).to.deep.equal([]);
    }
  });

  it('tells what is wrong with it', async () => {
    expect((await replica(at(standby.port, 'nope')))[0]).to.match(
      /^failed database "nope" does not exist; see DATABASE_READ_URL/,
    );
    expect((await replica(at(await freePort())))[0]).to.match(/^failed connect ECONNREFUSED .*; see DATABASE_READ_URL/);
    expect((await replica(`${at(standby.port)}?sslmode=require`))[0]).to.match(
      /^failed The server has no TLS: .*sslmode=disable.*; see DATABASE_READ_URL/,
    );
    expect((await replica(`${at(standby.port)}?options=-csearch_path%3Dnope`))[1]).to.match(
      /^failed there is no event_streams, jobs, task_events, tasks here; name the database and the search_path/,
    );
    expect((await replica(asUser(at(standby.port), 'weak')))[1]).to.match(
      /^failed this user may not read event_streams, jobs, task_events, tasks; GRANT SELECT/,
    );
  });

  it('tells that it is another cluster', async () => {
    const other = await startPostgres();
    try {
      expect((await replica(await other.createDatabase()))[1]).to.match(
        /^failed it has none of the streams of DATABASE_URL/,
      );
    } finally {
      await other.stop();
    }
  });

  it('tells that the server of DATABASE_URL is one', async () => {
    expect(await wrong({ DATABASE_URL: at(standby.port) })).to.deep.equal([
      'failed it takes no writes; this is a standby: name the primary in DATABASE_URL',
    ]);
    expect(
      (
        await wrong({ DATABASE_URL: `postgres://postgres@127.0.0.1:${standby.port},127.0.0.1:${standby.port}/${name}` })
      )[0],
    ).to.match(/^failed None of the database's 2 servers is read-write now; name the primary too/);
  });
});

describeWith([...POSTGRES_PROGRAMS, ...PGBOUNCER_PROGRAMS], 'taskwire check behind PgBouncer', function () {
  this.timeout(120_000);
  const IGNORING = {
    ignore_startup_parameters:
      'extra_float_digits,options,statement_timeout,lock_timeout,idle_in_transaction_session_timeout',
  };
  let server: PostgresServer;
  let name: string;
  const bouncers: PgBouncer[] = [];

  async function behind(settings: Record<string, string>, parameters: string): Promise<string[]> {
    const bouncer = await PgBouncer.start(server.port, settings);
    bouncers.push(bouncer);
    return wrong({ DATABASE_URL: bouncer.url(name, parameters) });
  }

  before(async () => {
    server = await startPostgres();
    name = new URL(await server.createDatabase()).pathname.slice(1);
  });
  afterEach(() => Promise.all(bouncers.splice(0).map((bouncer) => bouncer.stop())));
  after(() => server?.stop());

  it('finds nothing wrong in transaction mode', async () => {
    expect(await behind({}, '?prepare=false')).to.deep.equal([]);
  });

  it('tells to add prepare=false', async () => {
    const [line] = await behind({}, '');
    expect(line).to.match(/^failed .*takes no settings of sessions: add \?prepare=false to DATABASE_URL/);
  });

  it('tells to add prepare=false where the pooler ignores what is asked for', async () => {
    expect((await behind(IGNORING, '')).join('\n')).to.match(/^failed .*prepare=false/);
  });

  it('tells to take options out', async () => {
    const [line] = await behind({}, '?prepare=false&options=-csearch_path%3Dpublic');
    expect(line).to.match(/^failed .*: take options out of the URL, and set it with ALTER ROLE; see DATABASE_URL/);
  });

  it('tells that statement mode has no transactions', async () => {
    const [line] = await behind({ pool_mode: 'statement' }, '?prepare=false');
    expect(line).to.match(/^failed .*in statement mode.*set pool_mode = transaction/);
  });
});
