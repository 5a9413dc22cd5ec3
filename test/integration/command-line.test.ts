import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, chownSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import WebSocket from 'ws';
import { errorEntry } from '../../src/protocol/errors.js';
import { Instance } from '../support/instance.js';
import { unprivileged } from '../support/postgres.js';
import { describeWith, freePort } from '../support/programs.js';
import { REDIS_PROGRAMS, type RedisServer, startRedis } from '../support/redis.js';
import { embeddedForTest, InProcessServer } from '../support/task-server.js';

const MAIN = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));

interface Outcome {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

/** Runs `taskwire` with these arguments and only these variables. */
async function taskwire(args: readonly string[], env: Record<string, string>, user = {}): Promise<Outcome> {
  const child = spawn(process.execPath, [MAIN, ...args], {
    env: { PATH: process.env['PATH'], LOG_FORMAT: 'json', ...env },
    ...user,
  });
  let out = '';
  let err = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    out += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    err += text;
  });
  const [code] = (await once(child, 'close')) as [number | null];
  return { code, out, err };
}

/** The lines of the log that a command wrote. */
const linesOf = ({ err }: Outcome): Array<Record<string, unknown>> =>
  err
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as Record<string, unknown>);

/** A plain WebSocket that has been let in. */
async function connect(url: string, key: string): Promise<WebSocket> {
  const socket = new WebSocket(`${url.replace('http', 'ws')}/api/ws/tasks`, { headers: { 'x-api-key': key } });
  const answer = once(socket, 'message');
  await once(socket, 'open');
  socket.send('{"type":"PING"}');
  expect(JSON.parse(String((await answer)[0])).type).to.equal('PONG');
  return socket;
}

describe('command line', function () {
  this.timeout(60_000);
  let dir: string;
  let env: Record<string, string>;
  /** An address where nobody listens. */
  let nowhere: string;

  before(async () => {
    nowhere = `http://127.0.0.1:${await freePort()}`;
    dir = mkdtempSync(join(tmpdir(), 'taskwire-cli-'));
    env = { DATA_DIR: join(dir, 'data') };
  });

  after(() => rmSync(dir, { recursive: true, force: true }));

  it('says what to do to a user who may not use the folder of the data', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'taskwire-cli-'));
    const other = unprivileged();
    if (other === undefined) {
      chmodSync(folder, 0);
    }
    try {
      const { code, err } = await taskwire(['keys', 'list'], { DATA_DIR: folder }, other);
      expect(err).to.include(`DATA_DIR: got "${folder}"; ${folder} cannot be written by user `);
      expect(err).to.match(other === undefined ? /; change that, or / : /; run this as its owner \(user 0\), change/);
      expect(err).to.include('choose another one with DATA_DIR');
      expect(code).to.equal(78);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });

  it('checks the folder of the data as a start would, and leaves no trace there', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'taskwire-cli-'));
    try {
      writeFileSync(join(folder, 'file'), '');
      mkdirSync(join(folder, 'foreign', 'data'), { recursive: true });
      const verdict = async (place: string): Promise<string> => {
        const { out, code } = await taskwire(['check', '--json'], { DATA_DIR: place });
        const found = JSON.parse(out).find((finding: { check: string }) => finding.check === 'postgres');
        expect(code).to.equal(found.status === 'ok' ? 0 : 1);
        return `${found.status} ${found.message}`;
      };
      expect(await verdict(join(folder, 'new', 'one'))).to.match(/^ok embedded database in /);
      expect(await verdict(join(folder, 'file'))).to.equal(
        `failed ${join(folder, 'file')} is no folder; choose another one with DATA_DIR`,
      );
      expect(await verdict(join(folder, 'file', 'below'))).to.match(/^failed .*file is no folder/);
      if (existsSync('/proc/self')) {
        expect(await verdict('/proc/taskwire')).to.match(/^failed /);
      }
      if (process.geteuid?.() === 0) {
        chownSync(join(folder, 'foreign', 'data'), 1234, 1234);
        expect(await verdict(join(folder, 'foreign'))).to.match(/^failed .* belongs to user 1234, and this process/);
      }
      expect(readdirSync(folder).sort()).to.deep.equal(['file', 'foreign']);
      expect(readdirSync(join(folder, 'foreign'))).to.deep.equal(['data']);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });

  it('leaves nothing in the folder of another user that this one could not use', async function () {
    if (process.geteuid?.() !== 0) {
      this.skip();
    }
    const folder = mkdtempSync(join(tmpdir(), 'taskwire-cli-'));
    try {
      mkdirSync(join(folder, 'data'));
      for (const path of [folder, join(folder, 'data')]) {
        chownSync(path, 1234, 1234);
      }
      const { code, err } = await taskwire(['keys', 'list'], { DATA_DIR: folder });
      expect(err).to.include('belongs to user 1234, and this process runs as user 0');
      expect(code).to.equal(1);
      expect(readdirSync(folder)).to.deep.equal(['data']);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });

  it('makes, lists and disables keys, though no service runs', async () => {
    const made = await taskwire(
      [
        'keys',
        'create',
        '--owner',
        'alice',
        '--role',
        'service',
        '--rate-limit',
        '77',
        '--name',
        'nightly job',
        '--json',
      ],
      env,
    );
    const { key, key_id: keyId, ...rest } = JSON.parse(made.out) as Record<string, unknown>;
    expect(linesOf(made)).to.have.length(1);
    expect(linesOf(made)[0]).to.include({ message: 'key created', level: 'info', key_id: keyId, owner: 'alice' });
    expect(made.err, 'a key does not stand in the log').to.not.contain(String(key));
    expect(key).to.match(/^tw_/);
    expect(rest).to.include({ owner: 'alice', role: 'service', rate_limit: 77, name: 'nightly job', active: true });

    const second = await taskwire(['keys', 'create', '--owner', 'bob'], { ...env, DEFAULT_RATE_LIMIT: '5' });
    expect(second.out).to.match(/^tw_\S{49}\n$/);

    expect((await taskwire(['keys', 'disable', String(keyId)], env)).out).to.equal(`Disabled ${keyId}.\n`);
    const listed = JSON.parse((await taskwire(['keys', 'list', '--json'], env)).out) as Array<Record<string, unknown>>;
    expect(listed.map(({ owner, active, rate_limit }) => ({ owner, active, rate_limit }))).to.deep.equal([
      { owner: 'alice', active: false, rate_limit: 77 },
      { owner: 'bob', active: true, rate_limit: 5 },
    ]);
    const text = (await taskwire(['keys', 'list'], env)).out;
    expect(text)
      .to.match(/alice .* disabled/)
      .and.not.contain(String(key));
  });

  it('migrates, and says when there is nothing to do', async () => {
    const fresh = { DATA_DIR: join(dir, 'fresh') };
    expect((await taskwire(['migrate'], fresh)).out).to.match(/^Done: /);
    expect((await taskwire(['migrate'], fresh)).out).to.equal('The schema is up to date.\n');
  });

  it('ends with 1 and a sentence when it cannot do what it was asked', async () => {
    const gone = await taskwire(['keys', 'disable', 'nobody'], env);
    expect(gone).to.deep.equal({
      code: 1,
      out: '',
      err: 'There is no key with the ID "nobody"; see taskwire keys list\n',
    });
    const badOwner = await taskwire(['keys', 'create', '--owner', ''], env);
    expect(badOwner.code).to.equal(1);
    expect(badOwner.err).to.match(/^INVALID_REQUEST: /);
    const badLimit = await taskwire(['keys', 'create', '--owner', 'x', '--rate-limit', '1.5'], env);
    expect(badLimit.code).to.equal(1);
    expect(badLimit.err).to.contain('wants a positive whole number');
    for (const [time, said] of [
      ['soon', 'wants seconds, or a time such as 15m, 12h or 30d'],
      ['36501d', 'wants at most a hundred years (36500d)'],
    ] as const) {
      const badTime = await taskwire(['keys', 'create', '--owner', 'x', '--expires-in', time], env);
      expect([badTime.code, badTime.out]).to.deep.equal([1, '']);
      expect(badTime.err).to.contain(said);
    }
    const unreachable = await taskwire(['stats', '--url', nowhere], env);
    expect(unreachable.code).to.equal(1);
    expect(unreachable.err).to.contain(`No answer from ${nowhere}: ECONNREFUSED`);
  });

  it('ends with 78 when a variable is wrong', async () => {
    const { code, err } = await taskwire(['keys', 'list'], { ...env, PORT: 'nine' });
    expect(code).to.equal(78);
    expect(err).to.match(/^PORT: got "nine"/);
  });

  describe('with a service', () => {
    let database: Awaited<ReturnType<typeof embeddedForTest>>;
    let server: InProcessServer;

    before(async () => {
      database = await embeddedForTest();
      server = new InProcessServer(database.url, { API_KEY_CACHE_MS: '300', TOKEN_SECRET: 's'.repeat(32) });
      await server.start();
    });

    after(async () => {
      await server?.stop();
      await database?.stop();
    });

    it('prints the statistics for people and for scripts', async () => {
      const script = await taskwire(['stats', '--json', '--url', server.url], {});
      expect(script.err).to.equal('');
      expect(JSON.parse(script.out)).to.deep.equal({
        total_clients: 0,
        total_rooms: 0,
        rooms: {},
        messages: {
          events: 0,
          deliveries: 0,
          duplicates: 0,
          repairs: 0,
          captured: 0,
          resets: 0,
          published: 0,
          failed: 0,
        },
        nodes: 1,
        partial: false,
      });
      const people = await taskwire(['stats'], { TASKWIRE_URL: server.url });
      expect(people.out).to.equal('clients 0   rooms 0   workers 1\n');
    });

    it('disables a key whose connections the workers then close by themselves', async () => {
      const there = { DATABASE_URL: database.url };
      const { key, key_id: keyId } = JSON.parse(
        (await taskwire(['keys', 'create', '--owner', 'carol', '--json'], there)).out,
      );
      const closed = once(await connect(server.url, key), 'close');
      const outcome = await taskwire(['keys', 'disable', keyId], {
        ...there,
        REDIS_URL: nowhere.replace('http', 'redis'),
      });
      expect(outcome).to.include({ code: 0, out: `Disabled ${keyId}.\n` });
      expect(outcome.err).to.contain('Redis');
      expect((await closed)[0]).to.equal(errorEntry('INACTIVE_API_KEY').close);
    });

    it('enables, limits and rotates keys, ends them by owner and by time', async () => {
      const own = { DATABASE_URL: database.url };
      const lines: Array<Record<string, unknown>> = [];
      const run = async (...args: string[]): Promise<string> => {
        const outcome = await taskwire(['keys', ...args], own);
        expect(outcome.code, outcome.err).to.equal(0);
        lines.push(...linesOf(outcome));
        return outcome.out;
      };
      const records = async () =>
        (JSON.parse(await run('list', '--json')) as Array<Record<string, unknown>>).filter(
          ({ owner }) => owner === 'alice',
        );
      const create = [
        'create',
        '--owner',
        'alice',
        '--role',
        'reader',
        '--scopes',
        'read',
        '--expires-in',
        '30d',
        '--json',
      ];
      const made = JSON.parse(await run(...create)) as { key: string; key_id: string; expires_at: string };
      expect(made).to.include({ role: 'reader' }).and.to.have.deep.property('scopes', ['read']);
      expect(Date.parse(made.expires_at)).to.be.closeTo(Date.now() + 30 * 86_400_000, 60_000);
      await run('disable', made.key_id);
      expect(await run('enable', made.key_id)).to.equal(`Enabled ${made.key_id}.\n`);
      expect(await run('limit', made.key_id, '7')).to.contain('7 requests per minute');
      const next = JSON.parse(await run('rotate', made.key_id, '--overlap', '15m', '--json')) as Record<
        string,
        unknown
      >;
      expect(next).to.include({ owner: 'alice', rate_limit: 7, replaces: made.key_id, expires_at: made.expires_at });
      const [old] = await records();
      expect(Date.parse(String(old!['expires_at']))).to.be.closeTo(Date.now() + 900_000, 60_000);
      expect(await run('disable', '--owner', 'alice')).to.match(/^Disabled \w+\.\nDisabled \w+\.\n$/);
      expect((await records()).map(({ active }) => active)).to.deep.equal([false, false]);
      const { username } = userInfo();
      expect(
        lines.map(({ message, by, by_owner, key_id }) => [message, by, by_owner, key_id]),
        'every change is a line of the log, as when the service makes it',
      ).to.deep.equal([
        ['key created', 'command line', username, made.key_id],
        ['key disabled', 'command line', username, made.key_id],
        ['key changed', 'command line', username, made.key_id],
        ['key changed', 'command line', username, made.key_id],
        ['key rotated', 'command line', username, next['key_id']],
        ['keys disabled', 'command line', username, undefined],
      ]);
      expect(lines[4]).to.include({ replaces: made.key_id, overlap_seconds: 900 });
      expect(lines[5]).to.deep.include({ owner: 'alice', key_ids: [made.key_id, next['key_id']] });
      for (const args of [['disable'], ['rotate', made.key_id]]) {
        expect((await taskwire(['keys', ...args], own)).code, args.join(' ')).to.equal(1);
      }
      const { key } = JSON.parse(await run('create', '--owner', 'alice', '--json')) as { key: string };
      const create2 = ['tokens', 'create', '--user', 'alice', '--expires-in', '15m', '--url', server.url];
      const token = await taskwire(create2, { TASKWIRE_API_KEY: key });
      expect(token.out, token.err).to.match(/^[\w-]+\.[\w-]+\.[\w-]+\n$/);
      const refused = await taskwire(
        ['tokens', 'create', '--rooms', 'job:1,job:2', '--url', server.url, '--api-key', key],
        {},
      );
      expect(refused).to.include({ code: 1, out: '' });
      expect(refused.err).to.contain('ACCESS_DENIED');
    });

    it('tells in its exit code whether the service serves', async () => {
      const { port } = new URL(server.url);
      expect(await taskwire(['health'], { HOST: '127.0.0.1', PORT: port })).to.deep.equal({
        code: 0,
        out: 'healthy\n',
        err: '',
      });
      const { code, err } = await taskwire(['health', '--url', nowhere], {});
      expect(code).to.equal(1);
      expect(err).to.contain('ECONNREFUSED');
    });
  });
});

describeWith(REDIS_PROGRAMS, 'command line beside a service on the embedded database', function () {
  this.timeout(60_000);
  let dir: string;
  let redis: RedisServer;
  let instance: Instance;
  let beside: Record<string, string>;

  before(async () => {
    dir = mkdtempSync(join(tmpdir(), 'taskwire-cli-'));
    redis = await startRedis();
    beside = { DATA_DIR: dir, REDIS_URL: redis.url };
    instance = await Instance.start({ env: { ...beside, API_KEY_CACHE_MS: '3600000' } });
  });

  after(async () => {
    await instance?.kill();
    await redis?.stop();
    rmSync(dir, { recursive: true, force: true });
  });

  it('makes keys in its database, and tells its workers at once of one that is disabled', async () => {
    const { key, key_id: keyId } = JSON.parse(
      (await taskwire(['keys', 'create', '--owner', 'dave', '--json'], beside)).out,
    );
    const closings = [];
    for (let count = 0; count < 4; count += 1) {
      closings.push(once(await connect(instance.url, key), 'close'));
    }
    const outcome = await taskwire(['keys', 'disable', keyId], beside);
    expect(outcome).to.include({ code: 0, out: `Disabled ${keyId}.\n` });
    expect(linesOf(outcome).map(({ message }) => message)).to.deep.equal(['key disabled']);
    for (const closing of closings) {
      expect((await closing)[0]).to.equal(errorEntry('INACTIVE_API_KEY').close);
    }
    expect((await instance.get('/api/tasks/job/1', { 'x-api-key': key })).body.error.code).to.equal('INACTIVE_API_KEY');
  });
});
