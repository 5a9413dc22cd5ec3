import { once } from 'node:events';
import { type AddressInfo, createServer, isIPv6, type Server } from 'node:net';
import { networkInterfaces } from 'node:os';

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
