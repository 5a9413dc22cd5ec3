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
  NO_DATABASE: 'the server has no database of this number: name another one in REDIS_URL, or none',
  UNKNOWN_COMMAND: 'the server does not know or has renamed a command; Redis 6.2 or later, 7 for a cluster',
  ECONNREFUSED: 'nobody listens there',
  ENOTFOUND: 'the host name is unknown',
  EAI_AGAIN: 'the name server does not answer',
  ENOENT: 'there is no such socket',
  EACCES: 'this user may not use the socket',
  ETIMEDOUT: 'no answer: a firewall, a host that is away, or rediss:// to a port without TLS',
  SILENT: 'the connection is open and nothing comes on it',
  GARBLED: 'what answers there is no Redis, or a proxy that does not pass on all of it: name the server itself',
  SENTINEL: 'check REDIS_SENTINELS, REDIS_SENTINEL_MASTER and REDIS_SENTINEL_PASSWORD',
};

/** What an operator can do about failures of TLS, by their codes. */
const TLS_HINTS: ReadonlyArray<readonly [RegExp, string]> = [
  [/ALTNAME_INVALID/, 'the certificate is made out to other names: use one of them in place of this address'],
  [/CERT_HAS_EXPIRED/, 'the certificate has expired: the server needs a new one'],
  [/CERT_NOT_YET_VALID/, 'the certificate is not valid yet: compare the clocks'],
  [
    /SELF_SIGNED|^UNABLE_TO_|^CERT_|^ERR_TLS_CERT/,
    'the certificate is not believed: for a private authority name its file in REDIS_CA_FILE',
  ],
  [
    /ALERT_(?:CERTIFICATE_|BAD_CERTIFICATE|UNKNOWN_CA)/,
    'the server wants a certificate of its clients, and this service has none: tls-auth-clients no',
  ],
  [
    /HANDSHAKE_FAILURE/,
    'the server wants a certificate of its clients (tls-auth-clients no ends that), or no cipher that is known here',
  ],
  [/PROTOCOL_VERSION|UNSUPPORTED_PROTOCOL/, 'the server wants another version of TLS: see its tls-protocols'],
  [
    /^EPROTO$|WRONG_VERSION_NUMBER|PACKET_LENGTH_TOO_LONG|^ERR_SSL/,
    'the server does not speak TLS there: use redis:// in place of rediss://, or its TLS port',
  ],
];

/** The words in a message of OpenSSL. */
const OPENSSL = /^[0-9A-F]+:error:[0-9A-F]+:SSL routines:[^:]*:([^:]+):.*$/i;

/** Refusals that all begin with ERR, told apart by their text. */
const ERR_CODES: ReadonlyArray<readonly [RegExp, string]> = [
  [/max number of clients/, 'MAX_CLIENTS'],
  [/unknown (?:sub)?command/i, 'UNKNOWN_COMMAND'],
  [/without any password configured|Client sent AUTH/, 'WRONGPASS'],
  [/invalid (?:username-)?password/, 'WRONGPASS'],
  // What a script may not do: Redis 7.0, and 7.2.
  [/The user executing the script can't|ACL failure in script/, 'NOPERM'],
  [/DB index is out of range|not allowed in cluster mode/, 'NO_DATABASE'],
  [/is not an integer|would overflow/, 'WRONGTYPE'],
];

/** Answers of a server that is not the master any more. A new connection may lead to the master. */
const ELSEWHERE = new Set(['READONLY', 'MASTERDOWN', 'NOREPLICAS', 'NOAUTH']);

/** The client's words for a command that it could not send: it has no connection. */
const UNSENT = /^Connection is closed\.$|enableOfflineQueue options is false$/;

const tlsHint = (code: string): string | undefined => TLS_HINTS.find(([pattern]) => pattern.test(code))?.[1];

/** What the client says of bytes that are no answer. */
const NO_ANSWER = / Please report this\.$/;

/** Whether another connection may help. */
export const helpsToReconnect = ({ code }: Fault): boolean => ELSEWHERE.has(code);

/** Whether a server refuses until an operator gives this user a right. */
export const needsAnotherRight = (error: unknown): boolean => faultOf(error).code === 'NOPERM';

const fault = (code: string, reason: string, hint = HINTS[code]): Fault => ({ code, reason, hint });

/** The server has closed the connection without a reason. */
export const CLOSED: Fault = fault('CLOSED', 'the server has closed the connection');
/** The server accepts connections and does not answer. */
export const SILENT: Fault = fault('SILENT', 'redis does not answer');

/** An answer has another form than that of its command. */
export const garbled = (): Error =>
  Object.assign(new Error('the server has given an answer that Redis does not give'), { code: 'GARBLED' });

/** What a server repeats of a command that it does not know: a password may be among it, or a whole script. */
const REPEATED = /,? with args beginning with.*$/is;
/** Longest reason, in characters. */
const MAX_REASON = 500;

/** The words of an error on one line, without what this process has sent to the server. */
export function wordsOf(error: unknown): string {
  const { message } = error as Error;
  const password = sentPassword(error as SentError);
  const words = password === undefined ? message : message.replaceAll(password, '[redacted]');
  return words
    .replace(REPEATED, '')
    .replace(/\p{Cc}+/gu, ' ')
    .slice(0, MAX_REASON);
}

/** The client notes the refused command in its errors. */
type SentError = Error & { readonly command?: { readonly name: string; readonly args: readonly unknown[] } };

/** The password that a server has refused, if that is what it refused; some repeat it. */
function sentPassword({ command }: SentError): string | undefined {
  const name = command?.name.toLowerCase();
  const args = (command?.args ?? []).flat().map(String);
  // HELLO has it behind AUTH and the user.
  return name === 'auth' || (name === 'hello' && args.includes('AUTH')) ? args.at(-1) || undefined : undefined;
}

/** The cause of a failure: code, words, and what can be done. */
export function faultOf(error: unknown): Fault {
  const { code, lastNodeError } = error as Error & { code?: unknown; lastNodeError?: unknown };
  if (lastNodeError instanceof Error) {
    return faultOf(lastNodeError);
  }
  const message = wordsOf(error);
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
  if (NO_ANSWER.test(message)) {
    return faultOf(garbled());
  }
  if (typeof code === 'string') {
    return fault(code, message.replace(OPENSSL, 'TLS: $1'), HINTS[code] ?? tlsHint(code));
  }
  return message === 'redis does not answer' ? SILENT : UNSENT.test(message) ? CLOSED : fault('OTHER', message);
}

/** The reason in a text that lists what each Sentinel said. */
function sentinelFault(message: string): Fault {
  const code = /\b(WRONGPASS|NOAUTH|NOPERM|ECONNREFUSED|ENOTFOUND|EAI_AGAIN|ETIMEDOUT)\b/.exec(message)?.[1];
  return fault(code === undefined ? 'SENTINEL' : `SENTINEL_${code}`, message, HINTS['SENTINEL']);
}
