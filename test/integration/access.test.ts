import { once } from 'node:events';
import { expect } from 'chai';
import type { Knex } from 'knex';
import pg from 'pg';
import { io } from 'socket.io-client';
import { connectDatabase } from '../../src/database/connect-database.js';
import type { Route } from '../../src/http/resource.js';
import { ROLE_SCOPES, type Role, type Scope } from '../../src/protocol/tasks.js';
import { ApiKeyRepository } from '../../src/repository/api-key-repository.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { PlainClient } from '../support/plain-client.js';
import { servedRoutes } from '../support/routes.js';
import { embeddedForTest, InProcessServer } from '../support/task-server.js';

// biome-ignore lint/suspicious/noExplicitAny: tests look into messages of every form
type Any = any;

/** Whose a thing is, seen from Eve, and from a key that sees all. */
const PLACES = ['own', 'foreign', 'missing'] as const;
type PlaceName = (typeof PLACES)[number];

interface Ids {
  readonly user: string;
  readonly job: string;
  readonly task: number;
}

/** Somebody who asks. */
interface Asker {
  readonly name: string;
  readonly headers: Readonly<Record<string, string>>;
  /** As Socket.IO's `auth`. */
  readonly auth: Readonly<Record<string, string>>;
  readonly scopes: readonly Scope[];
  readonly seesAll: boolean;
  /** Rooms that a token names; undefined: everything of the user, or by role. */
  readonly rooms?: ReadonlySet<string>;
}

/** What a route needs: a scope, a room whose owner is asked for, and a body. */
interface Need {
  readonly scope: Scope | 'public';
  /** The room that a request names; undefined: none. */
  readonly room?: (ids: Ids) => string;
  readonly query?: (ids: Ids) => string;
  readonly body?: (ids: Ids) => unknown;
  /** Whether the answer says for each item who may; then it is 207 with the error in it. */
  readonly batch?: boolean;
  /** Only the refusals are looked at: what happens when it is allowed is another test's. */
  readonly refusalsOnly?: boolean;
  /** The call uses its task up: each gets one of its own. */
  readonly spends?: boolean;
}

const job = ({ job }: Ids): string => `job:${job}`;
const task = ({ task }: Ids): string => `task:${task}`;
const user = ({ user }: Ids): string => `user:${user}`;

/** Every route with every method. One that is not here fails the test: say who may. */
const NEEDS: Readonly<Record<string, Need>> = {
  'GET /api/ws/health': { scope: 'public' },
  'GET /api/ws/tasks': { scope: 'public', refusalsOnly: true },
  'GET /api/ws/stats': { scope: 'stats' },
  'GET /metrics': { scope: 'stats' },
  'GET /api/jobs': { scope: 'read', room: user, query: ({ user }) => `?user_id=${user}` },
  'POST /api/jobs': { scope: 'write', refusalsOnly: true },
  'GET /api/jobs/:job_id': { scope: 'read', room: job },
  'GET /api/jobs/:job_id/events': { scope: 'read', room: job },
  'GET /api/tasks/:id/events': { scope: 'read', room: task },
  'GET /api/users/:user_id/events': { scope: 'read', room: user },
  'GET /api/users/:user_id/tasks': { scope: 'read', room: user },
  'DELETE /api/tasks/:id': { scope: 'write', room: task, refusalsOnly: true, spends: true },
  'POST /api/tasks': { scope: 'write', room: job, body: ({ job }) => ({ job_id: job, task_definition_id: 1 }) },
  'PUT /api/tasks': {
    scope: 'write',
    room: task,
    body: ({ task }) => [{ task_id: task, kind: 'fee', fee: 1 }],
    batch: true,
  },
  'GET /api/tasks/job/:job_id': { scope: 'read', room: job },
  'PUT /api/tasks/execution/:id': { scope: 'write', room: task, body: () => ({ task_opx_cost: 1 }) },
  'PUT /api/tasks/attestation/:id': { scope: 'write', room: task, body: () => ({ task_number: 1 }) },
  'PUT /api/tasks/:id/fee': { scope: 'write', room: task, body: () => ({ fee: 2 }) },
  'PUT /api/tasks/:id/status': { scope: 'write', room: task, body: () => ({ task_status: 'done' }) },
  'GET /api/tasks/:id': { scope: 'read', room: task },
  'GET /api/keys': { scope: 'keys' },
  'POST /api/keys': { scope: 'keys', body: () => ({ owner: 'somebody' }) },
  'DELETE /api/keys': { scope: 'keys', query: () => '?owner=nobody_at_all' },
  'PUT /api/keys/:key_id': { scope: 'keys', body: () => ({ rate_limit: 5 }), refusalsOnly: true },
  'DELETE /api/keys/:key_id': { scope: 'keys', refusalsOnly: true },
  'POST /api/keys/:key_id/rotate': { scope: 'keys', refusalsOnly: true },
  'GET /api/openapi.json': { scope: 'public' },
  'GET /api/asyncapi.json': { scope: 'public' },
  'GET /api/docs': { scope: 'public' },
  'POST /api/tokens': { scope: 'tokens', room: job, body: ({ job }) => ({ rooms: [`job:${job}`] }) },
};

describe('who may what', function () {
  this.timeout(120_000);
  let database: Awaited<ReturnType<typeof embeddedForTest>>;
  let db: Knex;
  let server: InProcessServer;
  let routes: readonly Route[];
  const askers: Asker[] = [];
  const things = {} as Record<PlaceName, Ids>;
  /** A key of somebody who owns nothing. */
  let stranger: string;
  const opened: Array<{ close(): void }> = [];
  /** Statements that reach the database while somebody asks. */
  let statements: string[] = [];
  const { query } = pg.Client.prototype;

  before(async () => {
    // Before there is any connection: some keep what they find here.
    pg.Client.prototype.query = function (this: pg.Client, ...args: Any[]) {
      const [text] = args;
      statements.push(typeof text === 'string' ? text : String(text?.text));
      return (query as Any).apply(this, args);
    } as typeof query;
    database = await embeddedForTest();
    db = connectDatabase({ url: database.url, pool: 2 });
    // Nothing of the server's own accord comes between.
    server = new InProcessServer(database.url, {
      TOKEN_SECRET: 's'.repeat(32),
      STATS_ACCESS: 'key',
      RECONCILE_IDLE_MS: '600000',
      API_KEY_CACHE_MS: '600000',
      POSITION_INTERVAL_MS: '600000',
    });
    await server.start();
    routes = servedRoutes();

    const keys = new ApiKeyRepository(db);
    const jobs = new JobRepository(db);
    const tasks = new TaskRepository(db);
    for (const [place, owner, id] of [
      ['own', 'eve', '1'],
      ['foreign', 'ada', '2'],
    ] as const) {
      await jobs.create({ job_id: id, user_id: owner });
      const { task_id } = await tasks.createTaskData({ job_id: id, task_definition_id: 1 });
      things[place] = { user: owner, job: id, task: task_id };
    }
    things.missing = { user: 'zoe', job: '404', task: 40_404 };

    const made = async (owner: string, role: Role, scopes?: Scope[]): Promise<string> => {
      const { key } = await keys.create({ owner, role, scopes, rate_limit: 1_000_000 });
      const all = role === 'service' || role === 'admin';
      const name = `${role}${scopes === undefined ? '' : ` with ${scopes.join(', ')}`}`;
      askers.push({
        name,
        headers: { 'x-api-key': key },
        auth: { api_key: key },
        scopes: scopes ?? ROLE_SCOPES[role],
        seesAll: all,
      });
      return key;
    };
    await made('eve', 'reader');
    const eve = await made('eve', 'user');
    await made('eve', 'user', ['read']);
    await made('eve', 'user', ['write']);
    await made('eve', 'user', ['tokens']);
    const service = await made('backend', 'service');
    await made('backend', 'service', ['read', 'stats']);
    await made('root', 'admin');
    await made('root', 'admin', ['keys']);
    stranger = (await keys.create({ owner: 'stranger', rate_limit: 1_000_000 })).key;
    const token = async (name: string, key: string, body: { rooms?: string[]; user?: string }): Promise<void> => {
      const response = await fetch(`${server.url}/api/tokens`, {
        method: 'POST',
        headers: { 'x-api-key': key, 'content-type': 'application/json' },
        body: JSON.stringify(body),
      });
      const { token } = (await response.json()) as Any;
      askers.push({
        name,
        headers: { authorization: `Bearer ${token}` },
        auth: { token },
        scopes: ['read'],
        seesAll: false,
        ...(body.rooms === undefined ? {} : { rooms: new Set(body.rooms) }),
      });
    };
    await token('token of eve', eve, { user: 'eve' });
    await token("token of eve's job", eve, { rooms: [job(things.own)] });
    await token("token of eve's task and user room", eve, { rooms: [task(things.own), user(things.own)] });
    await token("token of eve by a service's key", service, { user: 'eve' });
    await token("token of eve's job by a service's key", service, { rooms: [job(things.own)] });
  });
  afterEach(() => {
    for (const { close } of opened.splice(0)) {
      close();
    }
  });
  after(async () => {
    pg.Client.prototype.query = query;
    await server?.stop();
    await db?.destroy();
    await database?.stop();
  });

  /** Looks at jobs, tasks and users: what could tell one room from another. */
  const looksAtData = (text: string): boolean =>
    /\b(?:jobs|tasks|users|event_streams|task_events)\b/.test(text) &&
    // The hub compares the streams that it follows with the log, whoever asks for what.
    !text.startsWith('SELECT user_id, seq, epoch FROM event_streams');

  const pathOf = (path: string, { user, job, task }: Ids): string =>
    path.replace(':job_id', job).replace(':user_id', user).replace(':id', String(task)).replace(':key_id', 'nosuchkey');

  /** @param headers beside those of the asker */
  async function ask(
    asker: Asker | undefined,
    method: string,
    path: string,
    need: Need,
    ids: Ids,
    headers: Readonly<Record<string, string>> = {},
  ) {
    statements = [];
    const type = need.body === undefined ? {} : { 'content-type': 'application/json' };
    const response = await fetch(`${server.url}${pathOf(path, ids)}${need.query?.(ids) ?? ''}`, {
      method,
      headers: { ...asker?.headers, ...type, ...headers },
      ...(need.body === undefined ? {} : { body: JSON.stringify(need.body(ids)) }),
    });
    const text = await response.text();
    const json = text.startsWith('{') ? (JSON.parse(text) as Any) : {};
    const error = need.batch === true ? (json.results?.[0]?.error ?? json.error) : json.error;
    return {
      status: error === undefined ? response.status : undefined,
      code: error?.code as string | undefined,
      error,
      looks: statements.filter(looksAtData).length,
    };
  }

  /** The ids of a place with a task that nothing else needs. */
  async function withNewTask(place: PlaceName): Promise<Ids> {
    const ids = things[place];
    if (place === 'missing') {
      return ids;
    }
    const { task_id } = await new TaskRepository(db).createTaskData({ job_id: ids.job, task_definition_id: 1 });
    return { ...ids, task: task_id };
  }

  /** Whether somebody sees a room, and what he is told when he does not. */
  function verdict(asker: Asker, room: string | undefined, place: PlaceName): string | undefined {
    if (room === undefined) {
      return undefined;
    }
    if (asker.seesAll) {
      return place === 'missing' ? 'NOT_FOUND' : undefined;
    }
    return place === 'own' && asker.rooms?.has(room) !== false ? undefined : 'ACCESS_DENIED';
  }

  it('knows every route', () => {
    const all = routes.flatMap(({ path, methods }) => methods.map((method) => `${method} ${path}`));
    expect(all.sort()).to.deep.equal(Object.keys(NEEDS).sort());
  });

  for (const [route, need] of Object.entries(NEEDS)) {
    it(route, async () => {
      const [method, path] = route.split(' ') as [string, string];
      if (need.scope !== 'public') {
        expect((await ask(undefined, method, path, need, things.own)).code).to.equal('MISSING_API_KEY');
      }
      for (const asker of askers) {
        const answers = {} as Record<PlaceName, Awaited<ReturnType<typeof ask>>>;
        for (const place of PLACES) {
          const title = `${asker.name}, ${place}`;
          const ids = need.spends === true ? await withNewTask(place) : things[place];
          const answer = await ask(asker, method, path, need, ids);
          answers[place] = answer;
          if (need.scope !== 'public' && !asker.scopes.includes(need.scope)) {
            expect(answer.code, title).to.equal('ACCESS_DENIED');
            expect(answer.looks, title).to.equal(0);
          } else if (need.refusalsOnly !== true) {
            const expected = verdict(asker, need.room?.(ids), place);
            expect(answer.code, title).to.equal(expected);
            if (expected === undefined) {
              expect(answer.status, title).to.be.within(200, 207);
              if (need.room !== undefined && place === 'own' && route.startsWith('GET')) {
                expect(answer.looks, `${title}: look-ups are counted`).to.be.greaterThan(0);
              }
            }
          }
        }
        if (!asker.seesAll && (need.refusalsOnly !== true || need.room !== undefined)) {
          const { foreign, missing } = answers;
          expect(foreign.error, asker.name).to.deep.equal(missing.error);
          expect(foreign.looks, `${asker.name}: look-ups of a foreign and of a missing thing`).to.equal(missing.looks);
        }
      }
    });
  }

  for (const [route, need] of Object.entries(NEEDS)) {
    const [method, path] = route.split(' ') as [string, string];
    if (need.scope !== 'write' || need.room === undefined || method === 'DELETE') {
      continue;
    }
    it(`${route} under an idempotency key that was used for one's own`, async () => {
      for (const asker of askers.filter(({ scopes, seesAll }) => scopes.includes('write') && !seesAll)) {
        const headers = { 'idempotency-key': `${route} ${asker.name}`.replaceAll(/\W/g, '-') };
        const own = await ask(asker, method, path, need, things.own, headers);
        expect(own.code, asker.name).to.equal(undefined);
        expect((await ask(asker, method, path, need, things.own, headers)).code, asker.name).to.equal(undefined);
        const foreign = await ask(asker, method, path, need, things.foreign, headers);
        const missing = await ask(asker, method, path, need, things.missing, headers);
        // That the key was used is the asker's own; the answer tells nothing of the thing.
        expect(foreign.code, asker.name).to.equal('IDEMPOTENCY_MISMATCH');
        expect(foreign.error, asker.name).to.deep.equal(missing.error);
        const unused = await ask(asker, method, path, need, things.foreign, { 'idempotency-key': 'unused' });
        expect(unused.code, asker.name).to.equal('ACCESS_DENIED');
        expect(foreign.looks, `${asker.name}: look-ups of a foreign and of a missing thing`).to.equal(missing.looks);
      }
    });
  }

  /** Asks for a room on a connection. @returns the code of the refusal */
  async function codeOf(client: PlainClient, room: string): Promise<string | undefined> {
    statements = [];
    client.send({ type: 'SUBSCRIBE', data: { room, snapshot: false }, request_id: room });
    const { type, data } = await client.answer(room);
    return type === 'ERROR' ? data.code : undefined;
  }

  async function overPlain(asker: Asker, room: string, client: PlainClient): Promise<string | undefined> {
    opened.push({ close: () => client.socket.terminate() });
    await Promise.race([once(client.socket, 'open'), client.ended()]);
    if (!asker.scopes.includes('read')) {
      await client.ended();
      return client.messages[0].data.code;
    }
    return codeOf(client, room);
  }

  async function overHttp(
    room: string,
    accept: string,
    headers: Readonly<Record<string, string>>,
    query = '',
  ): Promise<string | undefined> {
    const [kind, id] = room.split(':');
    const abort = new AbortController();
    opened.push({ close: () => abort.abort() });
    statements = [];
    const response = await fetch(`${server.url}/api/${kind}s/${id}/events?snapshot=false${query}`, {
      headers: { ...headers, accept },
      signal: abort.signal,
    });
    if (response.status !== 200) {
      return ((await response.json()) as Any).error.code;
    }
    let text = '';
    for await (const chunk of response.body!) {
      text += Buffer.from(chunk).toString();
      if (text.includes('"SUCCESS"')) {
        break;
      }
    }
    return undefined;
  }

  /** Asks for a room over a door. @returns the code of the refusal */
  const doors: Readonly<Record<string, (asker: Asker, room: string) => Promise<string | undefined>>> = {
    'a plain WebSocket': (asker, room) =>
      overPlain(asker, room, new PlainClient(`${server.url}/api/ws/tasks`, { ...asker.headers })),
    'a plain WebSocket, by a subprotocol': (asker, room) => {
      const [[kind, secret]] = Object.entries(asker.auth) as [[string, string]];
      const name = kind === 'token' ? `taskwire.token.${secret}` : `taskwire.key.${secret}`;
      return overPlain(asker, room, new PlainClient(`${server.url}/api/ws/tasks`, {}, [name, 'taskwire']));
    },
    'a plain WebSocket, by a first message': async (asker, room) => {
      const client = new PlainClient(`${server.url}/api/ws/tasks`);
      client.socket.once('open', () => client.send({ type: 'AUTH', data: asker.auth }));
      return overPlain(asker, room, client);
    },
    "a plain WebSocket that came with somebody else's key": async (asker, room) => {
      const client = new PlainClient(`${server.url}/api/ws/tasks`, { 'x-api-key': stranger });
      opened.push({ close: () => client.socket.terminate() });
      await once(client.socket, 'open');
      client.send({ type: 'AUTH', data: asker.auth, request_id: 'auth' });
      const { type, data } = await client.answer('auth');
      return type === 'ERROR' ? data.code : codeOf(client, room);
    },
    'Server-Sent Events': (asker, room) => overHttp(room, 'text/event-stream', asker.headers),
    'Server-Sent Events, by the query': (asker, room) => {
      const { token } = asker.auth;
      return token === undefined
        ? overHttp(room, 'text/event-stream', asker.headers)
        : overHttp(room, 'text/event-stream', {}, `&token=${token}`);
    },
    NDJSON: (asker, room) => overHttp(room, 'application/x-ndjson', asker.headers),
    'Socket.IO': async (asker, room) => {
      const socket = io(`${server.url}/api/ws/tasks`, {
        auth: asker.auth,
        transports: ['websocket'],
        forceNew: true,
        reconnection: false,
      });
      opened.push({ close: () => socket.disconnect() });
      if (!asker.scopes.includes('read')) {
        const [error] = (await once(socket as Any, 'connect_error')) as Any[];
        return error.data.code;
      }
      await once(socket as Any, 'connect');
      statements = [];
      const answer = await socket.emitWithAck('SUBSCRIBE', { room, snapshot: false });
      return answer.error?.code;
    },
  };

  for (const [door, subscribe] of Object.entries(doors)) {
    it(`rooms over ${door}`, async () => {
      for (const asker of askers) {
        for (const kind of [job, task, user]) {
          const looks: string[][] = [];
          for (const place of PLACES) {
            const room = kind(things[place]);
            const expected = asker.scopes.includes('read') ? verdict(asker, room, place) : 'ACCESS_DENIED';
            expect(await subscribe(asker, room), `${asker.name}, ${room} (${place})`).to.equal(expected);
            looks.push(statements.filter(looksAtData));
          }
          if (!asker.seesAll && asker.scopes.includes('read')) {
            expect(looks[1], `${asker.name}: look-ups of a foreign and of a missing room`).to.deep.equal(looks[2]);
          }
        }
      }
    });
  }
});
