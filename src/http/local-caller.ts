import type { IncomingMessage } from 'node:http';
import { isIP } from 'node:net';

const LOOPBACK = /^(?:127\.|::ffff:127\.|::1$)/;
const FORWARDING = /^(?:forwarded|via|x-forwarded.*|x-real-ip|x-client-ip|x-cluster-client-ip|true-client-ip|cf-.*)$/;

/** Values of `Sec-Fetch-Site` in requests that do not come from another site's page. */
const OWN_SITE: readonly unknown[] = [undefined, 'none', 'same-origin'];

/**
 * Whether a request was made on this machine by somebody who talks to it directly: no sign of a proxy, and not by another
 * site's page in a browser. Such a page has an `Origin`, or reaches this machine under a name of its own that was made to
 * point here, so only an address or `localhost` is taken for a host.
 *
 * HTTP/1.0 is a sign of a proxy too: nginx speaks it to whom it passes requests unless it is told otherwise, and it is just
 * that nginx which adds no header.
 */
export function isLocalCaller({ socket, headers, httpVersion }: IncomingMessage): boolean {
  if (!LOOPBACK.test(socket.remoteAddress ?? '') || headers.origin !== undefined || httpVersion === '1.0') {
    return false;
  }
  if (!OWN_SITE.includes(headers['sec-fetch-site']) || Object.keys(headers).some((name) => FORWARDING.test(name))) {
    return false;
  }
  const host = (headers.host ?? '').replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1');
  return host === 'localhost' || isIP(host) !== 0;
}
