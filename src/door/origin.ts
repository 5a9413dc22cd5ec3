import type { IncomingMessage } from 'node:http';
import { domainToASCII } from 'node:url';
import { TaskwireError } from '../protocol/errors.js';

/** Lets a request pass or throws ORIGIN_NOT_ALLOWED. */
export type CheckOrigin = (request: IncomingMessage) => void;

/** A page's origin, or a pattern of some, in its parts. */
interface Origin {
  readonly scheme: string;
  readonly host: string;
  /** Empty: the scheme's own. */
  readonly port: string;
}

const OWN_PORTS: Readonly<Record<string, string>> = { http: '80', https: '443' };

/**
 * Checks the origin of a browser's request. A request without an `Origin` passes: it does not come from another site's page.
 *
 *     https://app.example.com   this one
 *     https://*.example.com     every name below example.com, but not example.com itself
 *     http://localhost:*        on whatever port
 *     capacitor://localhost     an app: ionic://localhost, tauri://localhost and others likewise
 *     null                      pages without an origin: of a file, or in a sandboxed frame
 *     *                         any
 *
 * @param allowed origins and patterns, as `ALLOWED_ORIGINS` takes them
 */
export function originCheck(allowed: readonly string[]): CheckOrigin {
  const any = allowed.includes('*');
  const none = allowed.includes('null');
  const patterns = allowed.flatMap((text) => partsOf(text) ?? []);
  return ({ headers: { origin } }) => {
    if (origin === undefined || any || (origin === 'null' && none)) {
      return;
    }
    const parts = partsOf(origin);
    if (parts === undefined || !patterns.some((pattern) => matches(parts, pattern))) {
      throw new TaskwireError('ORIGIN_NOT_ALLOWED', {
        message: `Origin not allowed: add ${printable(origin)} to ALLOWED_ORIGINS`,
      });
    }
  };
}

/**
 * Browsers write scheme and host in lower case, names such as `münchen.example` in their ASCII form, and leave out the
 * scheme's own port; people who configure may not.
 * `URL` does not serve here: it says `null` for the origins of apps.
 */
function partsOf(text: string): Origin | undefined {
  const match = /^([a-z][a-z0-9+.-]*):\/\/(\[[0-9a-f:.]+\]|[^/:@?#\s]+)(?::(\d+|\*))?\/?$/i.exec(text);
  if (match === null) {
    return undefined;
  }
  const scheme = match[1]!.toLowerCase();
  const port = match[3] ?? '';
  const host = match[2]!.toLowerCase();
  return { scheme, host: domainToASCII(host) || host, port: port === OWN_PORTS[scheme] ? '' : port };
}

function matches(origin: Origin, pattern: Origin): boolean {
  const host = pattern.host.startsWith('*.')
    ? origin.host.endsWith(pattern.host.slice(1)) && origin.host.length > pattern.host.length - 1
    : origin.host === pattern.host;
  return host && origin.scheme === pattern.scheme && (pattern.port === '*' || origin.port === pattern.port);
}

/** A text of the request that is safe to repeat in an answer. */
const printable = (text: string): string => (/^[\x21-\x7e]{1,128}$/.test(text) ? text : 'it');
