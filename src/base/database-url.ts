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
}

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
  const match = FORM.exec(url);
  if (match === null) {
    throw new Error('wants a URL like postgres://user:password@host:5432/database');
  }
  const [, scheme = '', userInfo, authority = '', path = '', query = ''] = match;
  const parameters = new URLSearchParams(query);
  const session = parameters.get('target_session_attrs') ?? undefined;
  if (session !== undefined && !SESSION_KINDS.includes(session as SessionKind)) {
    throw new Error(`target_session_attrs wants one of ${SESSION_KINDS.join(', ')}`);
  }
  const servers = serversOf(authority, parameters);
  const options = parameters.get('options') ?? undefined;
  const prepare = parameters.get('prepare') !== 'false';
  for (const name of ['host', 'port', 'target_session_attrs', 'options', 'prepare']) {
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
  return { servers: urls, hosts, session: session as SessionKind | undefined, prepare, options };
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
