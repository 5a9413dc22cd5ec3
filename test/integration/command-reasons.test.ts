import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import { expect } from 'chai';
import { check, of } from '../support/check.js';
import { PGBOUNCER_PROGRAMS, PgBouncer } from '../support/pgbouncer.js';
import { POSTGRES_PROGRAMS, type PostgresServer, startPostgres } from '../support/postgres.js';
import { describeWith, freePort, TASKWIRE } from '../support/programs.js';

describeWith([...POSTGRES_PROGRAMS, ...PGBOUNCER_PROGRAMS], 'a command that has no database says why', function () {
  this.timeout(120_000);
  let server: PostgresServer;
  let url: string;

  /** Runs `taskwire` until it ends by itself. */
  async function taskwire(command: string, address: string): Promise<{ code: number; err: string }> {
    const child = spawn(process.execPath, [TASKWIRE, ...command.split(' ')], {
      env: { PATH: process.env['PATH'], HOME: '/nonexistent', WORKERS: '1', PORT: '0', DATABASE_URL: address },
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    let err = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      err += text;
    });
    const [code] = (await once(child, 'close')) as [number];
    return { code, err };
  }
  const asUser = (user: string): string => url.replace('postgres@', `${user}@`);

  before(async () => {
    // So long the server waits for a password. It holds up nobody here.
    server = await startPostgres({ authentication_timeout: '600s' });
    url = await server.createDatabase();
    await server.admin(`SET password_encryption = 'scram-sha-256'; CREATE ROLE locked LOGIN PASSWORD 'secret'`);
    await server.requirePasswords('locked');
    await server.admin('CREATE DATABASE readers');
    await server.admin('ALTER DATABASE readers SET default_transaction_read_only = on');
  });
  after(() => server?.stop());

  for (const command of ['migrate', 'keys list', 'renew-epochs']) {
    it(command, async () => {
      const nobody = `postgres://postgres@127.0.0.1:${await freePort()}/x`;
      for (const [address, code, reason] of [
        [nobody, 1, /^DATABASE_UNAVAILABLE: Database is not available: connect ECONNREFUSED 127\.0\.0\.1:\d+\n$/],
        [asUser('locked:wrong'), 1, /^password authentication failed for user "locked"\n$/],
        [asUser('locked'), 1, /^The database wants a password, and there is none: .*PGPASSWORD\n$/],
        [
          url.replace(/[^/]*$/, 'readers'),
          1,
          /^DATABASE_UNAVAILABLE: .*: The database server is not read-write now \(it is a standby, or default_transaction/,
        ],
        [
          `${url}?sslmode=verify-full&sslrootcert=/no/ca.pem`,
          78,
          /^DATABASE_URL: .*sslrootcert wants a file that can be read/,
        ],
      ] as const) {
        const { code: ended, err } = await taskwire(command, address);
        expect(err).to.match(reason);
        expect(ended).to.equal(code);
      }
    });
  }

  it('when the database takes connections and says nothing', async () => {
    const silent = createServer().listen(0, '127.0.0.1');
    await once(silent, 'listening');
    try {
      const { port } = silent.address() as AddressInfo;
      const address = `postgres://postgres@127.0.0.1:${port}/x`;
      const { code, err } = await taskwire('migrate', address);
      expect(err).to.match(/^DATABASE_UNAVAILABLE: Database is not available: The database does not answer in time: /);
      expect(err).to.not.include('pool');
      expect(code).to.equal(1);
      const { findings } = await check({ DATABASE_URL: address });
      expect(of(findings, 'postgres')).to.have.length(1);
      expect(of(findings, 'postgres')[0]!.message).to.match(/^The database does not answer in time: /);
    } finally {
      silent.close();
    }
  });

  it('start, which does not wait for what comes again', async () => {
    const missing = await taskwire('start', `${url}?sslmode=verify-full&sslrootcert=/no/ca.pem`);
    expect(missing.err).to.match(
      /^DATABASE_URL: .*sslrootcert wants a file that can be read, and "\/no\/ca\.pem" is none/,
    );
    expect(missing.code).to.equal(78);
    const bouncer = await PgBouncer.start(server.port, { pool_mode: 'statement' });
    try {
      const pooled = await taskwire('start', bouncer.url(new URL(url).pathname.slice(1), '?prepare=false'));
      expect(pooled.err).to.match(
        /cannot start.*statement mode, which has no transactions: set pool_mode = transaction/s,
      );
      expect(pooled.err).not.to.include('waiting for the database');
      expect(pooled.code).to.equal(1);
    } finally {
      await bouncer.stop();
    }
  });
});
