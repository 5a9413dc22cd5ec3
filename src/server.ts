import { createServer as createHttpServer, type Server } from 'node:http';
import type { Server as SocketioServer } from 'socket.io';
import type { Logger } from './base/logger.js';
import { listen } from './base/port.js';
import { Releasers } from './base/releasers.js';
import type { Broker } from './broker/broker.js';
import { ControlBus } from './broker/control-bus.js';
import { Publisher } from './broker/publisher.js';
import type { Config } from './config.js';
import { documents } from './contract/documents.js';
import { connectPools } from './database/database-pools.js';
import { DatabaseWatch } from './database/database-watch.js';
import { AddressBrake } from './door/address-brake.js';
import { Approach } from './door/approach.js';
import { clientAddress } from './door/client-address.js';
import { createDoor } from './door/door.js';
import { KeyRing } from './door/key-ring.js';
import { KeyUsage } from './door/key-usage.js';
import { Maintenance } from './door/key-watch.js';
import { originCheck } from './door/origin.js';
import { PlaceClaims } from './door/place-claims.js';
import { RateLimiter } from './door/rate-limit.js';
import { RefusalLog } from './door/refusal-log.js';
import { createRenew } from './door/renewal.js';
import { RoomAccess } from './door/room-access.js';
import { SilentConnections } from './door/silent-connections.js';
import { tokenIssuerOf } from './door/token-issuer.js';
import { WaitingRoom } from './door/waiting-room.js';
import { Connections } from './gateways/connections.js';
import { FrameWriter } from './gateways/frame-writer.js';
import { Meters } from './gateways/meter.js';
import { createSocketioGateway } from './gateways/socketio-gateway.js';
import { createStreamGateway } from './gateways/stream-gateway.js';
import { createWebsocketGateway } from './gateways/websocket-gateway.js';
import { takeAbsoluteTargets } from './http/absolute-targets.js';
import { answerAfterRequests } from './http/answer-after-request.js';
import { createApp, requestListener } from './http/app.js';
import { Exchanges } from './http/exchanges.js';
import { restQueues } from './http/queues.js';
import { RequestsInFlight } from './http/requests-in-flight.js';
import { handleInTurn } from './http/requests-in-turn.js';
import { answerUnreadable } from './http/unreadable-requests.js';
import { ignoreOtherUpgrades } from './http/upgrade-requests.js';
import { Hub } from './hub/hub.js';
import { sessionOpener } from './hub/session.js';
import { ApiKeyRepository } from './repository/api-key-repository.js';
import { EventHistory } from './repository/event-history.js';
import { EventLog } from './repository/event-log.js';
import { EventRetention } from './repository/event-retention.js';
import { JobRepository } from './repository/job-repository.js';
import { ReadableLog } from './repository/readable-log.js';
import { TaskReader } from './repository/task-reader.js';
import { TaskRepository } from './repository/task-repository.js';
import { cleanWriteKeys } from './repository/write-keys.js';
import { ClusterStats } from './stats/cluster-stats.js';
import { Health, type Readiness } from './stats/health.js';

export interface TaskServerOptions {
  readonly config: Config;
  /** Schema up to date (`migrate`). */
  readonly databaseUrl: string;
  readonly broker: Broker;
  readonly logger: Logger;
  /** Whether it listens on HOST and PORT itself. Otherwise its owner gives it connections. */
  readonly listens?: boolean;
}

/** One worker. */
export interface TaskServer {
  /** Serves REST and both transports, on the connections that it is given or on PORT. */
  readonly http: Server;
  readonly io: SocketioServer;
  /** A listener for REST alone, on HOST and REST_PORT; undefined when no port is configured. */
  readonly rest: Server | undefined;
  /** Says whether `look` is called for events that nobody publishes; at first it is not. */
  setListening(listening: boolean): void;
  /** Looks into the log for events that nobody publishes; without `users` for those of everybody. */
  look(users: readonly string[] | undefined): void;
  /** Resolves when it serves: the database has answered, the broker was tried, and the ports are open. */
  start(): Promise<void>;
  /** Lets requests in flight finish and sends connections away over `seconds`; nobody is let in any more. */
  drain(seconds: number): Promise<void>;
  /** Ends everything at once. Idempotent. */
  stop(): Promise<void>;
}

/** How long a request may take to arrive, in milliseconds, and how often that is looked at. */
const HTTP_LIMITS = { headersTimeout: 10_000, requestTimeout: 60_000, connectionsCheckingInterval: 5_000 };
/** The same for the first head of a connection, where Node.js has not answered that it was too slow. */
const SILENCE_MS = 20_000;
/** How long requests in flight may take when the worker ends, in milliseconds. */
const REQUEST_PATIENCE_MS = 10_000;

/** Attempts and failures a minute that an address has for each of its connections, where nothing else is configured. */
const CONNECTS_PER_CONNECTION = 24;
const FAILED_KEYS_PER_CONNECTION = 3;
/** How long a connection may take to be let in when it has said whose it is, in milliseconds. */
const LOOKUP_MS = 5_000;

/** The composition root of one worker: read it from top to bottom to know the system. */
export function createServer({ config, databaseUrl, broker, logger, listens = false }: TaskServerOptions): TaskServer {
  let readiness: Readiness = 'starting';
  // Each part is released before those that it was built on.
  const releasers = new Releasers((what, error) => logger.error('not released', { what, error }));

  // Postgres is the truth: tasks, and the log of what happened to them.
  const watch = new DatabaseWatch({
    onTrouble: (trouble) => logger.warn('the database does not serve as it should', { ...trouble }),
    onRecovery: () => logger.info('the database serves again'),
  });
  const db = connectPools({
    url: databaseUrl,
    readUrl: config.DATABASE_READ_URL,
    connections: config.DATABASE_POOL,
    onWarning: (message) => logger.warn('database', { message }),
    onNote: (message) => logger.debug('database', { message }),
    watch,
  });
  releasers.push('database', () => db.destroy());
  releasers.push('broker', () => broker.stop());
  const log = new EventLog(db.lookups);
  const reader = new TaskReader(db.reads);
  const publisher = new Publisher(broker, logger);
  const tasks = new TaskRepository(db.writes, publisher, { statuses: config.TASK_STATUSES });
  const jobs = new JobRepository(db.writes);
  const apiKeys = new ApiKeyRepository(db.writes, db.lookups);

  // The hub puts what the broker brings in order and repairs it from the log.
  const readable = new ReadableLog(db, (reason) =>
    reason === undefined
      ? logger.info('the read replica is used again')
      : logger.warn('the read replica is not used', { reason }),
  );
  const hub = new Hub(broker, readable, config, logger);
  releasers.push('hub', () => hub.stop());
  const bus = new ControlBus(broker, logger);
  releasers.push('control bus', () => bus.stop());
  const stats = new ClusterStats({
    broker,
    bus,
    report: () => ({
      ...hub.report(),
      messages: { ...hub.counters, published: publisher.published, failed: publisher.failed },
    }),
    logger,
  });
  releasers.push('statistics', () => stats.stop());

  // The door, once for REST and both transports.
  const usage = new KeyUsage({ write: (uses) => apiKeys.touch(uses), logger });
  releasers.push('key usage', () => usage.stop());
  const rates = new RateLimiter(broker);
  const addressOf = clientAddress(config.TRUSTED_PROXIES);
  const refusals = new RefusalLog(logger);
  const perIp = config.MAX_CONNECTIONS_PER_IP;
  const checkOrigin = originCheck(config.ALLOWED_ORIGINS);
  const access = new RoomAccess((rooms) => log.ownersOf(rooms));
  const keys = new KeyRing({
    find: (hash) => apiKeys.findByHash(hash),
    active: (keyIds) => apiKeys.active(keyIds),
    onUse: (keyId) => usage.note(keyId),
    cacheMs: config.API_KEY_CACHE_MS,
    secrets: config.TOKEN_SECRET,
    issuer: tokenIssuerOf(config),
    rateLimit: config.DEFAULT_RATE_LIMIT,
    brake: new AddressBrake(
      config.MAX_FAILED_KEYS_PER_MINUTE_PER_IP ?? FAILED_KEYS_PER_CONNECTION * perIp,
      'Too many wrong API keys and tokens from this address',
    ),
    close: (keyId) => connections.closeByKey(keyId, 'INACTIVE_API_KEY'),
    tell: (change, keyId) => bus.send(change, { keyId }),
    logger,
  });
  const waitingRoom = new WaitingRoom({
    perAddress: perIp,
    inAll: config.MAX_UNAUTHENTICATED,
    patienceMs: config.AUTH_TIMEOUT_MS + LOOKUP_MS,
  });
  const approach = new Approach({
    addressOf,
    attempts: new AddressBrake(
      config.MAX_CONNECTS_PER_MINUTE_PER_IP ?? CONNECTS_PER_CONNECTION * perIp,
      'Too many connection attempts from this address',
    ),
    keys: keys.guard,
    waitingRoom,
    refusals,
  });
  const admit = createDoor({
    checkOrigin,
    keys: keys.guard,
    rates,
    addressOf,
    connections: broker,
    claims: new PlaceClaims((claim) => void bus.send('place-claimed', claim).catch(() => {})),
    maxConnectionsPerIp: perIp,
    refusals,
  });

  // One registry of connections for all transports. Streams over HTTP are a gateway that REST opens.
  const connections = new Connections(
    sessionOpener(hub, {
      resolve: (identity, room, arriving) => access.resolve(identity, room, arriving),
      authenticate: createRenew({ keys: keys.guard, rates, refusals }),
      limits: config,
      logger,
    }),
    logger,
  );
  const writer = new FrameWriter();
  const meters = new Meters(config);
  const streams = createStreamGateway({ connections, admit, writer, meters, limits: config });
  releasers.push('streams', () => streams.stop());
  const app = createApp({
    tasks,
    reader,
    queues: restQueues(db.sizes),
    jobs,
    jobReader: new JobRepository(db.reads),
    history: new EventHistory(db.reads),
    openStream: (request, response, wanted) => streams.open(request, response, wanted),
    apiKeys,
    access,
    keys: keys.guard,
    tokens: keys.tokens,
    rates,
    addressOf,
    refusals,
    checkOrigin,
    stats,
    statsAccess: config.STATS_ACCESS,
    health: new Health({
      probeDatabase: db.probe,
      databaseTrouble: () => watch.recentTrouble,
      brokerState: () => broker.state,
      readiness: () => readiness,
      collect: () => stats.collect({ rooms: false }),
    }),
    announceRevoked: (keyId) => keys.announce('key-revoked', keyId),
    announceChanged: (keyId) => keys.announce('key-changed', keyId),
    defaultRateLimit: config.DEFAULT_RATE_LIMIT,
    maxBodyBytes: config.MAX_BODY_BYTES,
    stallMs: config.SLOW_CONSUMER_MS,
    documents,
    logger,
  });

  const answer = requestListener(app);
  // Express before Socket.IO, which takes the requests of its own path away from it.
  const http = createHttpServer(HTTP_LIMITS, answer);
  const rest = config.REST_PORT === undefined ? undefined : createHttpServer(HTTP_LIMITS, answer);
  const servers = [http, rest].filter((server) => server !== undefined);
  const requests = new RequestsInFlight(
    servers,
    [listens ? http : undefined, rest].filter((server) => server !== undefined),
  );
  releasers.push('HTTP', () => requests.stop());
  const io = createSocketioGateway({
    server: http,
    adapter: broker.socketAdapter(),
    connections,
    approach,
    admit,
    writer,
    meters,
    limits: config,
  });
  createWebsocketGateway({
    server: http,
    connections,
    approach,
    admit,
    writer,
    meters,
    limits: config,
  });

  const silent = new SilentConnections(SILENCE_MS);
  releasers.push('silent connections', () => silent.stop());
  for (const server of servers) {
    handleInTurn(server);
    silent.watch(server);
  }
  for (const server of servers) {
    const exchanges = new Exchanges(server);
    if (server === http) {
      ignoreOtherUpgrades(server, exchanges);
    }
    answerAfterRequests(server);
    answerUnreadable(server, exchanges);
    takeAbsoluteTargets(server);
  }
  releasers.push('Engine.IO', () => io.engine.close());
  releasers.push('connections that wait', () => waitingRoom.stop());
  releasers.push('connections', () => connections.drain(0));

  const maintenance = new Maintenance({
    log: new EventRetention(db.writes),
    cleanWriteKeys: () => cleanWriteKeys(db.writes),
    apiKeys,
    connections,
    retentionHours: config.EVENT_RETENTION_HOURS,
    // A key that was looked up is believed for so long, whether in a request or on a connection.
    checkMs: config.API_KEY_CACHE_MS,
    logger,
  });
  releasers.push('maintenance', () => maintenance.stop());

  bus.on('place-claimed', ({ keyId, group }) => {
    if (typeof keyId === 'string' && typeof group === 'string') {
      connections.probe(keyId, group);
    }
  });
  for (const change of ['key-revoked', 'key-changed'] as const) {
    bus.on(change, (message) => keys.take(change, message));
  }
  // Keys may have been revoked while nobody could be told.
  broker.onUp(() => {
    keys.expireAll();
    void maintenance.checkKeys();
  });

  let stopped = false;

  async function databaseAnswers(): Promise<void> {
    for (let told = false; !stopped; ) {
      try {
        await db.lookups.raw('SELECT 1');
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

  return {
    http,
    io,
    rest,
    setListening(listening) {
      hub.listening = listening;
    },
    look(users) {
      for (const user of users ?? [undefined]) {
        void hub.look(user);
      }
    },
    async start() {
      await Promise.all([broker.start(), databaseAnswers()]);
      await Promise.all([bus.start(), stats.start()]);
      hub.start();
      usage.start();
      maintenance.start();
      if (stopped) {
        return;
      }
      // A port is open when what comes there can be served.
      readiness = 'ready';
      if (rest !== undefined) {
        await listen(rest, { host: config.HOST, port: config.REST_PORT!, variable: 'REST_PORT' });
      }
      if (listens) {
        await listen(http, { host: config.HOST, port: config.PORT, variable: 'PORT' });
      }
    },
    async drain(seconds) {
      readiness = 'draining';
      await requests.end();
      await connections.drain(seconds);
      await requests.drained(REQUEST_PATIENCE_MS);
    },
    stop() {
      stopped = true;
      readiness = 'draining';
      return releasers.release();
    },
  };
}
