/** What a session is wanted for, in libpq's words (`target_session_attrs`). */
const SESSION_KINDS = ['any', 'read-write', 'read-only', 'primary', 'standby', 'prefer-standby'] as const;
export type SessionKind = (typeof SESSION_KINDS)[number];

/** What a database URL says, apart from what the driver reads of it by itself. */
export interface DatabaseTarget {
  /** One URL for each server, in the order in which they are tried; without the parameters below. */
  readonly servers: readonly string[];
  /** Of each of these servers: a name, an address, the folder of a socket; empty when the URL does not say it. */
  readonly hosts: readonly string[];
  /** `target_session_attrs`: which of the servers is wanted; undefined when the URL does not say. */
  readonly session: SessionKind | undefined;
  /** `prepare=false`: no prepared statements, for poolers that give a connection to one session after the other. */
  readonly prepare: boolean;
  /** `options`: settings of the session, as `postgres -c` takes them. */
  readonly options: string | undefined;
  /** Files that the driver reads, by their parameters: `sslrootcert`, `sslcert`, `sslkey`. */
  readonly files: Readonly<Record<string, string>>;
}

/** Parameters that decide here where and how connections are made. Each may stand in a URL once. */
const OWN = ['host', 'port', 'target_session_attrs', 'options', 'prepare'] as const;

/** Values of `sslmode`. */
export const SSL_MODES: readonly string[] = [
  'disable',
  'allow',
  'prefer',
  'require',
  'verify-ca',
  'verify-full',
  'no-verify',
];

/** Parameters of the driver that take some words only. It ignores other words, or takes them for something else. */
const WORDS: Readonly<Record<string, readonly string[]>> = {
  target_session_attrs: SESSION_KINDS,
  prepare: ['true', 'false'],
  sslmode: SSL_MODES,
  sslnegotiation: ['postgres', 'direct'],
  ssl: ['true', '1', '0', 'no-verify'],
};

/** Parameters of libpq that decide where and how safely it connects, which the driver does not have: what to do instead. */
const UNSUPPORTED: Readonly<Record<string, string>> = {
  service: 'write host, user and database in the URL',
  servicefile: 'write host, user and database in the URL',
  passfile: 'set PGPASSFILE, or write the password in the URL',
  hostaddr: 'write the address in the place of the host',
  dbname: 'write /name after the host',
  sslpassword: 'use a key without a password',
  sslcrl: 'leave it out: revoked certificates are not looked up',
  sslcrldir: 'leave it out: revoked certificates are not looked up',
  requirepeer: 'leave it out: the owner of a socket is not checked',
  require_auth: 'leave it out: the server chooses how it asks for the password',
  ssl_min_protocol_version: 'start Node.js with NODE_OPTIONS=--tls-min-v1.3',
  ssl_max_protocol_version: 'start Node.js with NODE_OPTIONS=--tls-max-v1.2',
};

const FILES = ['sslrootcert', 'sslcert', 'sslkey'] as const;

const UNESCAPED = 'has a /, ? or # in its user or password: write %2F for /, %3F for ? and %23 for #';

const FORM = /^(postgres(?:ql)?:\/\/)(?:([^/?#]*)@)?([^/?#@]*)(\/[^?#]*)?(?:\?([^#]*))?$/;

/**
 * Reads a database URL as libpq does: `postgres://user:password@host:port/database?parameters`.
 *
 * - Several servers: `postgres://user@one:5432,two:5433/db?target_session_attrs=read-write`.
 * - A socket's folder: `postgres://user@/db?host=/run/postgresql`, or `postgres://user@%2Frun%2Fpostgresql/db`.
 * - A `%` in a password that begins no escape stands for itself.
 *
 * @throws Error whose message says what is wrong and shows nothing of the URL
 */
export function parseDatabaseUrl(url: string): DatabaseTarget {
  if (hasUnescaped(url)) {
    throw new Error(UNESCAPED);
  }
  const match = FORM.exec(url);
  if (match === null) {
    throw new Error('wants a URL like postgres://user:password@host:5432/database');
  }
  const [, scheme = '', userInfo, authority = '', path = '', query = ''] = match;
  const parameters = new URLSearchParams(query);
  checkParameters(parameters);
  const session = parameters.get('target_session_attrs') ?? undefined;
  const servers = serversOf(authority, parameters);
  const options = parameters.get('options') ?? undefined;
  const prepare = parameters.get('prepare') !== 'false';
  const files = Object.fromEntries(
    FILES.flatMap((name) => (parameters.get(name) ? [[name, parameters.get(name)!]] : [])),
  );
  for (const name of OWN) {
    parameters.delete(name);
  }
  const urls = servers.map(({ host, port }) => {
    const own = new URLSearchParams(parameters);
    if (host.startsWith('/')) {
      own.set('host', host);
    }
    const place = host.startsWith('/') ? '' : `${host}${port === '' ? '' : `:${port}`}`;
    if (host.startsWith('/') && port !== '') {
      own.set('port', port);
    }
    const user = userInfo === undefined ? '' : `${userInfo.replace(/%(?![0-9a-f]{2})/gi, '%25')}@`;
    const text = own.toString();
    return `${scheme}${user}${place}${path}${text === '' ? '' : `?${text}`}`;
  });
  const hosts = servers.map(({ host }) => host);
  return { servers: urls, hosts, session: session as SessionKind | undefined, prepare, options, files };
}

/**
 * Whether a URL reads otherwise than it is meant, since a user or a password has a character that ends the place of both.
 *
 * Example: `postgres://joe:a/b@db/x` names the host `joe`, the port `a` and the database `b@db/x`.
 */
function hasUnescaped(url: string): boolean {
  const [, authority, rest] = /^postgres(?:ql)?:\/\/([^/?#@]*)([/?#].*)$/.exec(url) ?? [];
  if (authority === undefined || rest === undefined || !rest.includes('@')) {
    return false;
  }
  const port = /^[^[\],:]+:([^,]*)$/.exec(authority)?.[1] ?? '';
  // What looks like a path or a parameter has a user's @ and a path of its own.
  return !/^\d*$/.test(port) || /^\/[^?]*@[^/?]*\//.test(rest) || /^\?[^=]*@/.test(rest) || rest.startsWith('#');
}

/** @throws Error for a parameter that would be ignored, or taken for something else */
function checkParameters(parameters: URLSearchParams): void {
  for (const name of OWN) {
    if (parameters.getAll(name).length > 1) {
      const list = name === 'host' || name === 'port' ? `: write several as ${name}=one,two` : '';
      throw new Error(`has ${name} more than once${list}`);
    }
  }
  for (const [name, value] of parameters) {
    const words = WORDS[name];
    if (words !== undefined && !words.includes(value)) {
      throw new Error(`${name} wants one of ${words.join(', ')}`);
    }
    const instead = UNSUPPORTED[name];
    if (instead !== undefined) {
      throw new Error(`${name} is not supported: ${instead}`);
    }
  }
  if (parameters.get('sslrootcert') === 'system') {
    throw new Error("sslrootcert=system is not supported: leave it out, then Node.js' own list is used");
  }
}

interface Server {
  readonly host: string;
  readonly port: string;
}

/** Servers of the authority, or of the parameters `host` and `port`, which may be lists too. */
function serversOf(authority: string, parameters: URLSearchParams): Server[] {
  const named = authority.split(',').map((server) => {
    const parts = /^(\[[^\]]*\]|[^:]*)(?::(.*))?$/.exec(server);
    if (parts === null) {
      throw new Error('has a server that is not of the form host or host:port');
    }
    return { host: /^%2f/i.test(parts[1]!) ? decodeURIComponent(parts[1]!) : parts[1]!, port: parts[2] ?? '' };
  });
  const hosts = parameters.get('host')?.split(',');
  const [ports, namedPorts] = [(parameters.get('port') ?? '').split(','), named.map(({ port }) => port)];
  // One port is that of all servers.
  const portOf = (list: readonly string[], index: number): string =>
    list.length === 1 ? list[0]! : (list[index] ?? '');
  const servers =
    hosts === undefined
      ? named.map(({ host, port }, index) => ({ host, port: port || portOf(ports, index) }))
      : hosts.map((host, index) => ({ host, port: portOf(ports, index) || portOf(namedPorts, index) }));
  return servers.map(({ host, port }) => ({ host, port: checkedPort(port) }));
}

function checkedPort(port: string): string {
  if (port !== '' && !(/^\d{1,5}$/.test(port) && Number(port) >= 1 && Number(port) <= 65_535)) {
    throw new Error('has a port that is not a number from 1 to 65535');
  }
  return port;
}
