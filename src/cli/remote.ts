import type { Config } from '../config.js';

/** How long a service may take to answer, in milliseconds. */
const PATIENCE_MS = 10_000;

/** `data` of `GET /api/ws/stats`. */
export interface Stats {
  readonly total_clients: number;
  readonly total_rooms: number;
  readonly rooms: Readonly<Record<string, number>>;
  readonly rooms_truncated?: boolean;
  readonly messages: Readonly<Record<string, number>>;
  readonly nodes: number;
  readonly partial: boolean;
}

/** Where the service of this machine listens. */
export function localUrl({ HOST, PORT }: Pick<Config, 'HOST' | 'PORT'>): string {
  const host = HOST === '0.0.0.0' || HOST === '::' ? '127.0.0.1' : HOST.includes(':') ? `[${HOST}]` : HOST;
  return `http://${host}:${PORT}`;
}

export async function askStats(
  url: string,
  { apiKey, room }: { apiKey: string | undefined; room: string | undefined },
): Promise<Stats> {
  const query = room === undefined ? '' : `?room=${encodeURIComponent(room)}`;
  const { ok, body } = await ask(url, `/api/ws/stats${query}`, apiKey === undefined ? {} : { 'x-api-key': apiKey });
  if (!ok) {
    throw refusal(body);
  }
  return body['data'] as Stats;
}

/** What `POST /api/tokens` answers. */
export interface MadeToken {
  readonly token: string;
  readonly expires_in: number;
  readonly expires_at: string;
}

/** Has a service make a token. */
export async function askToken(url: string, apiKey: string, request: object): Promise<MadeToken> {
  const { ok, body } = await ask(url, '/api/tokens', { 'x-api-key': apiKey }, request);
  if (!ok) {
    throw refusal(body);
  }
  return body as unknown as MadeToken;
}

function refusal(body: Record<string, unknown>): Error {
  const { code, message, details } = (body['error'] ?? {}) as { code?: string; message?: string; details?: unknown };
  const more = details === undefined ? '' : ` ${JSON.stringify(details)}`;
  return new Error(`${code ?? 'The service refused'}: ${message ?? 'no reason was given'}${more}`);
}

/** @returns whether the service serves, and what it says about itself */
export async function askHealth(url: string): Promise<{ serves: boolean; report: Record<string, unknown> }> {
  const { ok, body } = await ask(url, '/api/ws/health', {});
  return { serves: ok, report: body };
}

async function ask(
  url: string,
  path: string,
  headers: Record<string, string>,
  request?: object,
): Promise<{ ok: boolean; body: Record<string, unknown> }> {
  if (!URL.canParse(path, url)) {
    throw new Error(`${JSON.stringify(url)} is not a URL`);
  }
  let response: Response;
  try {
    response = await fetch(new URL(path, url), {
      ...(request === undefined ? {} : { method: 'POST', body: JSON.stringify(request) }),
      headers: request === undefined ? headers : { ...headers, 'content-type': 'application/json' },
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
  } catch (error) {
    const { cause, message } = error as Error & { cause?: Error & { code?: string } };
    throw new Error(`No answer from ${url}: ${cause?.code ?? cause?.message ?? message}`);
  }
  const text = await response.text();
  try {
    return { ok: response.ok, body: JSON.parse(text) as Record<string, unknown> };
  } catch {
    throw new Error(`${url} answered ${response.status} and no JSON; is it taskwire?`);
  }
}
