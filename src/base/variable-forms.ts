import { accessSync, constants, readFileSync, statSync } from 'node:fs';
import { isIP } from 'node:net';
import { z } from 'zod';
import { certificatesFault } from './certificates.js';
import { parseDatabaseUrl } from './database-url.js';
import { redact } from './logger.js';
import { redisUrlFault } from './redis-url.js';

/*
 * Forms of the values that variables of the environment may have.
 */

/** A value for people, without what may be a password: all before the last @, and all behind a word such as `password=`. */
export const shown = (text: string): string =>
  redact(
    text.replace(/^.*@/s, '[redacted]@').replace(/(\w*(?:pass|pwd|secret|token|key|auth)\w*\s*=).*/is, '$1[redacted]'),
  );

/** A port; 0: a free one. */
export const port = z.coerce.number().int().min(0).max(65535);
/** A number from 1. */
export const count = z.coerce.number().int().min(1);
/** The time of a timer. Node.js would take a longer one for none at all. */
export const milliseconds = z.coerce.number().int().min(1).max(2_147_483_647);
export const flag = z.enum(['true', 'false']).transform((text) => text === 'true');
/** Words, separated by commas. */
export const list = z.string().transform((text) =>
  text
    .split(',')
    .map((item) => item.trim())
    .filter((item) => item !== ''),
);
/** Whether a text is an address, a network (CIDR), or a word that proxy-addr knows. */
export function isProxy(text: string): boolean {
  const [address = '', bits = '1', ...rest] = text.split('/');
  const size = { 4: 32, 6: 128 }[isIP(address)] ?? 0;
  return (
    ['loopback', 'linklocal', 'uniquelocal'].includes(text) ||
    (rest.length === 0 && /^[1-9]\d*$/.test(bits) && Number(bits) <= size)
  );
}

export const databaseUrl = z.string().superRefine((text, context) => {
  try {
    for (const [name, path] of Object.entries(parseDatabaseUrl(text).files)) {
      if (!canReadFile(path)) {
        context.addIssue(`${name} wants a file that can be read, and ${JSON.stringify(path)} is none`);
      } else if (name !== 'sslkey') {
        const fault = certificatesFault(path);
        if (fault !== undefined) {
          context.addIssue(`${name} ${fault}: ${JSON.stringify(path)}`);
        }
      }
    }
  } catch (error) {
    context.addIssue((error as Error).message);
  }
});

/**
 * `*`, `null`, or an origin: of a page (`https://app.example.com`), of an app (`capacitor://localhost`), or a pattern: a name
 * may begin with `*.`, and `*` may stand for the port.
 */
export const isOrigin = (text: string): boolean =>
  text === '*' ||
  text === 'null' ||
  (/^[a-z][a-z0-9+.-]*:\/\/(?:\[[0-9a-f:.]+\]|(?:\*\.)?[^/:*@?#\s[\]]+)(?::(?:\d{1,5}|\*))?\/?$/i.test(text) &&
    // No page has one of these for its origin.
    !/^(?:wss?|ftp|file|data):/i.test(text));

/** A URL with one of some protocols, such as `https:`. */
export const urlOf = (...protocols: string[]) =>
  z.string().refine((text) => URL.canParse(text) && protocols.includes(new URL(text).protocol), {
    message: `wants a URL that begins with ${protocols.map((p) => `${p}//`).join(' or ')}`,
  });

/** `host:port`, comma-separated; an IPv6 address in brackets. */
export const hostPorts = list.refine(
  (items) => items.length > 0 && items.every((item) => /^(?:[^\s:/@[\]]+|\[[0-9a-f:.]+\]):[1-9]\d{0,4}$/i.test(item)),
  {
    message:
      'wants addresses such as redis-1:6379,redis-2:6379, and nothing else in it: the rest is said by REDIS_USERNAME, ' +
      'REDIS_PASSWORD and REDIS_TLS, and for Sentinels themselves by REDIS_SENTINEL_USERNAME and REDIS_SENTINEL_PASSWORD',
  },
);
export const redisUrl = z.string().superRefine((text, context) => {
  const message = redisUrlFault(text);
  if (message !== undefined) {
    context.addIssue({ code: 'custom', message });
  }
});

/** Whether a path is that of a file, and this process may read it. */
function canReadFile(path: string): boolean {
  try {
    accessSync(path, constants.R_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

/** A file of public keys, as the issuer of tokens gives it out. */
export const keySet = z.string().superRefine((path, context) => {
  if (!canReadFile(path)) {
    context.addIssue('wants a file that can be read');
  } else if (!isKeySet(readFileSync(path, 'utf8'))) {
    context.addIssue('wants a file of public keys (JWKS): {"keys":[{"kty":...}]}');
  }
});

function isKeySet(text: string): boolean {
  try {
    return z.object({ keys: z.array(z.looseObject({ kty: z.string() })).min(1) }).safeParse(JSON.parse(text)).success;
  } catch {
    return false;
  }
}

/** A file of certificates. */
export const certificates = z.string().superRefine((path, context) => {
  const message = certificatesFault(path);
  if (message !== undefined) {
    context.addIssue({ code: 'custom', message });
  }
});
