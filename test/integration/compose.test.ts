import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { CORE_SCHEMA, load, mergeTag } from 'js-yaml';
import pg from 'pg';
import { VARIABLES } from '../../src/config.js';
import { eventually } from '../support/eventually.js';
import { Instance } from '../support/instance.js';
import { POSTGRES_PROGRAMS, type PostgresServer, startPostgres } from '../support/postgres.js';
import { describeWith, findProgram, freePort } from '../support/programs.js';
import { REDIS_PROGRAMS } from '../support/redis.js';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const MAIN = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));
const read = (path: string): string => readFileSync(join(ROOT, path), 'utf8');

const AUTH = 'AUTH taskwire secret2';

interface Service {
  readonly image?: string;
  readonly build?: string;
  readonly environment?: Readonly<Record<string, string | number>>;
  readonly read_only?: boolean;
  readonly cap_drop?: readonly string[];
  readonly security_opt?: readonly string[];
  readonly volumes?: readonly string[];
  readonly healthcheck?: object;
}

/** Names in `${...}`, and whether compose refuses to start without a value. */
const referred = (text: string): Map<string, boolean> =>
  new Map([...text.matchAll(/(?<!\$)\$\{(\w+)([^}]*)\}/g)].map(([, name, rest]) => [name!, rest!.startsWith(':?')]));

describe('docker-compose.yml', () => {
  const text = read('docker-compose.yml');
  const { services } = load(text, { schema: CORE_SCHEMA.withTags(mergeTag) }) as {
    services: Readonly<Record<string, Service>>;
  };
  const all = Object.entries(services);

  it('sets variables that the service reads', () => {
    for (const name of ['taskwire-1', 'taskwire-2']) {
      const names = Object.keys(services[name]!.environment!);
      expect(names).to.include.members(['DATABASE_URL', 'REDIS_URL', 'TRUSTED_PROXIES']);
      expect(VARIABLES).to.include.members(names);
    }
  });

  it('has no secret in it: they come from an environment file, and none has a default', () => {
    const variables = referred(text);
    const offered = [...read('deploy/.env.example').matchAll(/^(\w+)=(.*)$/gm)].map(([, name, value]) => [name, value]);
    expect(offered.map(([name]) => name)).to.have.members([...variables.keys()]);
    for (const [name, value] of offered) {
      if (/PASSWORD|SECRET/.test(name!)) {
        expect(value, name).to.equal('');
      }
    }
    const required = [...variables].filter(([, isRequired]) => isRequired).map(([name]) => name);
    expect(required).to.have.members(['POSTGRES_PASSWORD', 'TASKWIRE_DB_PASSWORD', 'REDIS_PASSWORD']);
    for (const [, { environment = {} }] of all) {
      for (const [name, value] of Object.entries(environment)) {
        if (/PASSWORD|SECRET|DATABASE_URL/.test(name)) {
          expect(String(value), name).to.include('${');
        }
      }
    }
  });

  it('runs everything by version, read-only, without rights to gain, and asks whether it is well', () => {
    expect(all.map(([name]) => name)).to.have.members(['taskwire-1', 'taskwire-2', 'nginx', 'redis', 'postgres']);
    const dockerfile = read('Dockerfile');
    for (const [name, service] of all) {
      expect(service.read_only, name).to.equal(true);
      expect(service.cap_drop, name).to.deep.equal(['ALL']);
      expect(service.security_opt, name).to.deep.equal(['no-new-privileges:true']);
      if (service.build === undefined) {
        expect(service.image, name).to.match(/:\d+\.\d+/);
        expect(service.healthcheck, name).to.be.an('object');
      } else {
        expect(dockerfile)
          .to.match(/^HEALTHCHECK /m)
          .and.match(/^USER node$/m);
      }
    }
  });

  it('mounts files that exist', () => {
    const files = all.flatMap(([, { volumes = [] }]) => volumes.filter((volume) => volume.startsWith('./')));
    expect(files).to.have.length(3);
    for (const file of files) {
      expect(file).to.match(/:ro$/);
      expect(existsSync(join(ROOT, file.split(':')[0]!)), file).to.equal(true);
    }
  });
});

describeWith(
  [...POSTGRES_PROGRAMS, 'psql', ...REDIS_PROGRAMS],
  'Postgres and Redis as docker-compose.yml makes them',
  function () {
    this.timeout(120_000);
    const dir = mkdtempSync(join(tmpdir(), 'taskwire-compose-'));
    let postgres: PostgresServer;
    let redis: ChildProcess;
    let redisPort: number;
    let env: { DATABASE_URL: string; REDIS_URL: string; REDIS_USERNAME: string; REDIS_PASSWORD: string };

    before(async () => {
      // Where nobody has made the service's database yet.
      postgres = await startPostgres();
      const admin = new URL(postgres.adminUrl);
      await postgres.admin('DROP DATABASE IF EXISTS taskwire');
      const made = spawnSync('sh', [join(ROOT, 'deploy/postgres/init.sh')], {
        encoding: 'utf8',
        env: {
          PATH: `${process.env['PATH']}:${dirname(findProgram('psql')!)}`,
          TASKWIRE_DB_PASSWORD: 'secret1',
          POSTGRES_USER: admin.username,
          PGHOST: admin.hostname,
          PGPORT: admin.port,
          PGPASSWORD: admin.password,
        },
      });
      expect(made.stderr).to.equal('');
      expect(made.status).to.equal(0);
      redisPort = await freePort();
      redis = spawn(
        'sh',
        [join(ROOT, 'deploy/redis/start.sh'), '--port', String(redisPort), '--bind', '127.0.0.1', '--dir', dir],
        {
          stdio: 'ignore',
          env: { PATH: process.env['PATH'], REDIS_PASSWORD: 'secret2' },
        },
      );
      env = {
        DATABASE_URL: `postgres://taskwire:secret1@${admin.host}/taskwire`,
        REDIS_URL: `redis://127.0.0.1:${redisPort}`,
        REDIS_USERNAME: 'taskwire',
        REDIS_PASSWORD: 'secret2',
      };
      await eventually(async () => expect(await ask(AUTH, 'PING')).to.equal('+PONG'));
    });

    after(async () => {
      const ended = redis && once(redis, 'exit');
      redis?.kill('SIGKILL');
      await ended;
      await postgres?.stop();
      rmSync(dir, { recursive: true, force: true });
    });

    /** @returns the last line that Redis answers to these commands */
    async function ask(...commands: string[]): Promise<string> {
      const socket = connect(redisPort, '127.0.0.1');
      socket.write(`${commands.join('\r\n')}\r\nQUIT\r\n`);
      const lines = Buffer.concat(await socket.toArray())
        .toString('utf8')
        .trim()
        .split('\r\n');
      return lines.at(-2) ?? '';
    }

    it('give the service all that it needs', async () => {
      const service = await Instance.start({ env });
      try {
        expect((await service.get('/api/ws/health')).body).to.include({ status: 'healthy' });
        const checked = spawnSync(process.execPath, [MAIN, 'check', '--json'], {
          encoding: 'utf8',
          env: { PATH: process.env['PATH'], WORKERS: '2', ...env },
        });
        const findings = JSON.parse(checked.stdout) as Array<{ check: string; status: string }>;
        expect(findings.filter(({ status }) => status === 'failed')).to.deep.equal([]);
        expect(findings.map(({ check }) => check)).to.include.members(['postgres', 'redis']);
      } finally {
        expect(await service.stop()).to.equal(0);
      }
    });

    it('give it nothing else, and strangers nothing at all', async () => {
      const client = new pg.Client({ connectionString: env.DATABASE_URL });
      await client.connect();
      try {
        for (const statement of [
          'CREATE TABLE public.a (b int)',
          'CREATE SCHEMA other',
          'CREATE ROLE other',
          'CREATE DATABASE other',
        ]) {
          expect(await client.query(statement).catch((error: Error) => error.message), statement).to.match(
            /permission denied/,
          );
        }
        const { rows } = await client.query(
          'SELECT DISTINCT schemaname FROM pg_tables WHERE tableowner = current_user',
        );
        expect(rows).to.deep.equal([{ schemaname: 'taskwire' }]);
      } finally {
        await client.end();
      }
      expect(await ask(AUTH, 'GET other')).to.match(/^-NOPERM/);
      expect(await ask(AUTH, 'CONFIG GET *')).to.match(/^-NOPERM/);
      expect(await ask('PING')).to.match(/^-NOAUTH/);
      expect(await ask('AUTH taskwire wrong')).to.match(/^-WRONGPASS/);
    });
  },
);
