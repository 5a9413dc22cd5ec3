import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import type { Knex } from 'knex';
import { silentLogger } from '../../src/base/logger.js';
import { streamChannel } from '../../src/broker/broker.js';
import { RedisBroker } from '../../src/broker/redis/redis-broker.js';
import { connectDatabase } from '../../src/database/connect-database.js';
import { decodeStreamMessage } from '../../src/protocol/stream-message.js';
import { ApiKeyRepository } from '../../src/repository/api-key-repository.js';
import { eventually } from '../support/eventually.js';
import { describeWith } from '../support/programs.js';
import { REDIS_PROGRAMS, startRedis } from '../support/redis.js';
import { SCHEDULER } from '../support/scheduler.js';
import { Subscriber } from '../support/subscriber.js';
import { embeddedForTest, InProcessServer } from '../support/task-server.js';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));

describe('the package', function () {
  this.timeout(60_000);
  let dir: string;
  let home: string;
  let database: Awaited<ReturnType<typeof embeddedForTest>>;
  let db: Knex;

  before(async () => {
    // What npm would install, beside a program that depends on it; what it depends on itself lies above.
    dir = mkdtempSync(join(tmpdir(), 'taskwire-package-'));
    home = join(dir, 'app', 'node_modules', 'taskwire');
    mkdirSync(home, { recursive: true });
    execFileSync('npm', ['pack', '--ignore-scripts', '--silent', '--pack-destination', dir], { cwd: ROOT });
    const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { version: string };
    execFileSync('tar', ['-xzf', join(dir, `taskwire-${version}.tgz`), '-C', home, '--strip-components=1']);
    symlinkSync(join(ROOT, 'node_modules'), join(dir, 'node_modules'));
    writeFileSync(join(dir, 'app', 'scheduler.mjs'), SCHEDULER);
    database = await embeddedForTest();
    db = connectDatabase({ url: database.url, pool: 1 });
  });

  after(async () => {
    await db?.destroy();
    await database?.stop();
    rmSync(dir, { recursive: true, force: true });
  });

  /** @returns what the program printed */
  async function schedule(env: Record<string, string>): Promise<Record<string, unknown>> {
    const child = spawn(process.execPath, [join(dir, 'app', 'scheduler.mjs')], {
      env: { PATH: process.env['PATH'], DATABASE: database.url, ...env },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let out = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      out += text;
    });
    expect(await once(child, 'close')).to.deep.equal([0, null]);
    return JSON.parse(out) as Record<string, unknown>;
  }

  it('has what package.json names, and is built before it is packed', () => {
    const manifest = JSON.parse(readFileSync(join(home, 'package.json'), 'utf8')) as {
      main: string;
      types: string;
      bin: { taskwire: string };
      scripts: Record<string, string>;
    };
    for (const path of [manifest.main, manifest.types, manifest.bin.taskwire, 'dist/cluster.js', '.env.example']) {
      expect(existsSync(join(home, path)), path).to.equal(true);
    }
    const deploy = [
      'README.md',
      '.env.example',
      'nginx/taskwire.conf',
      'haproxy/haproxy.cfg',
      'postgres/init.sh',
      'redis/start.sh',
    ];
    for (const path of deploy) {
      expect(existsSync(join(home, 'deploy', path)), path).to.equal(true);
    }
    expect(existsSync(join(home, 'deploy/.env'))).to.equal(false);
    expect(manifest.scripts['prepack']).to.contain('npm run build');
    const help = execFileSync(process.execPath, [join(home, manifest.bin.taskwire), '--help'], { encoding: 'utf8' });
    expect(help).to.contain('Usage: taskwire');
  });

  it('without a transport writes what the workers find in the log', async () => {
    const key = (await new ApiKeyRepository(db).create({ owner: 'alice', rate_limit: 10_000 })).key;
    const server = new InProcessServer(database.url, { RECONCILE_IDLE_MS: '100' });
    let subscriber: Subscriber | undefined;
    try {
      await server.start();
      subscriber = new Subscriber('websocket', server.url, key, ['user:alice']);
      await eventually(() => expect(subscriber?.live).to.equal(true));
      const last = await schedule({ JOB: '9'.repeat(78) });
      expect(last).to.include({ job_id: '9'.repeat(78), user_id: 'alice', seq: 2, published: 0, failed: 0 });
      await eventually(() => expect(subscriber?.rooms.get('user:alice')?.seqs).to.deep.equal([1, 2]));
      expect(subscriber.state.get(Number(last['task_id']))).to.include({ task_opx_cost: 2.5 });
    } finally {
      subscriber?.close();
      await server.stop();
    }
  });

  describeWith(REDIS_PROGRAMS, 'with a transport', () => {
    it('wakes the workers, and goes on writing while Redis is away', async () => {
      const redis = await startRedis();
      const broker = new RedisBroker({ url: redis.url, prefix: 'other', logger: silentLogger });
      try {
        await broker.start();
        const heard: unknown[] = [];
        await broker.subscribe(streamChannel('alice'), (batch) => {
          for (const { seq, epoch, jobId, taskId, type } of batch.map((bytes) => decodeStreamMessage(bytes)!)) {
            heard.push({ seq, epoch, job_id: jobId, task_id: Number(taskId), type });
          }
        });
        const { published, failed, user_id, fee, ...last } = await schedule({ JOB: '77', REDIS: redis.url });
        expect({ published, failed, user_id, fee }).to.deep.equal({
          published: 2,
          failed: 0,
          user_id: 'alice',
          fee: 2.5,
        });
        await eventually(() =>
          expect(heard).to.deep.equal([
            { ...last, seq: Number(last['seq']) - 1, type: 'TASK_CREATED' },
            { ...last, type: 'TASK_FEE_UPDATED' },
          ]),
        );
        await redis.kill();
        const alone = await schedule({ JOB: '78', REDIS: redis.url });
        expect(alone).to.include({ job_id: '78', published: 0, failed: 2 });
      } finally {
        await broker.stop();
        await redis.stop();
      }
    });
  });
});
