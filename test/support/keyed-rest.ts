import { setTimeout as sleep } from 'node:timers/promises';

export interface RestReply {
  readonly status: number;
  // biome-ignore lint/suspicious/noExplicitAny: tests look into answers of every form
  readonly body: any;
}

interface KeyedRestOptions {
  readonly urls: () => readonly string[];
  readonly apiKey: string;
  /** Told of answers that no client should get. */
  readonly onSurprise: (reply: RestReply, request: string) => void;
}

/** How often a request is made that is not answered well. */
const ATTEMPTS = 60;
const TIMEOUT_MS = 20_000;
/** What is waited where the answer does not say, in milliseconds, and what is waited at most. */
const RETRY_MS = 100;
const LONGEST_MS = 2_000;

/**
 * A client of REST as it should be: each write has a key, and is asked for again under the same one until it is known what
 * became of it. It waits as `Retry-After` says.
 */
export class KeyedRest {
  private turn = 0;
  retries = 0;

  constructor(private readonly options: KeyedRestOptions) {}

  /** @returns what was answered in the end; undefined when it is not known what became of it */
  async call(method: string, path: string, body: unknown, key: string): Promise<RestReply | undefined> {
    for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
      const { reply, waitMs } = await this.attempt(method, path, body, key);
      if (reply !== undefined) {
        return reply;
      }
      this.retries += 1;
      await sleep(Math.min(waitMs, LONGEST_MS));
    }
    return undefined;
  }

  private async attempt(
    method: string,
    path: string,
    body: unknown,
    key: string,
  ): Promise<{ reply?: RestReply; waitMs: number }> {
    const urls = this.options.urls();
    this.turn += 1;
    try {
      const response = await fetch(`${urls[this.turn % urls.length]}${path}`, {
        method,
        headers: { 'x-api-key': this.options.apiKey, 'content-type': 'application/json', 'idempotency-key': key },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
      const reply: RestReply = { status: response.status, body: await response.json() };
      if (response.status !== 503 && !hasUnknown(reply)) {
        if (response.status >= 500 || [401, 403, 409, 429].includes(response.status)) {
          this.options.onSurprise(reply, `${method} ${path} ${key}`);
        }
        return { reply, waitMs: 0 };
      }
      const seconds = Number(response.headers.get('retry-after'));
      return { waitMs: seconds > 0 ? seconds * 1_000 : RETRY_MS };
    } catch {
      // Nobody answered: the process was killed, or its connection cut.
      return { waitMs: RETRY_MS };
    }
  }
}

/** Whether a batch has items of which nobody knows what became. */
const hasUnknown = ({ status, body }: RestReply): boolean =>
  status === 207 &&
  (body.results as Array<{ error?: { code: string } }>).some(({ error }) =>
    ['DATABASE_UNAVAILABLE', 'STREAM_BUSY', 'SERVER_DRAINING'].includes(error?.code ?? ''),
  );
