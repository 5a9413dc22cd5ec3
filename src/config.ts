import { availableParallelism } from 'node:os';
import { z } from 'zod';
import { parseDatabaseUrl } from './base/database-url.js';
import { postgresVariableFaults } from './base/postgres-variables.js';
import { parseRedisUrl } from './base/redis-url.js';
import {
  certificates,
  count,
  databaseUrl,
  flag,
  hostPorts,
  isOrigin,
  isProxy,
  keySet,
  list,
  milliseconds,
  port,
  redisUrl,
  shown,
  urlOf,
} from './base/variable-forms.js';

/** Every variable of the environment that is read, with its default. */
const schema = z.object({
  NODE_ENV: z.enum(['production', 'development', 'test']).default('development'),
  /** Address and port of the public listener; unset: this machine only on the embedded database, else every address. */
  HOST: z.string().min(1).optional(),
  PORT: port.default(9002),
  /** Port of a second listener for REST and metrics that does not pass through the sticky primary; unset: none. */
  REST_PORT: port.optional(),
  /** Worker processes; default one per core. */
  WORKERS: count.max(256).default(availableParallelism()),
  /** Who listens when there are several workers: the primary, which hands connections over, or each worker at PORT, PORT + 1, ... */
  LISTEN: z.enum(['primary', 'workers']).default('primary'),
  /** Postgres; unset: an embedded database in DATA_DIR. */
  DATABASE_URL: databaseUrl.optional(),
  /** Comma-separated statuses that tasks may be given; empty: any short word. */
  TASK_STATUSES: list
    .refine((items) => items.every((item) => /^[a-z0-9_-]{1,32}$/i.test(item)), {
      message: 'wants words of 1 to 32 letters, digits, - or _',
    })
    .default([]),
  /** Where pages, snapshots and replays are read, for example a streaming replica; unset: DATABASE_URL. */
  DATABASE_READ_URL: databaseUrl.optional(),
  /** Whether changes that other programs make to tasks become events. */
  CAPTURE: z.enum(['on', 'off']).default('on'),
  /** Database connections per worker: half for writes, a fifth for quick questions, the rest for reads; at least three are used. */
  DATABASE_POOL: count.max(1000).default(10),
  /** One Redis server; unset, and no Sentinels or cluster either: workers of this host are joined through the primary. */
  REDIS_URL: redisUrl.optional(),
  /** Redis Sentinels, that know the master. */
  REDIS_SENTINELS: hostPorts.optional(),
  /** Name of the master among the Sentinels. */
  REDIS_SENTINEL_MASTER: z.string().min(1).default('mymaster'),
  /** What the Sentinels themselves want. */
  REDIS_SENTINEL_USERNAME: z.string().min(1).optional(),
  REDIS_SENTINEL_PASSWORD: z.string().min(1).optional(),
  /** Some nodes of a Redis Cluster (Redis 7). */
  REDIS_CLUSTER: hostPorts.optional(),
  /** What the Redis servers want, where it does not stand in REDIS_URL. */
  REDIS_USERNAME: z.string().min(1).optional(),
  REDIS_PASSWORD: z.string().min(1).optional(),
  /** TLS to Sentinels and to the servers that they or the cluster name. */
  REDIS_TLS: flag.default(false),
  /** Certificates (PEM) of a private authority that signs those of Redis. */
  REDIS_CA_FILE: certificates.optional(),
  /** Prefix of all keys and channels in Redis. */
  REDIS_PREFIX: z
    .string()
    .max(64)
    .regex(/^[^\s{}]+$/, { message: 'wants a word without spaces and braces' })
    .default('taskwire'),
  DATA_DIR: z.string().min(1).default('.taskwire'),
  LOG_LEVEL: z.enum(['error', 'warn', 'info', 'debug']).default('info'),
  LOG_FORMAT: z.enum(['json', 'pretty']).optional(),
  /** Comma-separated addresses, networks (CIDR) or the words loopback, linklocal, uniquelocal. */
  TRUSTED_PROXIES: list
    .refine((items) => items.every(isProxy), {
      message: 'wants addresses, networks such as 10.0.0.0/8, or the words loopback, linklocal, uniquelocal',
    })
    .default([]),
  /** Comma-separated origins that browsers may connect from; `*`: any. Requests without an Origin always pass. */
  ALLOWED_ORIGINS: list
    .refine((items) => items.every(isOrigin), {
      message:
        'wants *, null, or origins without a path, such as https://app.example.com, https://*.example.com, ' +
        'http://localhost:* or capacitor://localhost',
    })
    .default(['*']),
  /** Connections of one address over the whole cluster. */
  MAX_CONNECTIONS_PER_IP: count.default(10),
  /** Connection attempts of an address per minute, in each worker; 24 times MAX_CONNECTIONS_PER_IP when unset. */
  MAX_CONNECTS_PER_MINUTE_PER_IP: count.optional(),
  /** Keys that an address may try in vain per minute, in each worker; 3 times MAX_CONNECTIONS_PER_IP when unset. */
  MAX_FAILED_KEYS_PER_MINUTE_PER_IP: count.optional(),
  /** Connections of which it is not known yet whose they are, in each worker. */
  MAX_UNAUTHENTICATED: count.default(4_000),
  /** Requests per minute of a key that names no limit of its own. */
  DEFAULT_RATE_LIMIT: count.default(600),
  /** How long a looked-up key is believed. */
  API_KEY_CACHE_MS: milliseconds.default(15_000),
  /** Who sees statistics and metrics without a key: nobody, direct callers on this machine, or everybody. */
  STATS_ACCESS: z.enum(['key', 'local', 'public']).optional(),
  /** Secrets of tokens, comma-separated: the first one signs, all of them verify. Unset on the embedded database: made in DATA_DIR. */
  TOKEN_SECRET: list
    .refine((items) => items.every((item) => item.length >= 32), { message: 'wants secrets of at least 32 characters' })
    .default([]),
  /** Public keys of the application's own issuer of tokens: a URL, or a file. */
  TOKEN_JWKS_URL: urlOf('http:', 'https:').optional(),
  TOKEN_JWKS_FILE: keySet.optional(),
  /** `iss` and `aud` of that issuer's tokens. */
  TOKEN_ISSUER: z
    .string()
    .min(1)
    .refine((text) => text !== 'taskwire', {
      message: 'cannot be "taskwire": this service signs its own tokens with that name',
    })
    .optional(),
  TOKEN_AUDIENCE: z.string().min(1).optional(),
  /** How long a WebSocket that was opened without a key or a token may take to send one. */
  AUTH_TIMEOUT_MS: milliseconds.default(5_000),
  /** Rooms of one connection. */
  MAX_ROOMS_PER_CONNECTION: count.default(256),
  /** Bytes of one client message. */
  MAX_MESSAGE_BYTES: count.default(32_768),
  /** Messages of one connection per second, over ten seconds; what costs more than a message counts as several. */
  MAX_MESSAGES_PER_SECOND: count.default(50),
  /** The same of all connections of one key in a worker, if the key's own limit is not higher. */
  MAX_MESSAGES_PER_SECOND_PER_KEY: count.default(200),
  /** Bytes of one REST body. */
  MAX_BODY_BYTES: count.default(1_048_576),
  /** Tasks of one snapshot; a larger one says `truncated`. */
  MAX_SNAPSHOT_TASKS: count.default(5_000),
  /** Bytes of the tasks in one snapshot; a larger one says `truncated`. Some clients refuse messages of more than 1 MiB. */
  MAX_SNAPSHOT_BYTES: count.default(1_000_000),
  /** Bytes that wait for a connection before what comes is kept back until it has taken them. */
  MAX_BUFFERED_BYTES: count.default(1_048_576),
  /** How long a connection may take nothing of what waits for it before it is closed with SLOW_CONSUMER. */
  SLOW_CONSUMER_MS: milliseconds.default(10_000),
  /** Recent events of a stream that a worker keeps for short absences. */
  RING_EVENTS: count.default(256),
  /** Bytes of all recent events together in a worker. */
  RING_BYTES: count.default(67_108_864),
  /**
   * How often a worker compares its streams with the log while the broker is down, or while nobody tells it of changes by
   * other programs.
   */
  RECONCILE_MS: milliseconds.default(1_000),
  /** The same otherwise. */
  RECONCILE_IDLE_MS: milliseconds.default(5_000),
  /** Events of one page of a replay. */
  REPLAY_PAGE: count.max(10_000).default(500),
  /** Replays from the database at a time in a worker. */
  REPLAY_CONCURRENCY: count.default(4),
  /** How long the log keeps an event. */
  EVENT_RETENTION_HOURS: z.coerce.number().positive().default(72),
  /** Interval and patience of pings. */
  PING_INTERVAL_MS: milliseconds.default(25_000),
  PING_TIMEOUT_MS: milliseconds.default(20_000),
  /** How long after its last message a subscribed connection is told its position. */
  POSITION_INTERVAL_MS: milliseconds.default(600_000),
  /** Time over which a stopping worker closes its connections. */
  DRAIN_SECONDS: z.coerce.number().min(0).max(3600).default(10),
  /** Whether frames are written past Socket.IO where order cannot change. */
  DIRECT_FRAMES: flag.default(true),
});

/** How many ports follow PORT that are taken as well. */
const furtherPorts = ({ LISTEN, WORKERS }: Pick<Environment, 'LISTEN' | 'WORKERS'>): number =>
  LISTEN === 'workers' ? WORKERS - 1 : 0;

const checked = schema
  .refine((variables) => furtherPorts(variables) === 0 || variables.PORT !== 0, {
    path: ['PORT'],
    message: 'wants a number other than 0 with LISTEN=workers',
  })
  .refine((variables) => variables.PORT + furtherPorts(variables) <= 65_535, {
    path: ['PORT'],
    message: 'is too high: each worker takes the next port, and 65535 is the last one',
  })
  .refine(
    ({ PORT, REST_PORT, ...rest }) =>
      REST_PORT === undefined || REST_PORT === 0 || REST_PORT < PORT || REST_PORT > PORT + furtherPorts(rest),
    { path: ['REST_PORT'], message: 'is taken: PORT uses it, or a worker with LISTEN=workers; choose another one' },
  )
  .refine(
    ({ TOKEN_JWKS_URL, TOKEN_JWKS_FILE, TOKEN_ISSUER, TOKEN_AUDIENCE }) => {
      const keys = [TOKEN_JWKS_URL, TOKEN_JWKS_FILE].filter((source) => source !== undefined).length;
      const named = TOKEN_ISSUER !== undefined && TOKEN_AUDIENCE !== undefined;
      return keys === 0 ? TOKEN_ISSUER === undefined && TOKEN_AUDIENCE === undefined : keys === 1 && named;
    },
    {
      path: ['TOKEN_ISSUER'],
      message: 'wants TOKEN_ISSUER, TOKEN_AUDIENCE and one of TOKEN_JWKS_URL and TOKEN_JWKS_FILE, or none of them',
    },
  )
  .refine(({ DATABASE_URL, DATABASE_READ_URL }) => DATABASE_READ_URL === undefined || DATABASE_URL !== undefined, {
    path: ['DATABASE_READ_URL'],
    message: 'has no effect without DATABASE_URL',
  })
  .refine(({ DATABASE_URL }) => DATABASE_URL === undefined || leadsToWrites(DATABASE_URL), {
    path: ['DATABASE_URL'],
    message: 'has a target_session_attrs that may lead to a server that takes no writes: leave it out',
  })
  .superRefine((config, context) => {
    for (const [variable, message] of redisFaults(config)) {
      context.addIssue({ code: 'custom', path: [variable], message });
    }
  });

/** Whether a database URL asks for a server that takes writes, or names one only. */
function leadsToWrites(url: string): boolean {
  const { servers, session = 'read-write' } = parseDatabaseUrl(url);
  return ['read-write', 'primary'].includes(session) || (session === 'any' && servers.length === 1);
}

/** Variables of Redis that contradict each other, or that would have no effect. */
function* redisFaults(config: z.output<typeof schema>): Iterable<[variable: string, message: string]> {
  const ways = (['REDIS_URL', 'REDIS_SENTINELS', 'REDIS_CLUSTER'] as const).filter((way) => config[way] !== undefined);
  if (ways.length > 1) {
    yield [ways[1]!, `cannot be set together with ${ways[0]}`];
  }
  if (config.REDIS_SENTINELS === undefined) {
    for (const variable of ['REDIS_SENTINEL_USERNAME', 'REDIS_SENTINEL_PASSWORD'] as const) {
      if (config[variable] !== undefined) {
        yield [variable, 'has no effect without REDIS_SENTINELS'];
      }
    }
  }
  const url = config.REDIS_URL === undefined ? undefined : parseRedisUrl(config.REDIS_URL);
  if (url !== undefined) {
    const { protocol, username, password } = url;
    if (config.REDIS_TLS) {
      yield ['REDIS_TLS', 'has no effect on REDIS_URL: write rediss:// there'];
    }
    if (config.REDIS_CA_FILE !== undefined && protocol !== 'rediss:') {
      yield ['REDIS_CA_FILE', 'has no effect without TLS: write rediss:// in REDIS_URL'];
    }
    for (const [variable, inUrl] of [
      ['REDIS_USERNAME', username],
      ['REDIS_PASSWORD', password],
    ] as const) {
      if (config[variable] !== undefined && inUrl !== '') {
        yield [variable, 'stands in REDIS_URL too: set it in one place'];
      }
    }
  } else if (config.REDIS_CA_FILE !== undefined && !config.REDIS_TLS && ways.length > 0) {
    yield ['REDIS_CA_FILE', 'has no effect without REDIS_TLS=true'];
  }
}

/** What the command line reads as a client of a service, wherever that runs. */
const clientSchema = z.object({
  /** Address of the service; unset: this machine, at PORT. */
  TASKWIRE_URL: urlOf('http:', 'https:').optional(),
  /** Key of role service or admin. */
  TASKWIRE_API_KEY: z.string().optional(),
});

type Environment = z.output<typeof schema>;

/** The public ports of an instance, in the order of the workers that have them. */
export const portsOf = (config: Config): number[] =>
  Array.from({ length: furtherPorts(config) + 1 }, (_, index) => config.PORT + index);

/** Typed, validated, frozen configuration; names are those of the environment. */
export type Config = Readonly<Environment> & {
  readonly LOG_FORMAT: 'json' | 'pretty';
  readonly STATS_ACCESS: 'key' | 'local' | 'public';
  readonly HOST: string;
};

export type ClientConfig = Readonly<z.output<typeof clientSchema>>;

/** A variable has a value that cannot be used. The message is complete: variable, what it got, what it wants. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
}

/** Exit code of a start with a bad configuration (EX_CONFIG of sysexits.h). */
export const EXIT_CONFIG = 78;

/** Names of all variables, for `.env.example` and its test. */
export const VARIABLES: readonly string[] = [...Object.keys(schema.shape), ...Object.keys(clientSchema.shape)];

/** Names of all variables that this process was given, ours and others'. */
export const givenVariables = (environment: NodeJS.ProcessEnv = process.env): string[] => Object.keys(environment);

/** Variables of Postgres' own programs that seem to be meant for this one, and have no effect. */
export const postgresWarnings = (config: Config, environment: NodeJS.ProcessEnv = process.env): string[] =>
  (['DATABASE_URL', 'DATABASE_READ_URL'] as const).flatMap((variable) =>
    config[variable] === undefined ? [] : postgresVariableFaults(config[variable], variable, environment),
  );

/**
 * Reads the configuration. An empty variable counts as unset.
 * @throws ConfigError naming every variable that is wrong
 */
export function loadConfig(environment: NodeJS.ProcessEnv = process.env): Config {
  const config = read(checked, environment);
  return Object.freeze({
    ...config,
    // Who tries it out opens nothing to the network.
    HOST: config.HOST ?? (config.DATABASE_URL === undefined ? '127.0.0.1' : '0.0.0.0'),
    // Behind a proxy a caller only seems to be on this machine; a database of its own means that others run it.
    STATS_ACCESS: config.STATS_ACCESS ?? (config.DATABASE_URL === undefined ? 'local' : 'key'),
    LOG_FORMAT: config.LOG_FORMAT ?? (config.NODE_ENV === 'production' ? 'json' : 'pretty'),
  });
}

/**
 * Reads what a client of a service needs, as `loadConfig` does.
 * @throws ConfigError
 */
export function loadClientConfig(environment: NodeJS.ProcessEnv = process.env): ClientConfig {
  return Object.freeze(read(clientSchema, environment));
}

function read<Schema extends z.ZodObject>(variables: Schema, environment: NodeJS.ProcessEnv): z.output<Schema> {
  const given = Object.fromEntries(
    Object.keys(variables.shape).flatMap((name) => {
      const value = environment[name]?.trim();
      return value === undefined || value === '' ? [] : [[name, value]];
    }),
  );
  const result = variables.safeParse(given);
  const quoted = Object.keys(given).filter((name) => isQuoted(name, given[name]!));
  const faults = [
    ...quoted.map((name) => [name, QUOTED] as const),
    ...(result.error?.issues ?? []).map(({ path, message }) => [String(path[0]), message] as const),
  ].filter(([name, fault]) => fault === QUOTED || !quoted.includes(name));
  if (faults.length > 0) {
    const lines = faults.map(([name, fault]) => {
      const secret = /_(?:URL|PASSWORD|SECRET)$/.test(name);
      const value = given[name] === undefined ? undefined : JSON.stringify(shown(given[name]));
      return `${name}: got ${secret ? 'a value that is not shown' : value}; ${fault}`;
    });
    throw new ConfigError(lines.join('\n'));
  }
  return result.data!;
}

const QUOTED = 'stands in quotes, which would be a part of it (docker run --env-file keeps them): leave them out';

/** Whether a value stands in quotes, as a shell would have removed them. A password may have its own. */
const isQuoted = (name: string, value: string): boolean =>
  /^(?:".*"|'.*')$/s.test(value) && !name.endsWith('_PASSWORD');
