import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Knex } from 'knex';
import { type Logger, silentLogger } from '../../src/base/logger.js';
import { ControlBus } from '../../src/broker/control-bus.js';
import { documents } from '../../src/contract/documents.js';
import { ApiKeyAuth } from '../../src/door/api-key.js';
import { Authenticator } from '../../src/door/authenticator.js';
import { clientAddress } from '../../src/door/client-address.js';
import { originCheck } from '../../src/door/origin.js';
import { RateLimiter } from '../../src/door/rate-limit.js';
import type { Refusal } from '../../src/door/refusal-log.js';
import { RoomAccess } from '../../src/door/room-access.js';
import { Tokens } from '../../src/door/tokens.js';
import { createApp } from '../../src/http/app.js';
import { restQueues } from '../../src/http/queues.js';
import { TaskwireError } from '../../src/protocol/errors.js';
import type { TaskEvent } from '../../src/protocol/events.js';
import type { Role } from '../../src/protocol/tasks.js';
import { ApiKeyRepository } from '../../src/repository/api-key-repository.js';
import { EventHistory } from '../../src/repository/event-history.js';
import { EventLog } from '../../src/repository/event-log.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import { TaskReader } from '../../src/repository/task-reader.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { ClusterStats } from '../../src/stats/cluster-stats.js';
import { Health, type Readiness } from '../../src/stats/health.js';
import { FakeBrokers } from './fake-broker.js';

export interface RestAnswer {
  readonly status: number;
  readonly headers: Headers;
  // biome-ignore lint/suspicious/noExplicitAny: tests look into answers of every form
  readonly body: any;
}

interface RestRequest {
  readonly key?: string | undefined;
  readonly headers?: Record<string, string>;
  /** Sent as it is when it is a string, as JSON otherwise. */
  readonly body?: unknown;
}

/** The REST interface over a database, with a broker that lives in this process. */
export class RestServer {
  readonly events: TaskEvent[] = [];
  readonly broker = new FakeBrokers().add('n1');
  readonly apiKeys: ApiKeyRepository;
  readonly auth: ApiKeyAuth;
  readonly rooms = new Map<string, number>();
  readonly messages = {
    events: 7,
    deliveries: 21,
    duplicates: 1,
    repairs: 2,
    captured: 4,
    resets: 0,
    published: 9,
    failed: 3,
  };
  readonly revoked: string[] = [];
  readonly changed: string[] = [];
  readonly refused: Refusal[] = [];
  readiness: Readiness = 'ready';
  readonly tokens = new Tokens({ secrets: ['s'.repeat(32)], isActive: () => true, rateLimit: 600 });
  private readonly server: Server;

  constructor(
    private readonly db: Knex,
    logger: Logger = silentLogger,
  ) {
    const { broker } = this;
    this.apiKeys = new ApiKeyRepository(db);
    this.auth = new ApiKeyAuth({ find: (hash) => this.apiKeys.findByHash(hash), cacheMs: 60_000 });
    const log = new EventLog(db);
    const bus = new ControlBus(broker, silentLogger);
    const stats = new ClusterStats({
      broker,
      bus,
      report: () => ({ clients: 3, rooms: this.rooms, messages: this.messages }),
      logger: silentLogger,
    });
    const app = createApp({
      tasks: new TaskRepository(db, { publish: (events) => this.events.push(...events) }),
      reader: new TaskReader(db),
      queues: restQueues({ writes: 4, reads: 4 }),
      jobs: new JobRepository(db),
      jobReader: new JobRepository(db),
      history: new EventHistory(db),
      openStream: () => Promise.reject(new TaskwireError('NOT_FOUND')),
      apiKeys: this.apiKeys,
      access: new RoomAccess((rooms) => log.ownersOf(rooms)),
      keys: new Authenticator(this.auth, this.tokens),
      tokens: this.tokens,
      statsAccess: 'local',
      rates: new RateLimiter(broker),
      addressOf: clientAddress([]),
      refusals: { note: (refusal) => this.refused.push(refusal) },
      checkOrigin: originCheck(['https://app.example.com']),
      stats,
      health: new Health({
        probeDatabase: async () => db.raw('SELECT 1'),
        brokerState: () => broker.state,
        readiness: () => this.readiness,
        collect: () => stats.collect({ rooms: false }),
      }),
      announceChanged: async (keyId) => {
        this.changed.push(keyId);
        this.auth.forget(keyId);
      },
      announceRevoked: async (keyId) => {
        this.revoked.push(keyId);
        this.auth.forget(keyId);
      },
      defaultRateLimit: 120,
      maxBodyBytes: 200_000,
      stallMs: 10_000,
      documents,
      logger,
    });
    this.server = createServer(app);
  }

  get port(): number {
    return (this.server.address() as AddressInfo).port;
  }

  async start(): Promise<void> {
    this.server.listen(0, '127.0.0.1');
    await once(this.server, 'listening');
  }

  async stop(): Promise<void> {
    this.server.closeAllConnections();
    this.server.close();
    await this.db.destroy();
  }

  async makeKey(owner: string, role: Role = 'user', rateLimit = 100_000): Promise<string> {
    return (await this.apiKeys.create({ owner, role, rate_limit: rateLimit })).key;
  }

  async request(method: string, path: string, { key, headers = {}, body }: RestRequest = {}): Promise<RestAnswer> {
    const response = await fetch(`http://127.0.0.1:${this.port}${path}`, {
      method,
      headers: {
        ...(key === undefined ? {} : { 'x-api-key': key }),
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...headers,
      },
      ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    });
    const text = await response.text();
    const json = response.headers.get('content-type')?.startsWith('application/json') ?? false;
    return {
      status: response.status,
      headers: response.headers,
      body: text === '' ? undefined : json ? JSON.parse(text) : text,
    };
  }
}
