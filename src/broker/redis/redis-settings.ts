import { readFileSync } from 'node:fs';
import type { RedisOptions } from 'ioredis';
import { certificatesFault } from '../../base/certificates.js';
import { parseRedisUrl } from '../../base/redis-url.js';

/** Where Redis is: exactly one of `url`, `sentinels` and `cluster`. */
export interface RedisSettings {
  /** One server: `redis://`, `rediss://` (TLS), `redis+unix:///path` or `unix:///path` (a socket of this machine). */
  readonly url?: string | undefined;
  /** Sentinels, each `host:port`; they know the master. */
  readonly sentinels?: readonly string[] | undefined;
  /** The master's name among the Sentinels (`mymaster`). */
  readonly sentinelMaster?: string | undefined;
  /** User and password for the Sentinels themselves. */
  readonly sentinelUsername?: string | undefined;
  readonly sentinelPassword?: string | undefined;
  /** Some nodes of a Redis Cluster, each `host:port`; they know the others. */
  readonly cluster?: readonly string[] | undefined;
  /** User and password for the servers, where `url` does not have them. */
  readonly username?: string | undefined;
  readonly password?: string | undefined;
  /** TLS to Sentinels, and to the servers that they or the cluster name. A `url` says it itself. */
  readonly tls?: boolean | undefined;
  /** File (PEM) with the certificates of a private authority that signs the servers'. */
  readonly caFile?: string | undefined;
}

/** Options of a connection. */
export type ConnectionOptions = Omit<RedisOptions, 'replyMapping'>;

interface HostPort {
  readonly host: string;
  readonly port: number;
}

/** The variables of the environment that say where Redis is. */
export interface RedisVariables {
  readonly REDIS_URL?: string | undefined;
  readonly REDIS_SENTINELS?: readonly string[] | undefined;
  readonly REDIS_SENTINEL_MASTER: string;
  readonly REDIS_SENTINEL_USERNAME?: string | undefined;
  readonly REDIS_SENTINEL_PASSWORD?: string | undefined;
  readonly REDIS_CLUSTER?: readonly string[] | undefined;
  readonly REDIS_USERNAME?: string | undefined;
  readonly REDIS_PASSWORD?: string | undefined;
  readonly REDIS_TLS: boolean;
  readonly REDIS_CA_FILE?: string | undefined;
}

/** @returns what the environment says of Redis, undefined when it names none */
export function redisSettings(config: RedisVariables): RedisSettings | undefined {
  const { REDIS_URL: url, REDIS_SENTINELS: sentinels, REDIS_CLUSTER: cluster } = config;
  if (url === undefined && sentinels === undefined && cluster === undefined) {
    return undefined;
  }
  return {
    url,
    sentinels,
    sentinelMaster: config.REDIS_SENTINEL_MASTER,
    sentinelUsername: config.REDIS_SENTINEL_USERNAME,
    sentinelPassword: config.REDIS_SENTINEL_PASSWORD,
    cluster,
    username: config.REDIS_USERNAME,
    password: config.REDIS_PASSWORD,
    tls: config.REDIS_TLS,
    caFile: config.REDIS_CA_FILE,
  };
}

/** Where a client connects, and with which options. */
export type Target =
  | { readonly kind: 'server'; readonly options: ConnectionOptions }
  | { readonly kind: 'cluster'; readonly nodes: readonly HostPort[]; readonly options: ConnectionOptions };

/**
 * Translates settings for the client.
 * @throws when they name no server or several kinds, or when the file of certificates is none
 */
export function targetOf(settings: RedisSettings): Target {
  const { url, sentinels, cluster } = settings;
  if ([url, sentinels, cluster].filter((way) => way !== undefined).length !== 1) {
    throw new Error('Redis wants one of: a URL, Sentinels, nodes of a cluster');
  }
  if (url !== undefined) {
    return { kind: 'server', options: { ...credentials(settings), ...urlOptions(url, settings.caFile) } };
  }
  const tls = settings.tls ? { tls: tlsOptions(settings.caFile) } : {};
  if (cluster !== undefined) {
    return { kind: 'cluster', nodes: cluster.map(hostPort), options: { ...credentials(settings), ...tls } };
  }
  return {
    kind: 'server',
    options: {
      ...credentials(settings),
      ...tls,
      sentinels: sentinels!.map(hostPort),
      name: settings.sentinelMaster ?? 'mymaster',
      ...(settings.sentinelUsername === undefined ? {} : { sentinelUsername: settings.sentinelUsername }),
      ...(settings.sentinelPassword === undefined ? {} : { sentinelPassword: settings.sentinelPassword }),
      ...(settings.tls ? { sentinelTLS: tls.tls!, enableTLSForSentinelMode: true } : {}),
    },
  };
}

/** Where Redis is, for people: without user and password. */
export function describeSettings({ url, sentinels, sentinelMaster = 'mymaster', cluster }: RedisSettings): string {
  if (url === undefined) {
    return cluster === undefined ? `Sentinels ${sentinels} for ${sentinelMaster}` : `cluster ${cluster}`;
  }
  const parsed = urlOf(url);
  parsed.username = '';
  parsed.password = '';
  return parsed.href;
}

function credentials({ username, password }: RedisSettings): { username?: string; password?: string } {
  return { ...(username === undefined ? {} : { username }), ...(password === undefined ? {} : { password }) };
}

function urlOf(text: string): URL {
  const url = parseRedisUrl(text);
  if (url === undefined) {
    throw new Error('not a URL of Redis: it begins with redis://, rediss://, redis+unix:// or unix://');
  }
  return url;
}

function urlOptions(url: string, caFile: string | undefined): ConnectionOptions {
  const { protocol, hostname, port, pathname, username, password, searchParams } = urlOf(url);
  const db = searchParams.get('db');
  const options = {
    ...(username === '' ? {} : { username: decoded(username) }),
    ...(password === '' ? {} : { password: decoded(password) }),
    ...(db === null ? {} : { db: Number(db) }),
  };
  if (protocol === 'unix:' || protocol === 'redis+unix:') {
    return { ...options, path: decoded(pathname) };
  }
  const family = searchParams.get('family');
  return {
    ...options,
    ...(/^\/\d+$/.test(pathname) ? { db: Number(pathname.slice(1)) } : {}),
    ...(family === null ? {} : { family: Number(family) }),
    host: hostname.replace(/^\[|\]$/g, '') || '127.0.0.1',
    port: port === '' ? 6379 : Number(port),
    ...(protocol === 'rediss:' ? { tls: tlsOptions(caFile) } : {}),
  };
}

function tlsOptions(caFile: string | undefined): { ca?: string } {
  const fault = caFile === undefined ? undefined : certificatesFault(caFile);
  if (fault !== undefined) {
    throw new Error(`${caFile}: Redis ${fault}`);
  }
  return caFile === undefined ? {} : { ca: readFileSync(caFile, 'utf8') };
}

/** A name or password of a URL; one that holds a bare % is meant as it stands. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** `text` is `host:port`, or `[address]:port` of IPv6. */
function hostPort(text: string): HostPort {
  const colon = text.lastIndexOf(':');
  return { host: text.slice(0, colon).replace(/^\[|\]$/g, ''), port: Number(text.slice(colon + 1)) };
}
