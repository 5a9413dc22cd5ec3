import { readFileSync } from 'node:fs';
import type { TokenIssuer } from './tokens.js';

/** The configuration of an application's own issuer of tokens. */
export interface TokenIssuerSettings {
  readonly TOKEN_ISSUER?: string | undefined;
  readonly TOKEN_AUDIENCE?: string | undefined;
  readonly TOKEN_JWKS_URL?: string | undefined;
  readonly TOKEN_JWKS_FILE?: string | undefined;
}

/** The application's own issuer of tokens, if there is one. */
export function tokenIssuerOf(settings: TokenIssuerSettings): TokenIssuer | undefined {
  const { TOKEN_ISSUER: issuer, TOKEN_AUDIENCE: audience, TOKEN_JWKS_URL: url, TOKEN_JWKS_FILE: file } = settings;
  if (issuer === undefined || audience === undefined) {
    return undefined;
  }
  const keys = url === undefined ? (JSON.parse(readFileSync(file!, 'utf8')) as { keys: object[] }) : new URL(url);
  return { issuer, audience, keys };
}
