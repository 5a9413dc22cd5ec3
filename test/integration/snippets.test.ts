import { execFile } from 'node:child_process';
import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect } from 'chai';
import type { Knex } from 'knex';
import pg from 'pg';
import { io, type Socket } from 'socket.io-client';
import WebSocket from 'ws';
import { createProgram } from '../../src/cli/program.js';
import { documents } from '../../src/contract/documents.js';
import { connectDatabase } from '../../src/database/connect-database.js';
import { ApiKeyRepository } from '../../src/repository/api-key-repository.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { EventStream } from '../support/event-stream.js';
import { eventually } from '../support/eventually.js';
import { describeWith, freePort } from '../support/programs.js';
import { Recorder } from '../support/recorder.js';
import { DOCUMENTS, type Snippet, snippetsOf } from '../support/snippets.js';
import { embeddedForTest, InProcessServer } from '../support/task-server.js';

// biome-ignore lint/suspicious/noExplicitAny: snippets handle values of every form
type Any = any;

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const MAIN = join(ROOT, 'dist/src/cli/main.js');
const run = promisify(execFile);

/** Every request has to be answered well; one that never ends has to bring something. */
const CURL = `curl() {
  local status=0 out
  out=$(command curl -sS --fail-with-body --max-time 3 "$@") || status=$?
  printf '%s\\n' "$out"
  [ $status = 0 ] || { [ $status = 28 ] && [ -n "$out" ] && [[ " $* " == *" -N "* ]]; }
}
taskwire() { node ${MAIN} "$@"; }
`;

/** Snippets that run elsewhere, by the beginning of their names, and where. */
const ELSEWHERE: Readonly<Record<string, string>> = {
  'README.md: npm ci && npm start': '.ci/run, which does just that; test/integration/embedded-database.test.ts',
  'README.md: // or the client that does the rest': 'packages/client/test/react/hooks.test.ts',
  'docs/client.md: npm install': 'packages/client/test/package/tarball.test.ts',
  'docs/client.md: import': 'packages/client/test/docs/recipes.test.ts',
  'docs/client.md: export async function tokenFor': 'packages/client/test/docs/recipes.test.ts',
  'docs/quickstart.md: ': 'test/cluster/quickstart.test.ts',
  'docs/operations.md: DATABASE_URL=': 'test/integration/postgres-failover.test.ts',
  'docs/operations.md: scrape_configs': 'test/integration/metrics.test.ts reads what is scraped',
  'docs/performance.md: npm': 'bench/test, the same programs in small',
};

/** The long forms of suites, which take minutes: their programs are there, and the suites run the same in small. */
const isLongForm = ({ text }: Snippet): boolean =>
  text
    .trim()
    .split('\n')
    .every((line) => {
      const [, program] = /^node (\S+\/run)\.js\b/.exec(line) ?? [];
      const source = program?.replace(/^dist\//, '').replace('test-dist', 'test');
      return source === undefined
        ? /^npm run (?:build|scenario)\b/.test(line)
        : /\btest\//.test(source) && existsSync(join(ROOT, `${source}.ts`));
    });

describeWith(['bash', 'curl'], 'the snippets of README and docs', function () {
  this.timeout(120_000);
  const ran = new Set<string>();
  let database: Awaited<ReturnType<typeof embeddedForTest>>;
  let db: Knex;
  let tasks: TaskRepository;
  let server: InProcessServer;
  let env: Record<string, string>;
  const ended: Array<() => unknown> = [];

  before(async () => {
    database = await embeddedForTest();
    db = connectDatabase({ url: database.url, pool: 2 });
    tasks = new TaskRepository(db);
    server = new InProcessServer(database.url, { TOKEN_SECRET: 's'.repeat(32), STATS_ACCESS: 'local' });
    await server.start();
    const keys = new ApiKeyRepository(db);
    const key = async (owner: string, role: 'user' | 'service' | 'admin'): Promise<string> =>
      (await keys.create({ owner, role, rate_limit: 100_000 })).key;
    env = {
      PATH: process.env['PATH']!,
      URL: server.url,
      DATABASE_URL: database.url,
      KEY: await key('user_789', 'user'),
      SERVICE_KEY: await key('backend', 'service'),
      ADMIN_KEY: await key('root', 'admin'),
    };
  });
  after(async () => {
    for (const end of ended) {
      await end();
    }
    await server?.stop();
    await db?.destroy();
    await database?.stop();
  });

  /** The snippet of a document that begins like this, for the service of this test. It counts as run. */
  const snippet = (document: string, beginning: string): string => {
    const found = snippetsOf(document).filter(({ text }) => text.startsWith(beginning));
    expect(
      found.map(({ name }) => name),
      `${document}: ${beginning}`,
    ).to.have.length(1);
    ran.add(found[0]!.name);
    return found[0]!.text
      .replace(/http:\/\/localhost:9002|(?<=[ "])localhost:9002/g, server.url)
      .replaceAll(/wss?:\/\/(?:localhost:9002|tasks\.example\.com)/g, server.url.replace('http', 'ws'));
  };
  const shell = async (text: string, more: Record<string, string> = {}): Promise<string> =>
    (await run('bash', ['-euc', CURL + text], { env: { ...env, ...more } })).stdout;
  /** Runs JavaScript in which some names are given. @returns what it returns */
  const javascript = (text: string, given: Readonly<Record<string, unknown>>): Any => {
    const body = `return (async () => { ${text.replace(/^import .*$/gm, '')} })()`;
    return new Function(...Object.keys(given), body)(...Object.values(given));
  };
  const tokenFor = async (rooms: readonly string[]): Promise<string> => {
    const answer = await fetch(`${server.url}/api/tokens`, {
      method: 'POST',
      headers: { 'x-api-key': env['SERVICE_KEY']!, 'content-type': 'application/json' },
      body: JSON.stringify({ rooms }),
    });
    return ((await answer.json()) as { token: string }).token;
  };
  /** A WebSocket that ends with the tests. */
  class Browser extends WebSocket {
    readonly texts: string[] = [];
    constructor(url: string, protocols?: string[]) {
      super(url, protocols);
      ended.push(() => this.terminate());
      this.on('message', (text) => this.texts.push(String(text)));
    }
  }

  it('of docs/rest.md are answered well, one after the other', async () => {
    const rest = (beginning: string, more?: Record<string, string>): Promise<string> =>
      shell(snippet('docs/rest.md', beginning), more);
    await rest('curl -X POST $URL/api/jobs');
    await rest('curl $URL/api/jobs/123');
    await rest("curl -X POST $URL/api/tasks -H \"X-Api-Key: $KEY\" -H 'Content-Type: application/json' \\\n  -d '{");
    const once = snippet('docs/rest.md', 'curl -X PUT $URL/api/tasks/1/fee');
    expect(await shell(once)).to.equal(await shell(once));
    await rest("curl -X POST $URL/api/tasks -H \"X-Api-Key: $KEY\" -H 'Content-Type: application/json' \\\n  -d '[");
    expect(await rest('curl $URL/api/tasks/1')).to.contain('"task_opx_cost":1.25');
    const created = (await shell('curl "$URL/api/jobs/123/events" -H "X-Api-Key: $KEY"')).match(/"TASK_CREATED"/g);
    expect(created).to.have.length(3);
    expect(await rest('curl "$URL/api/jobs/123/events')).to.contain('TASK_STATUS_CHANGED');
    for (let more = 4; more <= 7; more += 1) {
      await tasks.createTaskData({ job_id: '123', task_definition_id: more });
    }
    expect(await rest('curl -X POST $URL/api/tokens', { TASKWIRE_URL: server.url })).to.contain('"expires_in":900');
    expect(await rest('curl $URL/api/ws/stats')).to.contain('total_clients');
    expect(await rest('curl $URL/metrics')).to.contain('taskwire_');
    const keyId = async (): Promise<string> => {
      const { body } = { body: JSON.parse(await shell('curl $URL/api/keys -H "X-Api-Key: $ADMIN_KEY"')) };
      return body.keys.find(({ name }: Any) => name === 'laptop').key_id;
    };
    const [make, ...others] = snippet('docs/rest.md', 'curl -X POST $URL/api/keys').split(/\n(?=curl)/);
    const admin = { KEY: env['ADMIN_KEY']! };
    await shell(make!, admin);
    const id = await keyId();
    for (const line of others.filter((line) => !line.includes('?owner='))) {
      await shell(line.replace('KEY_ID', id), admin);
    }
    const all = others.find((line) => line.includes('?owner='))!;
    await shell(all.replace('user_789', 'nobody_else'), admin);
  });

  it('of README and docs/protocol.md that are commands', async () => {
    for (const [document, beginning] of [
      ['README.md', 'curl -X PUT'],
      ['README.md', '# or nothing but HTTP'],
      ['docs/protocol.md', 'curl -X POST'],
      ['docs/protocol.md', 'curl -N'],
    ] as const) {
      const text = snippet(document, beginning).replaceAll('/jobs/1/', '/jobs/123/');
      expect(await shell(text), beginning).to.match(/\{/);
    }
    for (const line of snippet('README.md', 'npx taskwire').trim().split('\n')) {
      const [, , ...words] = line.split(/\s+#/)[0]!.trim().split(' ');
      let command = createProgram();
      for (const word of words) {
        command = command.commands.find((one) => one.name() === word) ?? command;
      }
      expect(command.parent, line).not.to.equal(null);
      const options = command.options.map(({ long }) => long);
      expect(options, line).to.include.members(words.filter((word) => word.startsWith('--')));
    }
  });

  it('that write: SQL, the repository, transactions', async () => {
    const sql = snippet('README.md', 'UPDATE tasks').replace('job_id = 1', 'job_id = 123').replace(/--.*/, '');
    await db.raw(sql);
    const { rows } = await db.raw(`SELECT DISTINCT task_status FROM tasks WHERE job_id = 123`);
    expect(rows).to.deep.equal([{ task_status: 'running' }]);

    const code = snippet('README.md', 'import { connectDatabase').replace("job_id: '1'", "job_id: '123'");
    const file = join(ROOT, 'snippet-of-readme.mjs');
    const given = `const DATABASE_URL = ${JSON.stringify(database.url)}, REDIS_URL = 'redis://127.0.0.1:${await freePort()}';\n`;
    writeFileSync(
      file,
      `${code}\nawait transport.close();\nawait db.destroy();\nconsole.log(task_id);`.replace(/\n\n/, `\n${given}`),
    );
    ended.push(() => rmSync(file, { force: true }));
    const made = Number((await run(process.execPath, [file])).stdout);
    expect(await tasks.getTask(made)).to.have.property('task_status', 'completed');

    const client = new pg.Client({ connectionString: database.url });
    await client.connect();
    ended.push(() => client.end());
    const raw = async (text: string, ...bindings: unknown[]) => (await client.query(text, bindings)).rows;
    await javascript(snippet('docs/operations.md', 'await db.transaction'), {
      db,
      tasks,
      client,
      drizzle: () => ({ transaction: (work: () => unknown) => work() }),
      prisma: { $transaction: (work: (tx: object) => unknown) => work({ $queryRawUnsafe: raw }) },
    });
    const { rows: fees } = await db.raw('SELECT task_opx_cost FROM tasks WHERE task_id = 1');
    expect(fees).to.deep.equal([{ task_opx_cost: 2 }]);
    await db.raw('CREATE ROLE taskwire');
    await db.raw(snippet('docs/operations.md', 'ALTER ROLE'));
  });

  it('that watch: Socket.IO, a plain WebSocket, an EventSource', async () => {
    const sockets: Socket[] = [];
    const shown: Any[] = [];
    const merged: Any[] = [];
    const said: unknown[] = [];
    const opened = (...given: Parameters<typeof io>): Socket => {
      const socket = io(...given);
      ended.push(() => socket.disconnect());
      sockets.push(socket);
      return socket;
    };
    const own = { console: { log: (...words: unknown[]) => void said.push(...words) }, WebSocket: Browser };
    const watch = snippet('README.md', '// Socket.IO').replace('job:1', 'job:123');
    await javascript(watch, {
      ...own,
      io: opened,
      api_key: env['KEY'],
      show: (rows: unknown) => shown.push(rows),
      merge: (...given: unknown[]) => merged.push(given),
    });
    await eventually(() => expect(shown).to.have.length(1));
    await tasks.updateTaskNumberAndStatus(1, 1, 'watched');
    await eventually(() => expect(merged).to.have.nested.property('[0][1].new_status', 'watched'));

    const token = await tokenFor(['job:123']);
    const plain = snippet('README.md', '// or what every browser has').replace('job:1', 'job:123');
    said.length = 0;
    await javascript(plain, { ...own, token });
    await eventually(() => expect(said.map(({ type }: Any) => type)).to.include('SUCCESS'));

    const ways = snippet('docs/protocol.md', '// a subprotocol');
    const made: Browser[] = [];
    class Noted extends Browser {
      constructor(url: string, protocols?: string[]) {
        super(url, protocols);
        made.push(this);
      }
    }
    await javascript(ways, { WebSocket: Noted, token });
    await eventually(() => expect(made.map(({ readyState }) => readyState)).to.deep.equal([1, 1]));
    expect(made[0]!.protocol).to.equal('taskwire');
    await eventually(() => expect(made[1]!.texts[0]).to.contain('Authenticated'));

    const received: unknown[] = [];
    const sources: Any[] = [];
    class EventSource {
      constructor(path: string) {
        const stream = new EventStream(server.url + path);
        ended.push(() => stream.close());
        sources.push({ stream, source: this });
      }
    }
    const stream = snippet('docs/protocol.md', 'const source = new EventSource');
    await javascript(stream, { EventSource, token, console: { log: (...words: unknown[]) => received.push(words) } });
    await eventually(() => expect(sources[0].stream.texts.length).to.be.above(1));
    for (const data of sources[0].stream.texts) {
      sources[0].source.onmessage({ data, lastEventId: sources[0].stream.lastEventId });
    }
    expect(received).to.have.nested.property('[0][0].type', 'JOB_TASKS_SNAPSHOT');

    const socket = opened(`${server.url}/api/ws/tasks`, { auth: { api_key: env['KEY'] }, transports: ['websocket'] });
    said.length = 0;
    await javascript(snippet('docs/protocol.md', "socket.on('disconnect'"), { ...own, socket });
    const page = snippet('docs/rest.md', 'const answer = await fetch');
    const answered = new Promise((done) => {
      void javascript(page, { socket, URL: server.url, KEY: env['KEY'], done });
    });
    expect(await answered).to.include({ room: 'job:123', recovered: true, replayed: 0 });
    socket.io.engine.close();
    await eventually(() => expect(said[0]).to.equal('forced close'));
  });

  it('that come back by themselves', async () => {
    const token = await tokenFor(['job:123']);
    const heard: Any[] = [];
    const made: Browser[] = [];
    class Noted extends Browser {
      constructor(url: string, protocols?: string[]) {
        super(url, protocols);
        made.push(this);
      }
    }
    let over = false;
    await javascript(snippet('docs/protocol.md', 'function watch('), {
      WebSocket: Noted,
      token,
      console: { log: (message: unknown) => heard.push(message) },
      setTimeout: (work: (...given: unknown[]) => void, _ms: number, ...given: unknown[]) =>
        setImmediate(() => over || work(...given)),
    });
    const answers = (): Any[] => heard.filter(({ type }) => type === 'SUCCESS').map(({ data }) => data.data);
    await eventually(() => expect(answers()).to.have.length(1));
    made[0]!.terminate();
    await tasks.updateTaskFee(1, 321);
    await eventually(() => expect(answers()).to.have.length(2));
    expect(answers()[1]).to.include({ recovered: true });
    await eventually(() => {
      const fees = heard.filter(({ type }) => type === 'TASK_FEE_UPDATED').map(({ data }) => data.changes.new_fee);
      expect(fees).to.deep.equal([321]);
    });
    over = true;
  });

  it('that keep positions', () => {
    const rows = new Map<number, Any>();
    const code = snippet('docs/protocol.md', 'const position = new Map');
    const { position, known, onEvent } = new Function('tasks', `${code}; return { position, known, onEvent }`)(rows);
    position.set('job:1', { seq: 4, epoch: 'e' });
    const event = (seq: number, changes: object) => ({
      seq,
      data: { task_id: 7, job_id: '1', user_id: 'alice', changes },
    });
    onEvent(event(5, { task_status: 'new' }));
    onEvent(event(5, { task_status: 'copy' }));
    expect([...rows]).to.deep.equal([[7, { task_status: 'new' }]]);
    expect([position.get('job:1').seq, known.get('alice 7'), position.has('user:alice')]).to.deep.equal([5, 5, false]);
  });

  it('that are messages or answers: they are JSON, and whole messages are as the document of the messages says', () => {
    const recorder = new Recorder(documents.openapi(), documents.asyncapi());
    const json = DOCUMENTS.flatMap(snippetsOf).filter(({ language }) => language === 'json');
    let checked = 0;
    for (const { name, text } of json) {
      ran.add(name);
      const values: Any[] = (() => {
        try {
          return [JSON.parse(text)];
        } catch {
          return text
            .trim()
            .split('\n')
            .map((line) => JSON.parse(line));
        }
      })();
      for (const value of values.filter(({ type }) => type !== undefined)) {
        // "..." stands for more of the kind.
        if (!text.includes('"..."')) {
          recorder.message('plain', value.type, { timestamp: '2024-01-01T00:00:00.000Z', ...value });
          checked += 1;
        }
      }
    }
    expect(recorder.problems).to.deep.equal([]);
    expect(checked).to.be.at.least(3);
  });

  it('have all been run, here or where the list says', () => {
    const elsewhere = ({ name }: Snippet): boolean =>
      Object.keys(ELSEWHERE).some((beginning) => name.startsWith(beginning));
    const all = DOCUMENTS.flatMap(snippetsOf);
    expect(
      all.filter((one) => !ran.has(one.name) && !elsewhere(one) && !isLongForm(one)).map(({ name }) => name),
    ).to.deep.equal([]);
    const unused = Object.keys(ELSEWHERE).filter((beginning) => !all.some(({ name }) => name.startsWith(beginning)));
    expect(unused).to.deep.equal([]);
  });
});
