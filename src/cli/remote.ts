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
    const { code, message } = (body['error'] ?? {}) as { code?: string; message?: string };
    throw new Error(`${code ?? 'The service refused'}: ${message ?? 'no reason was given'}`);
  }
  return body['data'] as Stats;
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
): Promise<{ ok: boolean; body: Record<string, unknown> }> {
  if (!URL.canParse(path, url)) {
    throw new Error(`${JSON.stringify(url)} is not a URL`);
  }
  let response: Response;
  try {
    response = await fetch(new URL(path, url), { headers, signal: AbortSignal.timeout(PATIENCE_MS) });
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
