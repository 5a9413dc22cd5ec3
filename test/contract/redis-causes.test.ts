import { expect } from 'chai';
import { Redis } from 'ioredis';
import { examineRedis } from '../../src/broker/redis/examine-redis.js';
import { RedisBroker, type RedisBrokerOptions } from '../../src/broker/redis/redis-broker.js';
import { Certificates } from '../support/certificates.js';
import { eventually } from '../support/eventually.js';
import { describeWith, findProgram, freePort } from '../support/programs.js';
import { REDIS_PROGRAMS, type RedisOptions, type RedisServer, startRedis } from '../support/redis.js';
import { keepingLogger, type LogLine } from '../support/redis-broker.js';
import { RedisCluster } from '../support/redis-cluster.js';
import { startTcpProxy } from '../support/tcp-proxy.js';

const LATE = 'events between instances come late';
const PER_WORKER = 'limits are counted by each worker';
const PREFIX = 'causes';

describeWith(REDIS_PROGRAMS, 'causes of what Redis does not do', function () {
  this.timeout(60_000);
  let lines: LogLine[];
  let endings: Array<() => Promise<unknown> | unknown>;

  beforeEach(() => {
    endings = [];
  });

  afterEach(async () => {
    for (const end of endings.reverse()) {
      await end();
    }
  });

  async function server(options: RedisOptions = {}): Promise<RedisServer> {
    const redis = await startRedis(options);
    endings.push(() => redis.stop());
    return redis;
  }

  function adminOf(redis: RedisServer, password?: string): Redis {
    const admin = new Redis(redis.url, { enableReadyCheck: false, ...(password === undefined ? {} : { password }) });
    admin.on('error', () => {});
    endings.push(() => admin.disconnect());
    return admin;
  }

  async function start(where: Partial<RedisBrokerOptions>): Promise<RedisBroker> {
    // Of the broker that was started last.
    const kept = keepingLogger();
    lines = kept.lines;
    const options = { prefix: PREFIX, logger: kept.logger, leaseMs: 900, heartbeatMs: 100, refusedMs: 20 };
    const broker = new RedisBroker({ ...options, ...where });
    endings.push(() => broker.stop());
    await broker.start();
    return broker;
  }

  /** Lines that tell of a lost part. @param but one with another code that may come first */
  const told = (lost: string, but?: string): LogLine[] =>
    lines.filter(
      ({ message, fields }, index) => message === `broker: ${lost}` && !(index < 2 && but === fields['code']),
    );

  async function expectState(broker: RedisBroker, status: string, lost: readonly string[]): Promise<void> {
    await eventually(() => expect(broker.state).to.deep.equal({ status, lost }), { timeoutMs: 20_000 });
  }

  /** There is no way to the server: told once for each part, whatever is tried meanwhile. */
  async function expectDown(broker: RedisBroker, code: RegExp, reason: RegExp, but?: string): Promise<void> {
    await expectState(broker, 'down', [LATE, PER_WORKER]);
    // Several attempts to connect have failed by then.
    const { trouble } = (broker as unknown as { commands: { trouble: { client: Redis } } }).commands;
    let attempts = 0;
    trouble.client.on('close', () => {
      attempts += 1;
    });
    await eventually(() => expect(attempts).to.be.at.least(3));
    for (const lost of [LATE, PER_WORKER]) {
      const once = told(lost, but);
      expect(once, JSON.stringify(lines)).to.have.length(1);
      expect(once[0]!.level).to.equal('warn');
      expect(once[0]!.fields['code']).to.match(code);
      expect(once[0]!.fields['reason']).to.match(reason);
      expect(once[0]!.fields['hint']).to.be.a('string');
    }
  }

  it('a wrong password', async () => {
    const redis = await server({ args: ['--requirepass', 'right'] });
    const broker = await start({ url: redis.url.replace('//', '//:wrong@') });
    await expectDown(broker, /^WRONGPASS$/, /^WRONGPASS/);
    await adminOf(redis, 'right').config('SET', 'requirepass', 'wrong');
    await expectState(broker, 'up', []);
    expect(lines.map(({ message }) => message)).to.include.members([
      'broker: events between instances come at once',
      'broker: limits are counted over all workers',
    ]);
    expect(JSON.stringify(lines)).to.not.contain(':wrong@');
  });

  it('no password where one is wanted', async () => {
    const redis = await server({ args: ['--requirepass', 'right'] });
    await expectDown(await start({ url: redis.url }), /^NOAUTH$/, /^NOAUTH/);
  });

  for (const [name, args, username] of [
    ['password', ['--requirepass', 's3cr3t'], undefined],
    ['user', [], 'bob'],
  ] as const) {
    it(`a server that has renamed AUTH and repeats the password of a ${name}, which is told nowhere`, async () => {
      const renamed = ['--rename-command', 'AUTH', 'XAUTH', '--rename-command', 'HELLO', 'XHELLO'];
      const redis = await server({ args: [...args, ...renamed] });
      const where = { url: redis.url, username, password: 's3cr3t' };
      await expectDown(await start(where), /^UNKNOWN_COMMAND$/, /^ERR unknown command 'auth'$/);
      const { faults } = await examineRedis(where, PREFIX);
      expect(faults.map(({ code }) => code)).to.include('UNKNOWN_COMMAND');
      expect(JSON.stringify([lines, faults])).to.not.contain('s3cr3t');
    });
  }

  it('a database that the server does not have, or that the user may not select: no other one is used', async () => {
    const redis = await server({ args: ['--databases', '4'] });
    const admin = adminOf(redis);
    await admin.call('ACL', 'SETUSER', 'bob', 'on', '>pw', '~*', '&*', '+@all', '-select');
    const broker = await start({ url: `${redis.url}/4` });
    await expectDown(broker, /^NO_DATABASE$/, /^ERR DB index is out of range$/);
    const { faults } = await examineRedis({ url: `${redis.url}/4` }, PREFIX);
    expect(faults.map(({ code }) => code)).to.include('NO_DATABASE');
    const refused = await start({ url: redis.url.replace('//', '//bob:pw@').concat('/3') });
    await expectDown(refused, /^NOPERM$/, /^NOPERM.*select/);
    expect(await admin.keys('*')).to.deep.equal([]);
    await admin.call('ACL', 'SETUSER', 'bob', '+select');
    await expectState(refused, 'up', []);
    expect(await admin.keys('*')).to.deep.equal([]);
    await admin.select(3);
    expect(await admin.keys('*')).to.include(`{${PREFIX}}:nodes`);
  });

  it('a database behind a password, on a server without HELLO', async () => {
    const redis = await server({ args: ['--requirepass', 'right', '--rename-command', 'HELLO', ''] });
    await expectState(await start({ url: `${redis.url.replace('//', '//:right@')}/3` }), 'up', []);
    await expectDown(await start({ url: `${redis.url}/3` }), /^NOAUTH$/, /^NOAUTH/);
  });

  /** Ways in which a password is changed under a service that uses it, and changed back. */
  const rotations: Array<{
    readonly name: string;
    readonly code: 'WRONGPASS' | 'NOAUTH';
    readonly password: string | undefined;
    readonly user?: string;
    readonly change: (admin: Redis) => Promise<unknown>;
    readonly back: (admin: Redis) => Promise<unknown>;
  }> = [
    {
      name: 'a password that is changed',
      code: 'WRONGPASS',
      password: 'right',
      change: (admin) => admin.config('SET', 'requirepass', 'other'),
      back: (admin) => admin.config('SET', 'requirepass', 'right'),
    },
    {
      name: 'a password of a user that is changed',
      code: 'WRONGPASS',
      password: 'right',
      user: 'taskwire',
      change: (admin) => admin.call('ACL', 'SETUSER', 'taskwire', 'resetpass', '>other'),
      back: (admin) => admin.call('ACL', 'SETUSER', 'taskwire', 'on', '>right', '+@all', '~*', '&*'),
    },
    {
      name: 'a user that is deleted',
      code: 'WRONGPASS',
      password: 'right',
      user: 'taskwire',
      change: (admin) => admin.call('ACL', 'DELUSER', 'taskwire'),
      back: (admin) => admin.call('ACL', 'SETUSER', 'taskwire', 'on', '>right', '+@all', '~*', '&*'),
    },
    {
      name: 'a password where there was none',
      code: 'NOAUTH',
      password: undefined,
      change: (admin) => admin.config('SET', 'requirepass', 'other'),
      back: (admin) => admin.config('SET', 'requirepass', ''),
    },
  ];
  for (const { name, code, password, user, change, back } of rotations) {
    it(`${name} while it is used: told once, and over when the old one works again`, async () => {
      const redis = await server();
      // A user of the test's own, whom no change concerns.
      const setup = adminOf(redis);
      await setup.call('ACL', 'SETUSER', 'tester', 'on', '>tester', '+@all', '~*', '&*');
      const admin = new Redis(redis.url, { username: 'tester', password: 'tester', enableReadyCheck: false });
      endings.push(() => admin.disconnect());
      if (password !== undefined) {
        await back(admin);
      }
      const access = `${user ?? ''}${password === undefined ? '' : `:${password}`}`;
      const url = redis.url.replace('//', access === '' ? '//' : `//${access}@`);
      const brokers = [await start({ url }), await start({ url })] as const;
      await Promise.all(brokers.map((broker) => expectState(broker, 'up', [])));
      const heard: string[] = [];
      await brokers[1].subscribe('a', (batch) => heard.push(...batch.map(String)));
      const come = async (message: string): Promise<void> => {
        await eventually(async () => {
          await brokers[0].publish('a', Buffer.from(message));
          expect(heard).to.include(message);
        });
      };
      await come('before');

      await change(admin);
      // Connections that stand are not asked for it again. That of a deleted user is cut by the server.
      if (user === undefined) {
        await come('meanwhile');
        expect(brokers.map(({ state }) => state.status)).to.deep.equal(['up', 'up']);
        expect(lines.filter(({ level }) => level === 'warn')).to.deep.equal([]);
      }
      for (const type of ['normal', 'pubsub']) {
        await admin.call('CLIENT', 'KILL', 'TYPE', type, 'SKIPME', 'yes');
      }
      await Promise.all(brokers.map((broker) => expectState(broker, 'down', [LATE, PER_WORKER])));
      const { trouble } = (brokers[1] as unknown as { commands: { trouble: { client: Redis } } }).commands;
      let attempts = 0;
      trouble.client.on(code === 'NOAUTH' ? 'connect' : 'close', () => {
        attempts += 1;
      });
      const refused = (lost: string): LogLine[] => told(lost).filter(({ fields }) => fields['code'] === code);
      await eventually(async () => {
        // Each is counted by the worker itself, and asks again.
        expect(await brokers[1].consume('key', 1_000_000)).to.include({ allowed: true });
        expect(attempts).to.be.at.least(code === 'NOAUTH' ? 1 : 3);
        for (const lost of [LATE, PER_WORKER]) {
          expect(refused(lost)).to.have.length(1);
        }
      });
      for (const lost of [LATE, PER_WORKER]) {
        // That it was cut may be told too, but no attempt.
        const codes = told(lost).map(({ fields }) => fields['code']);
        expect(new Set(codes).size, JSON.stringify(codes)).to.equal(codes.length);
        const cut = ['CLOSED', 'ECONNRESET', 'EPIPE', code];
        expect(codes.filter((other) => !cut.includes(String(other)))).to.deep.equal([]);
        expect(refused(lost)[0]!.fields['reason']).to.match(new RegExp(`^${code}`));
        expect(refused(lost)[0]!.fields['hint']).to.contain('password');
      }

      await back(admin);
      await Promise.all(brokers.map((broker) => expectState(broker, 'up', [])));
      await come('after');
      expect(await brokers[0].consume('shared', 1)).to.include({ allowed: true });
      expect(await brokers[1].consume('shared', 1)).to.include({ allowed: false });
      expect(lines.filter(({ message }) => message === 'broker: events between instances come at once')).to.have.length(
        1,
      );
      expect(JSON.stringify(lines)).to.not.contain(':right@');
    });
  }

  it('a host that nobody knows', async () => {
    await expectDown(
      await start({ url: 'redis://no-such-host.invalid:6379' }),
      /^(?:ENOTFOUND|EAI_AGAIN)$/,
      /no-such-host/,
    );
  });

  it('a port on which nobody listens, and a socket that is not there', async () => {
    const port = await freePort();
    await expectDown(await start({ url: `redis://127.0.0.1:${port}` }), /^ECONNREFUSED$/, new RegExp(`${port}`));
    await expectDown(await start({ url: 'unix:///no/such/redis.sock' }), /^ENOENT$/, /redis\.sock/);
  });

  it('too many clients', async () => {
    const redis = await server({ args: ['--maxclients', '3'] });
    const guests = [adminOf(redis), adminOf(redis), adminOf(redis)];
    await Promise.all(guests.map((guest) => guest.ping()));
    const broker = await start({ url: redis.url });
    // It closes so soon that its first words may be lost on the way.
    await expectDown(broker, /^MAX_CLIENTS$/, /max number of clients/, 'ECONNRESET');
    await guests[0]!.config('SET', 'maxclients', '100');
    await expectState(broker, 'up', []);
  });

  it('TLS where the server has none', async () => {
    const redis = await server();
    await expectDown(
      await start({ url: redis.url.replace('redis:', 'rediss:') }),
      /^ETIMEDOUT$|^EPROTO$|^ERR_SSL/,
      /./,
    );
  });

  const certificates: ReadonlyArray<{
    readonly what: string;
    readonly name: string;
    readonly days?: number;
    readonly clients?: string;
    readonly named?: boolean;
    readonly code: RegExp;
    readonly hint: RegExp;
  }> = [
    {
      what: 'a certificate of a private authority that is not named',
      name: 'IP:127.0.0.1',
      named: false,
      code: /^UNABLE_TO_VERIFY_LEAF_SIGNATURE$|SELF_SIGNED/,
      hint: /REDIS_CA_FILE/,
    },
    {
      what: 'a certificate of another name',
      name: 'DNS:redis.example',
      code: /^ERR_TLS_CERT_ALTNAME_INVALID$/,
      hint: /names/,
    },
    {
      what: 'a certificate that has expired',
      name: 'IP:127.0.0.1',
      days: -1,
      code: /^CERT_HAS_EXPIRED$/,
      hint: /expired/,
    },
    {
      what: 'a server that wants a certificate of its clients',
      name: 'IP:127.0.0.1',
      clients: 'yes',
      code: /^ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED$/,
      hint: /tls-auth-clients/,
    },
  ];
  for (const { what, name, days, clients = 'no', named = true, code, hint } of certificates) {
    (findProgram('openssl') === undefined ? it.skip : it)(`${what}, until that is changed`, async () => {
      const made = new Certificates((await server()).dir);
      const port = await freePort();
      const tls = (file: string, name: string, days?: number): string[] => {
        const { cert, key } = made.issue(file, name, days);
        return [
          '--tls-port',
          String(port),
          '--tls-cert-file',
          cert,
          '--tls-key-file',
          key,
          '--tls-ca-cert-file',
          made.caFile,
        ];
      };
      const bad = await server({ args: [...tls('bad', name, days), '--tls-auth-clients', clients] });
      const url = `rediss://127.0.0.1:${port}`;
      const broker = await start({ url, caFile: named ? made.caFile : undefined });
      // What is said may be lost when the connection is closed behind it.
      const lost = ['ECONNRESET', 'EPIPE', 'CLOSED'];
      await expectState(broker, 'down', [LATE, PER_WORKER]);
      await eventually(() =>
        expect(told(LATE).map(({ fields }) => String(fields['code']))).to.satisfy(
          (codes: string[]) =>
            codes.some((one) => code.test(one)) && codes.every((one) => code.test(one) || lost.includes(one)),
        ),
      );
      const line = told(LATE).find(({ fields }) => code.test(String(fields['code'])))!;
      expect(line.fields['hint']).to.match(hint);
      expect(line.fields['reason']).to.not.match(/:error:|\n/);
      await bad.stop();
      await server({ args: [...tls('good', 'IP:127.0.0.1'), '--tls-auth-clients', 'no'] });
      await expectState(named ? broker : await start({ url, caFile: made.caFile }), 'up', []);
    });
  }

  it('a node of a cluster that REDIS_URL names', async () => {
    const cluster = await RedisCluster.start();
    endings.push(() => cluster.stop());
    const master = await cluster.masterOf(`{${PREFIX}}`);
    const other = cluster.nodes.find((node) => node !== master)!;
    const broker = await start({ url: other.url });
    await expectState(broker, 'degraded', [PER_WORKER]);
    expect(told(PER_WORKER).map(({ fields }) => fields['code'])).to.deep.equal(['MOVED']);
    expect(told(PER_WORKER)[0]!.fields['hint']).to.contain('REDIS_CLUSTER');
    expect(broker.up).to.equal(true);
  });

  /** What makes a server refuse to count, and what ends that. */
  const refusals: Array<{
    readonly name: string;
    readonly code: string;
    readonly reason: RegExp;
    readonly begin: (admin: Redis) => Promise<unknown>;
    readonly end: (admin: Redis) => Promise<unknown>;
  }> = [
    {
      name: 'maxmemory that is reached',
      code: 'OOM',
      reason: /^OOM command not allowed/,
      begin: (admin) => admin.config('SET', 'maxmemory', '1'),
      end: (admin) => admin.config('SET', 'maxmemory', '0'),
    },
    {
      name: 'a demoted master',
      code: 'READONLY',
      reason: /^READONLY/,
      begin: (admin) => admin.replicaof('127.0.0.1', 1),
      end: (admin) => admin.replicaof('NO', 'ONE'),
    },
    {
      name: 'a replica without its master',
      code: 'MASTERDOWN',
      reason: /^MASTERDOWN/,
      begin: async (admin) => {
        await admin.config('SET', 'replica-serve-stale-data', 'no');
        await admin.replicaof('127.0.0.1', 1);
      },
      end: (admin) => admin.replicaof('NO', 'ONE'),
    },
    {
      name: 'a master without its replicas',
      code: 'NOREPLICAS',
      reason: /^NOREPLICAS/,
      begin: (admin) => admin.config('SET', 'min-replicas-to-write', '1'),
      end: (admin) => admin.config('SET', 'min-replicas-to-write', '0'),
    },
    {
      name: 'scripts that are not allowed',
      code: 'NOPERM',
      reason: /^NOPERM.*eval/,
      begin: (admin) => admin.call('ACL', 'SETUSER', 'default', '-@scripting'),
      end: (admin) => admin.call('ACL', 'SETUSER', 'default', '+@scripting'),
    },
    {
      name: 'keys that are not allowed',
      code: 'NOPERM',
      reason: /^NOPERM/,
      begin: (admin) => admin.call('ACL', 'SETUSER', 'default', 'resetkeys', '~else:*'),
      end: (admin) => admin.call('ACL', 'SETUSER', 'default', 'allkeys'),
    },
    {
      name: 'a list of nodes that is another type of key',
      code: 'WRONGTYPE',
      reason: /^WRONGTYPE/,
      begin: (admin) => admin.set(`{${PREFIX}}:nodes`, 'text'),
      end: (admin) => admin.del(`{${PREFIX}}:nodes`),
    },
    {
      name: 'a counter that is another type of key',
      code: 'WRONGTYPE',
      reason: /^WRONGTYPE/,
      begin: (admin) => admin.lpush(`{${PREFIX}}:rate:key`, 'text'),
      end: (admin) => admin.del(`{${PREFIX}}:rate:key`),
    },
  ];
  it('a count that is another type of key spoils none that is asked for together with it', async () => {
    const redis = await server();
    const admin = adminOf(redis);
    const [one, two] = [await start({ url: redis.url }), await start({ url: redis.url })];
    await expectState(one, 'up', []);
    await admin.lpush(`{${PREFIX}}:rate:bad`, 'text');
    await admin.set(`{${PREFIX}}:connections:10.3.0.1`, 'text');
    const [bad, good, noPlace, place] = await Promise.all([
      one.consume('bad', 9),
      one.consume('good', 9),
      one.acquireConnection('10.3.0.1', 1),
      one.acquireConnection('10.3.0.2', 1),
    ]);
    expect([bad.remaining, good.remaining]).to.deep.equal([8, 8]);
    expect([noPlace, place].map((one) => typeof one)).to.deep.equal(['function', 'function']);
    expect(await two.consume('good', 9)).to.include({ remaining: 7 });
    expect(await two.acquireConnection('10.3.0.2', 1)).to.equal(undefined);
    await eventually(() => expect(one.state.lost).to.include(PER_WORKER));
    await admin.del(`{${PREFIX}}:rate:bad`, `{${PREFIX}}:connections:10.3.0.1`);
    await expectState(one, 'up', []);
    await eventually(async () => expect(await two.acquireConnection('10.3.0.1', 1)).to.equal(undefined));
  });

  for (const { name, code, reason, begin, end } of refusals) {
    it(`${name}: limits are counted by each worker, events come`, async () => {
      const redis = await server();
      const admin = adminOf(redis);
      const broker = await start({ url: redis.url });
      await expectState(broker, 'up', []);
      const heard: string[] = [];
      await broker.subscribe('a', (batch) => heard.push(...batch.map(String)));
      await begin(admin);
      expect(await broker.consume('key', 2)).to.include({ allowed: true });
      expect(await broker.consume('key', 2)).to.include({ allowed: true });
      expect(await broker.consume('key', 2)).to.include({ allowed: false });
      const place = await broker.acquireConnection('10.0.0.1', 1);
      expect(place).to.be.a('function');
      expect(await broker.acquireConnection('10.0.0.1', 1)).to.equal(undefined);
      await eventually(() => expect(broker.state.lost).to.include(PER_WORKER));
      await eventually(async () => {
        await broker.publish('a', Buffer.from('one'));
        expect(heard).to.include('one');
      });
      await eventually(async () => {
        await broker.consume('key', 2);
        expect(broker.state).to.deep.equal({ status: 'degraded', lost: [PER_WORKER] });
      });
      expect(told(PER_WORKER).map(({ fields }) => fields['code'])).to.include(code);
      expect(told(PER_WORKER).find(({ fields }) => fields['code'] === code)!.fields['reason']).to.match(reason);
      place!();
      await end(admin);
      await expectState(broker, 'up', []);
      expect(lines.some(({ message }) => message === 'broker: limits are counted over all workers')).to.equal(true);
      // What was counted alone is not lost: it is written when it can be.
      expect(await broker.consume('another', 1)).to.include({ allowed: true });
      expect(Number(await admin.get(`{${PREFIX}}:rate:another`))).to.equal(1);
    });
  }

  /** Refusals of some of the commands or keys that counting takes: the lease is renewed all the while. */
  const rights = (...rules: string[]) => ({
    code: 'NOPERM',
    begin: (admin: Redis) => admin.call('ACL', 'SETUSER', 'default', ...rules),
    end: (admin: Redis) => admin.call('ACL', 'SETUSER', 'default', '+@all', 'resetkeys', 'allkeys'),
  });
  const wrongKey = (key: string, make: (admin: Redis, key: string) => Promise<unknown>) => ({
    code: 'WRONGTYPE',
    begin: (admin: Redis) => make(admin, `{${PREFIX}}:${key}`),
    end: (admin: Redis) => admin.del(`{${PREFIX}}:${key}`),
  });
  const base = ['resetkeys', `~{${PREFIX}}:nodes`, `~{${PREFIX}}:probe`];
  const parts: Array<{
    readonly name: string;
    readonly code: string;
    /** Whether it is noticed before somebody is counted. */
    readonly idle: boolean;
    readonly begin: (admin: Redis) => Promise<unknown>;
    readonly end: (admin: Redis) => Promise<unknown>;
  }> = [
    { name: 'INCRBY', idle: true, ...rights('-incrby') },
    { name: 'PEXPIRE', idle: true, ...rights('-pexpire') },
    { name: 'HSET', idle: true, ...rights('-hset') },
    { name: 'HDEL', idle: true, ...rights('-hdel') },
    { name: 'HGETALL', idle: true, ...rights('-hgetall') },
    { name: 'keys of rates', idle: true, ...rights(...base, `~{${PREFIX}}:connections:*`) },
    { name: 'keys of connections', idle: true, ...rights(...base, `~{${PREFIX}}:rate:*`) },
    { name: 'a rate that is a word', idle: false, ...wrongKey('rate:key', (admin, key) => admin.set(key, 'abc')) },
    { name: 'a rate that is a list', idle: false, ...wrongKey('rate:key', (admin, key) => admin.lpush(key, 'abc')) },
    {
      name: 'an address that is a word',
      idle: false,
      ...wrongKey('connections:10.0.0.9', (admin, key) => admin.set(key, 'abc')),
    },
  ];
  for (const { name, code, idle, begin, end } of parts) {
    it(`${name} alone: told once until that is done again`, async () => {
      const redis = await server();
      const setup = adminOf(redis);
      await setup.call('ACL', 'SETUSER', 'tester', 'on', '>tester', '+@all', '~*', '&*');
      const admin = new Redis(redis.url, { username: 'tester', password: 'tester', enableReadyCheck: false });
      endings.push(() => admin.disconnect());
      const broker = await start({ url: redis.url });
      await expectState(broker, 'up', []);
      const { redis: leases } = (
        broker as unknown as { leases: { redis: { renewLease: (...args: unknown[]) => unknown } } }
      ).leases;
      const renew = leases.renewLease.bind(leases);
      let renewals = 0;
      leases.renewLease = (...args) => {
        renewals += 1;
        return renew(...args);
      };
      await begin(admin);
      if (!idle) {
        await broker.consume('key', 1_000);
        await broker.acquireConnection('10.0.0.9', 1_000);
      }
      await expectState(broker, 'degraded', [PER_WORKER]);
      renewals = 0;
      await eventually(async () => {
        // Some requests of others are counted meanwhile, which proves nothing.
        await Promise.all(['key', 'other'].map((key) => broker.consume(key, 1_000)));
        (await broker.acquireConnection('10.0.0.8', 1_000))?.();
        expect(broker.state).to.deep.equal({ status: 'degraded', lost: [PER_WORKER] });
        expect(renewals).to.be.at.least(4);
      });
      await end(admin);
      await expectState(broker, 'up', []);
      const said = lines.filter(({ level, message }) => level === 'warn' || /counted/.test(message));
      expect(said.map(({ message }) => message)).to.deep.equal([
        `broker: ${PER_WORKER}`,
        'broker: limits are counted over all workers',
      ]);
      expect(said[0]!.fields['code']).to.equal(code);
      expect(said[0]!.fields['hint']).to.be.a('string');
    });
  }

  it('places that were taken while an address could not be written are known to all afterwards', async () => {
    const redis = await server();
    const admin = adminOf(redis);
    const [one, two] = [await start({ url: redis.url }), await start({ url: redis.url })];
    await admin.set(`{${PREFIX}}:connections:10.0.0.9`, 'text');
    expect(await one.acquireConnection('10.0.0.9', 1)).to.be.a('function');
    await admin.del(`{${PREFIX}}:connections:10.0.0.9`);
    await expectState(one, 'up', []);
    expect(await two.acquireConnection('10.0.0.9', 1)).to.equal(undefined);
  });

  it('a server that reads its data from the disk', async () => {
    const redis = await server({
      args: ['--enable-debug-command', 'yes', '--loading-process-events-interval-bytes', '1024'],
    });
    const admin = adminOf(redis);
    const broker = await start({ url: redis.url });
    await admin.mset(
      Object.fromEntries(Array.from({ length: 2_000 }, (_, index) => [`key-${index}`, 'x'.repeat(100)])),
    );
    await admin.config('SET', 'key-load-delay', '20000');
    const reload = admin.call('DEBUG', 'RELOAD').catch(() => {});
    await eventually(async () => {
      await broker.consume('key', 2);
      expect(told(PER_WORKER).map(({ fields }) => fields['code'])).to.include('LOADING');
    });
    await eventually(() => adminOf(redis).config('SET', 'key-load-delay', '0'));
    await reload;
    await expectState(broker, 'up', []);
  });

  it('scripts that the server has forgotten: they are sent again, and nothing is lost', async () => {
    const redis = await server();
    const broker = await start({ url: redis.url });
    expect(await broker.consume('key', 2)).to.include({ remaining: 1 });
    await adminOf(redis).script('FLUSH');
    expect(await broker.consume('key', 2)).to.include({ remaining: 0 });
    expect(told(PER_WORKER)).to.deep.equal([]);
  });

  it('a master that becomes a replica while its address goes to another: the connections go too', async () => {
    const [old, successor] = [await server(), await server()];
    const target = { port: old.port };
    const proxy = await startTcpProxy(target);
    endings.push(() => proxy.stop());
    const url = `redis://127.0.0.1:${proxy.port}`;
    const brokers = [await start({ url }), await start({ url })] as const;
    const heard: string[] = [];
    await brokers[1].subscribe('a', (batch) => heard.push(...batch.map(String)));
    await adminOf(old).replicaof('127.0.0.1', successor.port);
    target.port = successor.port;
    await eventually(
      async () => {
        const clients = String(await adminOf(successor).client('LIST'));
        // Commands and subscriptions of both.
        expect([...clients.matchAll(/ cmd=(?:subscribe|publish|evalsha|eval|zrem)/g)].length).to.be.at.least(4);
      },
      { timeoutMs: 20_000, intervalMs: 100 },
    );
    await Promise.all(brokers.map((broker) => expectState(broker, 'up', [])));
    expect(await brokers[0].consume('moved', 1)).to.include({ allowed: true });
    expect(await brokers[1].consume('moved', 1)).to.include({ allowed: false });
    await eventually(async () => {
      await brokers[0].publish('a', Buffer.from('one'));
      expect(heard).to.include('one');
    });
  });

  it('a master that was demoted and is one again: nothing waits any more to change over to another server', async () => {
    const redis = await server();
    const admin = adminOf(redis);
    const broker = await start({ url: redis.url, refusedMs: 60_000 });
    await expectState(broker, 'up', []);
    const search = broker as unknown as { readonly reconnects: number; readonly reconnecting: unknown };
    await admin.replicaof('127.0.0.1', 1);
    // It has changed over once, and met the same server.
    await eventually(() => expect([search.reconnects, search.reconnecting === undefined]).to.deep.equal([2, false]));
    await eventually(() => expect(broker.state.lost).to.deep.equal([PER_WORKER]));
    const connections = async (): Promise<string[]> =>
      [...String(await admin.client('LIST')).matchAll(/^id=(\d+) /gm)].map((match) => match[1]!).sort();
    const before = await connections();
    await admin.replicaof('NO', 'ONE');
    await expectState(broker, 'up', []);
    expect(search.reconnecting).to.equal(undefined);
    expect(await connections()).to.deep.equal(before);
  });

  it('a replica for good: it is left ever more rarely', async () => {
    const master = await server();
    const replica = await server({ args: ['--replicaof', '127.0.0.1', String(master.port)] });
    const broker = await start({ url: replica.url });
    await expectState(broker, 'degraded', [PER_WORKER]);
    const attempts = (): LogLine[] => lines.filter(({ message }) => message === 'redis: another connection is tried');
    await eventually(() => expect(attempts().length).to.be.at.least(4), { timeoutMs: 30_000 });
    expect(
      attempts()
        .slice(0, 4)
        .map(({ fields }) => fields['delayMs']),
    ).to.deep.equal([0, 40, 80, 160]);
    await eventually(() => expect(broker.state.lost).to.deep.equal([PER_WORKER]));
    expect(told(PER_WORKER).filter(({ fields }) => fields['code'] === 'READONLY')).to.have.length(1);
    // It was left once. After that events come from it all the time.
    expect(told(LATE).length).to.be.at.most(1);
  });
});
