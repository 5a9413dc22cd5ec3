import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect } from 'chai';
import { connectDatabase } from '../../src/database/connect-database.js';
import { migrate } from '../../src/schema/migrate.js';
import { check, of } from '../support/check.js';
import { POSTGRES_PROGRAMS, type PostgresServer, startPostgres } from '../support/postgres.js';
import { describeWith, freePort } from '../support/programs.js';
import { REDIS_PROGRAMS, type RedisServer, startRedis } from '../support/redis.js';
import { embeddedForTest, InProcessServer } from '../support/task-server.js';

describeWith([...POSTGRES_PROGRAMS, ...REDIS_PROGRAMS], 'taskwire check', function () {
  this.timeout(120_000);
  let postgres: PostgresServer;
  let redis: RedisServer;
  let databaseUrl: string;

  before(async () => {
    [postgres, redis] = await Promise.all([startPostgres(), startRedis()]);
    databaseUrl = await postgres.createDatabase();
  });

  after(() => Promise.all([postgres?.stop(), redis?.stop()]));

  it('says that other programs are not heard where triggers are turned off', async () => {
    const url = await postgres.createDatabase();
    const db = connectDatabase({ url, pool: 1 });
    await db.raw('ALTER TABLE tasks DISABLE TRIGGER taskwire_updated');
    await db.destroy();
    const env = { DATABASE_URL: url, REDIS_URL: redis.url };
    const warned = of((await check(env)).findings, 'postgres').filter(({ status }) => status === 'warning');
    expect(warned.map(({ message }) => message)).to.deep.equal([
      'what other programs write is not heard: taskwire_updated turned off',
    ]);
    const meant = of((await check({ ...env, CAPTURE: 'off' })).findings, 'postgres');
    expect(meant.filter(({ message }) => message.includes('heard'))).to.deep.equal([]);
  });

  it('finds nothing where nothing is wrong', async () => {
    const { code, findings } = await check({ DATABASE_URL: databaseUrl, REDIS_URL: redis.url });
    expect(findings.filter(({ status }) => status === 'failed')).to.deep.equal([]);
    expect(code).to.equal(0);
    expect(of(findings, 'postgres')[0]!.message).to.match(/^Postgres \d+/);
    expect(of(findings, 'clock')[0]).to.include({ status: 'ok' });
    expect(of(findings, 'redis')[0]).to.include({ status: 'ok' });
    expect(of(findings, 'redis')[0]!.message).to.match(/^Redis \d.*standalone/);
    expect(of(findings, 'files')).to.have.length(process.platform === 'linux' ? 1 : 0);
  });

  it('tells what a user of Postgres may not, and that there are too few connections', async () => {
    const db = connectDatabase({ url: databaseUrl, pool: 1 });
    await migrate(db);
    await db.raw('CREATE ROLE weak LOGIN');
    await db.raw('GRANT SELECT ON ALL TABLES IN SCHEMA public TO weak');
    await db.raw('REVOKE CREATE ON SCHEMA public FROM PUBLIC');
    await db.destroy();
    const url = new URL(databaseUrl);
    url.username = 'weak';
    const { code, findings } = await check({ DATABASE_URL: url.href, DATABASE_POOL: '500' });
    expect(code).to.equal(1);
    const messages = of(findings, 'postgres').map(({ status, message }) => `${status} ${message}`);
    expect(messages).to.include('failed this user may not make tables in schema public');
    expect(messages.some((text) => /^failed this user may not read and write .*tasks/.test(text))).to.equal(true);
    expect(messages.some((text) => /^warning this instance may open 1001 connections/.test(text))).to.equal(true);
  });

  it('tells the reason of a Redis that is not there, or does a part', async () => {
    const nowhere = `redis://127.0.0.1:${await freePort()}`;
    const away = await check({ DATABASE_URL: databaseUrl, REDIS_URL: nowhere });
    expect(away.code).to.equal(1);
    expect(of(away.findings, 'redis').map(({ message }) => message)[0]).to.match(/ECONNREFUSED/);
    const replica = await startRedis({ args: ['--replicaof', '127.0.0.1', String(redis.port)] });
    try {
      const partly = await check({ DATABASE_URL: databaseUrl, REDIS_URL: replica.url });
      expect(partly.code).to.equal(1);
      const failed = of(partly.findings, 'redis').filter(({ status }) => status === 'failed');
      expect(failed.map(({ message }) => message)[0]).to.match(/limits are counted by each worker: READONLY/);
    } finally {
      await replica.stop();
    }
  });

  it('tells that nobody answers for Postgres', async () => {
    const { code, findings } = await check({ DATABASE_URL: `postgres://nobody@127.0.0.1:${await freePort()}/x` });
    expect(code).to.equal(1);
    expect(of(findings, 'postgres')[0]).to.include({ status: 'failed', hint: 'see DATABASE_URL' });
  });

  it('asks a service through what stands before it', async () => {
    const database = await embeddedForTest();
    const service = new InProcessServer(database.url);
    await service.start();
    // A proxy that drops what it must pass on.
    const proxy = createServer(async (request, response) => {
      const answer = await fetch(`${service.url}${request.url}`);
      response.writeHead(answer.status, { 'content-type': 'application/json' }).end(await answer.text());
    }).listen(0, '127.0.0.1');
    await once(proxy, 'listening');
    try {
      const direct = await check({ DATABASE_URL: databaseUrl }, '--url', service.url);
      expect(of(direct.findings, 'service')[0]).to.include({ status: 'ok' });
      expect(of(direct.findings, 'upgrade')[0]).to.include({ status: 'ok' });
      const url = `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`;
      const proxied = await check({ DATABASE_URL: databaseUrl }, '--url', url);
      expect(of(proxied.findings, 'service')[0]).to.include({ status: 'ok' });
      expect(of(proxied.findings, 'upgrade')[0]).to.include({ status: 'failed' });
      expect(proxied.code).to.equal(1);
    } finally {
      proxy.close();
      await service.stop();
      await database.stop();
    }
  });
});
