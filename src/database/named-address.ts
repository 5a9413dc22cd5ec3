import { type LookupAddress, type LookupOptions, lookup } from 'node:dns';
import { type LookupFunction, Socket } from 'node:net';

/** @returns all addresses of a host's name, in the order in which the system would try them */
export async function addressesOf(host: string): Promise<string[]> {
  const found = await new Promise<LookupAddress[]>((resolve, reject) => {
    lookup(host, { all: true }, (error, addresses) => (error === null ? resolve(addresses) : reject(error)));
  });
  return [...new Set(found.map(({ address }) => address))];
}

/**
 * A socket that goes to one of the addresses of its host's name. When the name does not have this address any more, it goes
 * to one of those that it has.
 *
 * The driver is still told the name: certificates are issued for names.
 */
export function socketTo(address: string): Socket {
  const socket = new Socket();
  const connect = socket.connect.bind(socket);
  socket.connect = ((port: number, host: string) =>
    connect({ port, host, lookup: preferring(address) })) as Socket['connect'];
  return socket;
}

const preferring =
  (wanted: string): LookupFunction =>
  (host, options: LookupOptions, done) => {
    lookup(host, { ...options, all: true }, (error, found) => {
      const [preferred = found?.[0]] = (found ?? []).filter(({ address }) => address === wanted);
      if (error !== null || preferred === undefined) {
        done(error, '', 0);
      } else if (options.all !== true) {
        done(null, preferred.address, preferred.family);
      } else {
        done(null, preferred.address === wanted ? [preferred] : found);
      }
    });
  };
