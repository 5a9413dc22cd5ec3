import { once } from 'node:events';
import { type AddressInfo, createServer, isIPv6, Server } from 'node:net';
import { networkInterfaces } from 'node:os';
import { setImmediate } from 'node:timers/promises';

/** Connections that wait to be accepted; the system may allow fewer. */
export const BACKLOG = 4_096;

/** A port that somebody has configured, and the variable that says it. */
export interface PortAddress {
  readonly host: string;
  readonly port: number;
  readonly variable: 'PORT' | 'REST_PORT';
}

/**
 * Has a server listen.
 * @throws Error that says why the port cannot be used and which variables choose another one
 */
export async function listen(server: Server, { host, port, variable }: PortAddress): Promise<void> {
  server.listen({ host, port, backlog: BACKLOG });
  try {
    await once(server, 'listening');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const reason =
      code === 'EADDRINUSE'
        ? 'is in use'
        : code === 'EACCES'
          ? 'may not be used by this user'
          : `cannot be used (${code})`;
    throw new Error(`${host}:${port} ${reason}; choose another address with HOST and ${variable}`);
  }
}

/** How long a port that is never left in peace stays open, in milliseconds. */
const PEACE_MS = 1_000;

/**
 * Closes the port of a server; its connections live on. Node.js accepts one connection in each turn of its event loop. Whoever stands in the
 * system's queue when a port is closed is cut off, though it may have sent its request already. So the port is closed in a turn in which nobody came.
 */
export async function closePort(server: Server): Promise<void> {
  let came = true;
  const note = (): void => {
    came = true;
  };
  server.on('connection', note);
  for (const end = performance.now() + PEACE_MS; came && performance.now() < end; ) {
    // The first wait may end in the turn that has just begun, the second one sees a whole one.
    await setImmediate();
    came = false;
    await setImmediate();
  }
  server.off('connection', note);
  if (server.listening) {
    // An HTTP server that closes as one ends idle connections at once, with the requests that are on their way to it.
    Server.prototype.close.call(server);
  }
}

/** Fails as `listen` would. That a port is taken is better known before the database and the workers have started. */
export async function tryPort(address: PortAddress): Promise<void> {
  const probe = createServer();
  await listen(probe, address);
  probe.close();
  await once(probe, 'close');
}

/** Where somebody on this machine reaches a server that listens. */
export function urlOf(server: Server): string {
  const { address, port } = server.address() as AddressInfo;
  return urlAt(address, port);
}

/** Where somebody on this machine reaches whoever listens at an address of it. */
export function urlAt(address: string, port: number): string {
  const host = address === '0.0.0.0' || address === '::' ? '127.0.0.1' : isIPv6(address) ? `[${address}]` : address;
  return `http://${host}:${port}`;
}

/** All addresses at which a listener of `host` is reached, this machine's own first. */
export function urlsAt(host: string, port: number): string[] {
  const family = { '0.0.0.0': ['IPv4'], '::': ['IPv4', 'IPv6'] }[host];
  if (family === undefined) {
    return [urlAt(host, port)];
  }
  const others = Object.values(networkInterfaces())
    .flatMap((addresses) => addresses ?? [])
    // Addresses of one link only are of no use without its name.
    .filter((found) => !found.internal && family.includes(found.family) && !found.address.startsWith('fe80:'))
    .map(({ address }) => urlAt(address, port));
  return [urlAt(host, port), ...others];
}
