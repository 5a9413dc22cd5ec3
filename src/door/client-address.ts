import type { IncomingMessage } from 'node:http';
import { isIP, isIPv4, type Socket, SocketAddress } from 'node:net';
import proxyaddr from 'proxy-addr';

/** Says where a request comes from. */
export type AddressOf = (request: IncomingMessage) => string;

/** The address of a peer that has none: a Unix socket, or a connection that is gone. */
const NO_ADDRESS = 'unknown';

/**
 * Finds the client's address: the peer's own, or, when the peer is a trusted proxy, the one that `X-Forwarded-For` gives,
 * read from its end for as long as proxies are trusted.
 * @param trusted addresses, networks (CIDR) and the words `loopback`, `linklocal`, `uniquelocal`
 * @throws TypeError when one of them is none of these
 */
export function clientAddress(trusted: readonly string[]): AddressOf {
  const trust = proxyaddr.compile([...trusted]);
  return (request) => {
    if (request.socket.remoteAddress === undefined) {
      return NO_ADDRESS;
    }
    // A trusted proxy writes addresses only: at anything else the reading stops.
    let address = NO_ADDRESS;
    for (const text of proxyaddr.all(request, trust)) {
      const next = normalAddress(text);
      if (next === undefined) {
        break;
      }
      address = next;
    }
    return address;
  };
}

/**
 * The group by which connections are counted: an IPv4 address itself; of an IPv6 address the first 64 bits, since a client
 * usually has all addresses of its network.
 */
export function addressGroup(address: string): string {
  if (isIP(address) !== 6) {
    return address;
  }
  const [head = '', tail] = address.split('::');
  const left = head === '' ? [] : head.split(':');
  const right = tail === undefined || tail === '' ? [] : tail.split(':');
  const zeros = tail === undefined ? 0 : 8 - left.length - right.length;
  const words = [...left, ...Array<string>(zeros).fill('0'), ...right];
  return `${words.slice(0, 4).join(':')}::/64`;
}

/** What connections are counted by of which nothing but the other side's address is known: maybe that of a proxy. */
export const peerGroup = ({ remoteAddress }: Socket): string =>
  addressGroup(normalAddress(remoteAddress ?? '') ?? NO_ADDRESS);

/** One form for each address: IPv4 also when it was mapped into IPv6, no zone, no port; undefined for anything else. */
function normalAddress(text: string): string | undefined {
  const bare = withoutPort(text.trim());
  switch (isIP(bare)) {
    case 4:
      return bare;
    case 6: {
      const { address } = new SocketAddress({ address: bare, family: 'ipv6' });
      const mapped = address.slice('::ffff:'.length);
      return address.startsWith('::ffff:') && isIPv4(mapped) ? mapped : address;
    }
    default:
      return undefined;
  }
}

/** Some proxies write the port behind the address. */
function withoutPort(text: string): string {
  const match = /^\[([^\]]*)\](?::\d{1,5})?$/.exec(text) ?? /^([\d.]+):\d{1,5}$/.exec(text);
  return match?.[1] ?? text;
}
