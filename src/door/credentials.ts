import type { IncomingMessage } from 'node:http';
import { canBeApiKey } from '../protocol/api-key-form.js';
import type { AuthData } from '../protocol/auth.js';
import { TaskwireError } from '../protocol/errors.js';
import { isObject, nearestField } from '../protocol/fields.js';
import { shown } from '../protocol/nearest.js';
import { keysOf, protocolsOf, SUBPROTOCOL, tokensOf } from './subprotocols.js';

/** Where a key or a token may stand; what is empty counts as absent. */
export interface Credentials {
  /** `?api_key=`; more than one value when it is repeated. */
  readonly query?: readonly string[];
  /** `X-Api-Key`. */
  readonly header?: string | readonly string[] | undefined;
  /** What a client sent as `api_key` in Socket.IO's `auth`, in an AUTH message and as subprotocols, whatever it is. */
  readonly auth?: readonly unknown[];
  /** What it sent as a token: in those places, in the query and as `Authorization: Bearer`. */
  readonly tokens?: readonly unknown[];
  /** When there is neither: what was probably meant, and where it belongs. */
  readonly hint?: (() => string | undefined) | undefined;
}

/** The credential of a request: exactly one key or one token. */
export type Credential = { readonly key: string } | { readonly token: string };

/** Which credentials may stand in the query: none for REST, a token for event streams, both for WebSockets. */
export type QueryCredentials = 'none' | 'token' | 'all';

/** Longer tokens are refused unread. */
export const MAX_TOKEN_LENGTH = 8_192;
const TOKEN = /^[\w-]+\.[\w-]+\.[\w-]+$/;
const BEARER = /^Bearer +(\S+) *$/i;

/**
 * The credentials that a request carries.
 * @param auth Socket.IO's `auth`, unchecked
 */
export function credentialsOf(
  request: IncomingMessage,
  { query: taken, auth }: { query: QueryCredentials; auth?: unknown },
): Credentials {
  const query = queryOf(request);
  const fields = isObject(auth) ? auth : {};
  const protocols = protocolsOf(request);
  const { authorization } = request.headers;
  const bearer = authorization === undefined ? undefined : BEARER.exec(authorization)?.[1];
  return {
    query: taken === 'all' ? query.getAll('api_key') : [],
    header: request.headers['x-api-key'],
    auth: [fields['api_key'], ...keysOf(protocols)],
    tokens: [bearer, ...tokensOf(protocols), fields['token'], ...(taken === 'none' ? [] : query.getAll('token'))],
    hint: () =>
      hintOf({ query, taken, auth, protocols, authorization: bearer === undefined ? authorization : undefined }),
  };
}

/** The credentials of an AUTH message. */
export const credentialsOfMessage = ({ token, api_key }: AuthData): Credentials => ({
  auth: [api_key],
  tokens: [token],
});

/** The query of a request's target. */
export function queryOf(request: IncomingMessage): URLSearchParams {
  const url = request.url ?? '';
  const mark = url.indexOf('?');
  return new URLSearchParams(mark === -1 ? '' : url.slice(mark + 1));
}

/** Whether there is nothing that could be a key or a token. */
export const isEmpty = (credentials: Credentials): boolean => {
  const { keys, tokens } = given(credentials);
  return keys.size === 0 && tokens.size === 0;
};

/**
 * The one key or token of a request. Nothing is looked up for what cannot be one.
 * @throws TaskwireError MISSING_API_KEY, AUTHENTICATION_FAILED when two places disagree, INVALID_API_KEY, INVALID_TOKEN
 */
export function credentialOf(credentials: Credentials): Credential {
  const credential = credentialIn(credentials);
  if (credential === undefined) {
    const hint = credentials.hint?.();
    throw new TaskwireError('MISSING_API_KEY', hint === undefined ? {} : { message: `API key required: ${hint}` });
  }
  return credential;
}

/**
 * The same for who needs none.
 * @returns undefined when there is nothing that could be one
 */
export function credentialIn(credentials: Credentials): Credential | undefined {
  const { keys, tokens } = given(credentials);
  if (keys.size === 0 && tokens.size === 0) {
    return undefined;
  }
  if (keys.size > 0 && tokens.size > 0) {
    throw new TaskwireError('AUTHENTICATION_FAILED', { message: 'Send an API key or a token, not both' });
  }
  if (keys.size > 1 || tokens.size > 1) {
    throw new TaskwireError('AUTHENTICATION_FAILED', {
      message: `Different ${keys.size > 1 ? 'API keys' : 'tokens'} in one request`,
    });
  }
  const [key] = keys;
  const [token] = tokens;
  if (keys.size > 0) {
    if (typeof key !== 'string' || !canBeApiKey(key)) {
      const isToken = typeof key === 'string' && TOKEN.test(key);
      throw new TaskwireError(
        'INVALID_API_KEY',
        isToken ? { message: 'This is a token, not an API key: send it as token or as Authorization: Bearer' } : {},
      );
    }
    return { key };
  }
  if (typeof token !== 'string' || token.length > MAX_TOKEN_LENGTH || !TOKEN.test(token)) {
    const isKey = typeof token === 'string' && canBeApiKey(token);
    throw new TaskwireError(
      'INVALID_TOKEN',
      isKey ? { message: 'This is an API key, not a token: send it as api_key or in the header X-Api-Key' } : {},
    );
  }
  return { token };
}

function given({ query = [], header = [], auth = [], tokens = [] }: Credentials): {
  keys: Set<unknown>;
  tokens: Set<unknown>;
} {
  return { keys: present(query, typeof header === 'string' ? [header] : header, auth), tokens: present(tokens) };
}

/** What stands in some places, each value once. */
function present(...places: ReadonlyArray<readonly unknown[]>): Set<unknown> {
  const values = new Set<unknown>();
  for (const place of places) {
    for (const value of place) {
      if (value !== undefined && value !== null && value !== '') {
        values.add(value);
      }
    }
  }
  return values;
}

/** What a client probably meant that sent no key and no token where they are read. */
function hintOf({
  query,
  taken,
  auth,
  protocols,
  authorization,
}: {
  query: URLSearchParams;
  taken: QueryCredentials;
  auth: unknown;
  protocols: readonly string[];
  authorization: string | undefined;
}): string | undefined {
  if (authorization !== undefined) {
    return 'the header Authorization takes "Bearer TOKEN"; an API key goes into the header X-Api-Key';
  }
  if (isObject(auth)) {
    for (const name of Object.keys(auth)) {
      const meant = nearestField(name, ['api_key', 'token']);
      if (meant !== undefined && meant !== name) {
        return `auth has ${shown(name)}; name it "${meant}"`;
      }
    }
  } else if (typeof auth === 'string') {
    return 'auth wants an object such as { api_key: "tw_..." }';
  }
  const secret = protocols.find((name) => (name.length > 32 && TOKEN.test(name)) || canBeApiKey(name));
  if (secret !== undefined) {
    const kind = canBeApiKey(secret) ? 'key.KEY' : 'token.TOKEN';
    return `offer the subprotocols "${SUBPROTOCOL}" and "${SUBPROTOCOL}.${kind}"`;
  }
  for (const name of query.keys()) {
    const meant = nearestField(name, ['api_key', 'token']);
    if (meant === 'api_key' && taken !== 'all') {
      return 'no key is taken from a query string here; send the header X-Api-Key';
    }
    if (meant === 'token' && taken === 'none') {
      return 'no token is taken from a query string here; send the header Authorization: Bearer TOKEN';
    }
    if (meant !== undefined && meant !== name) {
      return `the query has ${shown(name)}; name it "${meant}"`;
    }
  }
  return undefined;
}
