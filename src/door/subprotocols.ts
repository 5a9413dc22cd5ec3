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

/** The subprotocols that a request offers. */
export function protocolsOf({ headers }: IncomingMessage): string[] {
  return (headers['sec-websocket-protocol'] ?? '').split(',').map((name) => name.trim());
}

const after = (prefix: string, protocols: readonly string[]): string | undefined =>
  protocols.find((name) => name.startsWith(prefix))?.slice(prefix.length);

export const tokenOf = (protocols: readonly string[]): string | undefined => after(TOKEN_PREFIX, protocols);
export const keyOf = (protocols: readonly string[]): string | undefined => after(KEY_PREFIX, protocols);

/** Which of the offered subprotocols the server takes: `taskwire`, or the first one that holds no secret; false: none. */
export function chooseProtocol(offered: ReadonlySet<string>): string | false {
  if (offered.has(SUBPROTOCOL)) {
    return SUBPROTOCOL;
  }
  return [...offered].find((name) => !name.startsWith(TOKEN_PREFIX) && !name.startsWith(KEY_PREFIX)) ?? false;
}
