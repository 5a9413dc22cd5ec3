import type { IncomingMessage } from 'node:http';

/**
 * A browser cannot set headers on a WebSocket, but it can offer subprotocols, and those stand in no log of URLs:
 *
 *     new WebSocket(url, ['taskwire', `taskwire.token.${token}`])
 *
 * The server takes `taskwire` and never repeats the other one.
 */
export const SUBPROTOCOL = 'taskwire';
const TOKEN_PREFIX = 'taskwire.token.';
const KEY_PREFIX = 'taskwire.key.';
/** Secrets are longer than the names of subprotocols, and somebody may have written the prefix of one wrong. */
const MAX_REPEATED = 32;

/** The subprotocols that a request offers. */
export function protocolsOf({ headers }: IncomingMessage): string[] {
  return (headers['sec-websocket-protocol'] ?? '').split(',').map((name) => name.trim());
}

const after = (prefix: string, protocols: readonly string[]): string[] =>
  protocols.filter((name) => name.startsWith(prefix)).map((name) => name.slice(prefix.length));

/** The tokens among some subprotocols. */
export const tokensOf = (protocols: readonly string[]): string[] => after(TOKEN_PREFIX, protocols);
/** The API keys among them. */
export const keysOf = (protocols: readonly string[]): string[] => after(KEY_PREFIX, protocols);

/** Which of the offered subprotocols the server takes: `taskwire`, or the first one that can be no secret; false: none. */
export function chooseProtocol(offered: ReadonlySet<string>): string | false {
  if (offered.has(SUBPROTOCOL)) {
    return SUBPROTOCOL;
  }
  return [...offered].find((name) => name.length <= MAX_REPEATED && !/^taskwire\.|^tw_/i.test(name)) ?? false;
}
