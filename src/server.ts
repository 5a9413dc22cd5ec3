import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer as createHttpServer, type Server } from 'node:http';
import type { Server as SocketioServer } from 'socket.io';
import type { Logger } from './base/logger.js';
import type { Broker } from './broker/broker.js';
import { ControlBus } from './broker/control-bus.js';
import { Publisher } from './broker/publisher.js';
import type { Config } from './config.js';
import { ApiKeyAuth } from './door/api-key.js';
import { Authenticator } from './door/authenticator.js';
import { clientAddress } from './door/client-address.js';
import { credentialsOfMessage } from './door/credentials.js';
import { createDoor } from './door/door.js';
import { KeyUsage } from './door/key-usage.js';
import { Maintenance } from './door/key-watch.js';
import { originCheck } from './door/origin.js';
import { RateLimiter } from './door/rate-limit.js';
import { RoomAccess } from './door/room-access.js';
import { TokenKeys } from './door/token-keys.js';
import { type TokenIssuer, Tokens } from './door/tokens.js';
import { Connections } from './gateways/connections.js';
import { FrameWriter } from './gateways/frame-writer.js';
import { createSocketioGateway } from './gateways/socketio-gateway.js';
import { createWebsocketGateway } from './gateways/websocket-gateway.js';
import { createApp } from './http/app.js';
import { RequestsInFlight } from './http/requests-in-flight.js';
import { Hub } from './hub/hub.js';
import { sessionOpener } from './hub/session.js';
import { ApiKeyRepository } from './repository/api-key-repository.js';
import { connectDatabase } from './repository/connect-database.js';
import { EventHistory } from './repository/event-history.js';
import { EventLog } from './repository/event-log.js';
import { JobRepository } from './repository/job-repository.js';
import { TaskRepository } from './repository/task-repository.js';
import { ClusterStats } from './stats/cluster-stats.js';
import { Health, type Readiness } from './stats/health.js';

export interface TaskServerOptions {
  readonly config: Config;
  /** Schema up to date (`migrate`). */
  readonly databaseUrl: string;
  readonly broker: Broker;
  readonly logger: Logger;
  /** Told when a plain WebSocket opens and when it ends, for whoever balances connections. */
  readonly onOpen?: (id: string) => void;
  readonly onClose?: (id: string) => void;
}

/** One worker. */
export interface TaskServer {
  /** Serves REST and both transports to whatever connections it is given; it listens only if its owner has it listen. */
  readonly http: Server;
  readonly io: SocketioServer;
  /** A listener for REST alone, on HOST and REST_PORT; undefined when no port is configured. */
  readonly rest: Server | undefined;
  /** Resolves when it can serve: the database has answered and the broker was tried. */
  start(): Promise<void>;
  /** Lets requests in flight finish and sends connections away over `seconds`; nobody is let in any more. */
  drain(seconds: number): Promise<void>;
  /** Ends everything at once. Idempotent. */
  stop(): Promise<void>;
}

/** How long a request may take to arrive, in milliseconds, and how often that is looked at. */
const HTTP_LIMITS = { headersTimeout: 10_000, requestTimeout: 60_000, connectionsCheckingInterval: 5_000 };
/** How long requests in flight may take when the worker ends, in milliseconds. */
const REQUEST_PATIENCE_MS = 10_000;

/** The composition root of one worker: read it from top to bottom to know the system. */
export function createServer({ config, databaseUrl, broker, logger, onOpen, onClose }: TaskServerOptions): TaskServer {
  let readiness: Readiness = 'starting';

  // Postgres is the truth: tasks, and the log of what happened to them.
  const db = connectDatabase({
    url: databaseUrl,
    pool: config.DATABASE_POOL,
    onWarning: (message) => logger.warn('database', { message }),
  });
  const log = new EventLog(db);
  const publisher = new Publisher(broker, logger);
  const tasks = new TaskRepository(db, publisher);
  const jobs = new JobRepository(db);
  const apiKeys = new ApiKeyRepository(db);

  // The hub puts what the broker brings in order and repairs it from the log.
  const hub = new Hub(broker, log, config, logger);
  const bus = new ControlBus(broker, logger);
  const stats = new ClusterStats({
    broker,
    bus,
    report: () => ({
      ...hub.report(),
      messages: { ...hub.counters, published: publisher.published, failed: publisher.failed },
    }),
    logger,
  });

  // The door, once for REST and both transports.
  const usage = new KeyUsage({ write: (uses) => apiKeys.touch(uses), logger });
  const keys = new ApiKeyAuth({
    find: (hash) => apiKeys.findByHash(hash),
    cacheMs: config.API_KEY_CACHE_MS,
    onUse: (keyId) => usage.note(keyId),
  });
  const rates = new RateLimiter(broker);
  const checkOrigin = originCheck(config.ALLOWED_ORIGINS);
  const access = new RoomAccess((rooms) => log.ownersOf(rooms));
  const tokenKeys = new TokenKeys({
    active: (keyIds) => apiKeys.active(keyIds),
    cacheMs: config.API_KEY_CACHE_MS,
    onInactive: (keyId) => revoke({ keyId }),
  });
  const tokens = new Tokens({
    secrets: config.TOKEN_SECRET,
    issuer: tokenIssuer(config),
    isActive: (keyId) => tokenKeys.isActive(keyId),
    rateLimit: config.DEFAULT_RATE_LIMIT,
  });
  const authenticator = new Authenticator(keys, tokens);
  const admit = createDoor({
    checkOrigin,
    keys: authenticator,
    rates,
    addressOf: clientAddress(config.TRUSTED_PROXIES),
    connections: broker,
    maxConnectionsPerIp: config.MAX_CONNECTIONS_PER_IP,
  });

  const announceChanged = async (keyId: string): Promise<void> => {
    await bus.send('key-changed', { keyId }).catch((error) => {
      logger.warn('other workers learn of the changed key only when they look it up again', { error });
      change({ keyId });
    });
  };
  const announceRevoked = async (keyId: string): Promise<void> => {
    await bus.send('key-revoked', { keyId }).catch((error) => {
      logger.warn('other workers learn of the revoked key only when they look it up again', { error });
      revoke({ keyId });
    });
  };
  const app = createApp({
    tasks,
    jobs,
    history: new EventHistory(db),
    apiKeys,
    access,
    keys: authenticator,
    tokens,
    rates,
    checkOrigin,
    stats,
    statsAccess: config.STATS_ACCESS,
    health: new Health({
      probeDatabase: async () => db.raw('SELECT 1'),
      brokerUp: () => broker.up,
      readiness: () => readiness,
      collect: () => stats.collect({ rooms: false }),
    }),
    announceRevoked,
    announceChanged,
    defaultRateLimit: config.DEFAULT_RATE_LIMIT,
    maxBodyBytes: config.MAX_BODY_BYTES,
    logger,
  });

  // Express before Socket.IO, which takes the requests of its own path away from it.
  const http = createHttpServer(HTTP_LIMITS, app);
  const rest = config.REST_PORT === undefined ? undefined : createHttpServer(HTTP_LIMITS, app);
  const requests = new RequestsInFlight(http, rest);
  const connections = new Connections(
    sessionOpener(hub, {
      resolve: (identity, room) => access.resolve(identity, room),
      authenticate: async (data) => {
        const identity = await authenticator.authenticate(credentialsOfMessage(data));
        await rates.check(identity);
        return identity;
      },
      limits: config,
      logger,
    }),
    logger,
  );
  const writer = new FrameWriter();
  const io = createSocketioGateway({
    server: http,
    adapter: broker.socketAdapter(),
    connections,
    admit,
    writer,
    limits: config,
  });
  const websockets = createWebsocketGateway({
    server: http,
    connections,
    admit,
    writer,
    limits: config,
    onOpen,
    onClose,
  });

  const maintenance = new Maintenance({
    log,
    apiKeys,
    connections,
    retentionHours: config.EVENT_RETENTION_HOURS,
    // A key that was looked up is believed for so long, whether in a request or on a connection.
    checkMs: config.API_KEY_CACHE_MS,
    logger,
  });

  function revoke({ keyId }: Readonly<Record<string, unknown>>): void {
    if (typeof keyId === 'string') {
      keys.forget(keyId);
      tokenKeys.disable(keyId);
      connections.closeByKey(keyId, 'INACTIVE_API_KEY');
    }
  }
  function change({ keyId }: Readonly<Record<string, unknown>>): void {
    if (typeof keyId === 'string') {
      keys.forget(keyId);
      tokenKeys.forget(keyId);
    }
  }
  bus.on('key-revoked', revoke);
  bus.on('key-changed', change);
  // Keys may have been revoked while nobody could be told.
  broker.onUp(() => {
    keys.expireAll();
    tokenKeys.expireAll();
    void maintenance.checkKeys();
  });

  let stopping: Promise<void> | undefined;

  async function databaseAnswers(): Promise<void> {
    for (let told = false; stopping === undefined; ) {
      try {
        await db.raw('SELECT 1');
        return;
      } catch (error) {
        if (!told) {
          logger.warn('waiting for the database', { error });
          told = true;
        }
        await new Promise((resolve) => setTimeout(resolve, 250));
      }
    }
  }

  async function end(): Promise<void> {
    readiness = 'draining';
    await connections.drain(0);
    websockets.stop();
    maintenance.stop();
    rest?.closeAllConnections();
    rest?.close();
    http.closeAllConnections();
    await hub.stop();
    await Promise.allSettled([stats.stop(), bus.stop(), usage.stop()]);
    await broker.stop();
    io.engine.close();
    await db.destroy();
  }

  return {
    http,
    io,
    rest,
    async start() {
      await Promise.all([broker.start(), databaseAnswers()]);
      await Promise.all([bus.start(), stats.start()]);
      hub.start();
      usage.start();
      maintenance.start();
      if (rest !== undefined) {
        rest.listen(config.REST_PORT, config.HOST);
        await once(rest, 'listening');
      }
      readiness = 'ready';
    },
    async drain(seconds) {
      readiness = 'draining';
      requests.end();
      await connections.drain(seconds);
      await requests.drained(REQUEST_PATIENCE_MS);
    },
    stop() {
      stopping ??= end();
      return stopping;
    },
  };
}

/** The application's own issuer of tokens, if there is one. */
function tokenIssuer({
  TOKEN_ISSUER,
  TOKEN_AUDIENCE,
  TOKEN_JWKS_URL,
  TOKEN_JWKS_FILE,
}: Config): TokenIssuer | undefined {
  if (TOKEN_ISSUER === undefined || TOKEN_AUDIENCE === undefined) {
    return undefined;
  }
  return {
    issuer: TOKEN_ISSUER,
    audience: TOKEN_AUDIENCE,
    keys:
      TOKEN_JWKS_URL === undefined
        ? (JSON.parse(readFileSync(TOKEN_JWKS_FILE!, 'utf8')) as { keys: object[] })
        : new URL(TOKEN_JWKS_URL),
  };
}
