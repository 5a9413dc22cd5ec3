import type { Fault } from '../condition.js';

/** What an operator can do about a cause, by the first word of a server's refusal or the code of a network error. */
const HINTS: Readonly<Record<string, string>> = {
  READONLY: 'this is a replica: after a failover it is left for the new master; otherwise name the master',
  MASTERDOWN: 'this is a replica without its master: name the master, or use REDIS_SENTINELS',
  NOREPLICAS: 'the master has lost its replicas (min-replicas-to-write) and takes no writes',
  MOVED: 'this is a node of a Redis Cluster: set REDIS_CLUSTER in place of REDIS_URL',
  CLUSTERDOWN: 'slots of the cluster have no master: wait for its failover, or see redis-cli --cluster check',
  CROSSSLOT: 'this is a node of a Redis Cluster: set REDIS_CLUSTER in place of REDIS_URL',
  OOM: 'maxmemory is reached: raise it, or let other data of this server expire',
  NOPERM: 'the user lacks a right; deploy/README.md has the ACL rule that is enough',
  WRONGPASS: 'check user and password in REDIS_URL, or REDIS_USERNAME and REDIS_PASSWORD',
  NOAUTH: 'the server wants a password: put it into REDIS_URL or REDIS_PASSWORD',
  WRONGTYPE: 'somebody else uses keys of this REDIS_PREFIX: take another prefix, or delete those keys',
  LOADING: 'the server reads its data from the disk; it serves when that is done',
  MISCONF: 'the server cannot save to its disk and takes no writes; see its log',
  MAX_CLIENTS: 'maxclients of the server is reached: raise it, or find out who keeps connections',
  UNKNOWN_COMMAND: 'the server does not know or has renamed a command; Redis 6.2 or later, 7 for a cluster',
  ECONNREFUSED: 'nobody listens there',
  ENOTFOUND: 'the host name is unknown',
  EAI_AGAIN: 'the name server does not answer',
  ENOENT: 'there is no such socket',
  EACCES: 'this user may not use the socket',
  ETIMEDOUT: 'no answer: a firewall, a host that is away, or rediss:// to a port without TLS',
  SILENT: 'the connection is open and nothing comes on it',
  SENTINEL: 'check REDIS_SENTINELS, REDIS_SENTINEL_MASTER and REDIS_SENTINEL_PASSWORD',
  PLAIN: 'the server does not speak TLS there: use redis:// in place of rediss://, or its TLS port',
};

const CERTIFICATE_HINT = 'the certificate is not believed: for a private authority name its file in REDIS_CA_FILE';
const TLS_CODES =
  /^(?:DEPTH_ZERO_SELF_SIGNED_CERT|SELF_SIGNED_CERT_IN_CHAIN|UNABLE_TO_|CERT_|ERR_TLS_CERT|ERR_SSL_TLSV1_ALERT_UNKNOWN_CA)/;

/** Refusals that all begin with ERR, told apart by their text. */
const ERR_CODES: ReadonlyArray<readonly [RegExp, string]> = [
  [/max number of clients/, 'MAX_CLIENTS'],
  [/unknown (?:sub)?command/i, 'UNKNOWN_COMMAND'],
  [/without any password configured|Client sent AUTH/, 'WRONGPASS'],
  [/invalid (?:username-)?password/, 'WRONGPASS'],
];

/** Answers of a server that is not the master any more. A new connection may lead to the master. */
const ELSEWHERE = new Set(['READONLY', 'MASTERDOWN', 'NOREPLICAS', 'NOAUTH']);

/** The client's words for a command that it could not send: it has no connection. */
const UNSENT = /^Connection is closed\.$|enableOfflineQueue options is false$/;

/** Whether another connection may help. */
export const helpsToReconnect = ({ code }: Fault): boolean => ELSEWHERE.has(code);

const fault = (code: string, reason: string, hint = HINTS[code]): Fault => ({ code, reason, hint });

/** The server has closed the connection without a reason. */
export const CLOSED: Fault = fault('CLOSED', 'the server has closed the connection');
/** The server accepts connections and does not answer. */
export const SILENT: Fault = fault('SILENT', 'redis does not answer');

/** The cause of a failure: code, words, and what can be done. */
export function faultOf(error: unknown): Fault {
  const { message, code, lastNodeError } = error as Error & { code?: unknown; lastNodeError?: unknown };
  if (lastNodeError instanceof Error) {
    return faultOf(lastNodeError);
  }
  if (/sentinel/i.test(message)) {
    return sentinelFault(message);
  }
  const script = /^ERR Error running script .*?: ?(?:@user_script: ?\d+: ?)?-?([A-Z]{3,}\b.*)$/s.exec(message);
  if (script !== null) {
    return faultOf(new Error(script[1]));
  }
  const word = /^-?([A-Z]{3,})\b/.exec(message)?.[1];
  if (word === 'ERR') {
    return fault(ERR_CODES.find(([pattern]) => pattern.test(message))?.[1] ?? 'ERR', message);
  }
  if (word !== undefined) {
    return fault(word, message);
  }
  if (typeof code === 'string') {
    return TLS_CODES.test(code)
      ? fault(code, message, CERTIFICATE_HINT)
      : code === 'EPROTO' || code.startsWith('ERR_SSL')
        ? fault(code, message, HINTS['PLAIN'])
        : fault(code, message);
  }
  return message === 'redis does not answer' ? SILENT : UNSENT.test(message) ? CLOSED : fault('OTHER', message);
}

/** The reason in a text that lists what each Sentinel said. */
function sentinelFault(message: string): Fault {
  const code = /\b(WRONGPASS|NOAUTH|NOPERM|ECONNREFUSED|ENOTFOUND|EAI_AGAIN|ETIMEDOUT)\b/.exec(message)?.[1];
  return fault(code === undefined ? 'SENTINEL' : `SENTINEL_${code}`, message, HINTS['SENTINEL']);
}
