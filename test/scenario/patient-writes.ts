import { once } from 'node:events';
import { type IncomingMessage, request } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import type { TaskWrite } from '../../src/repository/write-runner.js';
import { type Call, RestWrites } from '../support/scene.js';
import type { Job } from '../support/writers.js';
import type { Ledger } from './ledger.js';

/** How long a request may take, in milliseconds; whoever waits longer asks again. */
const PATIENCE_MS = 30_000;
/** How long a writer waits that got no answer, in milliseconds. */
const AGAIN_MS = 200;
/** Of so many writes the last ones are asked for again at the end. */
const KEPT = 100;

interface Answer {
  readonly status: number;
  readonly retryAfter: string | undefined;
  readonly text: string;
}

/** Writes over REST that are repeated under their key until they are answered; `Retry-After` is obeyed. */
export class PatientWrites extends RestWrites {
  private count = 0;
  private readonly kept: Array<{ call: Call; idempotencyKey: string; answer: unknown }> = [];

  /**
   * @param name of this writer, in its keys
   * @param localAddress an address of this machine from which it connects
   */
  constructor(
    url: string,
    key: string,
    private readonly name: string,
    private readonly localAddress: string,
    private readonly ledger: Ledger,
  ) {
    super(() => [url], key);
  }

  /** Makes a task of each job in one request: one commit for each user. What was not written is asked for again, with the rest. */
  async createMany(jobs: readonly Job[]): Promise<void> {
    const body = jobs.map(({ jobId }) => ({ job_id: jobId, task_definition_id: this.count, is_imua: false }));
    const call = { method: 'POST', path: '/api/tasks', body };
    const idempotencyKey = this.nextKey();
    for (;;) {
      const answer = await this.insist<{ results: Array<TaskWrite | { error: object }> }>(call, idempotencyKey);
      const refused = answer.results.find((result) => 'error' in result);
      if (refused === undefined) {
        this.note(call, idempotencyKey, answer, answer.results as TaskWrite[]);
        return;
      }
      this.ledger.note('turned away', `an item of a batch: ${JSON.stringify(refused)}`);
      await sleep(AGAIN_MS);
    }
  }

  protected override async call<Body>(call: Call): Promise<Body> {
    const idempotencyKey = this.nextKey();
    const answer = await this.insist<Body>(call, idempotencyKey);
    this.note(call, idempotencyKey, answer, [answer as TaskWrite]);
    return answer;
  }

  private nextKey(): string {
    this.count += 1;
    return `${this.name}-${this.count}`;
  }

  private note(call: Call, idempotencyKey: string, answer: unknown, writes: readonly TaskWrite[]): void {
    this.ledger.answered.push(...writes);
    this.kept.push({ call, idempotencyKey, answer });
    this.kept.splice(0, this.kept.length - KEPT);
  }

  /** Asks for the last writes again: each key has one answer. */
  async askAgain(): Promise<void> {
    for (const { call, idempotencyKey, answer } of this.kept) {
      const again = await this.insist(call, idempotencyKey);
      if (!isDeepStrictEqual(again, answer)) {
        this.ledger.strange.push(`${idempotencyKey}: ${JSON.stringify(answer)}, then ${JSON.stringify(again)}`);
      }
    }
  }

  private async insist<Body>(call: Call, idempotencyKey: string): Promise<Body> {
    for (;;) {
      const what = `${call.method} ${call.path}`;
      let answer: Answer;
      try {
        answer = await this.send(call, idempotencyKey);
      } catch (error) {
        this.ledger.note('unanswered', `${what}: ${(error as Error).message}`);
        await sleep(AGAIN_MS);
        continue;
      }
      const { status, retryAfter, text } = answer;
      if (status >= 200 && status < 300) {
        // An answer that is not one document is two answers that were put together.
        return JSON.parse(text) as Body;
      }
      if ((status === 503 || status === 429) && retryAfter !== undefined) {
        this.ledger.note('turned away', `${what}: ${status} ${text}`);
        await sleep(Number(retryAfter) * 1_000);
      } else if (status >= 502 && status <= 504) {
        this.ledger.note('unanswered', `${what}: ${status} ${text}`);
        await sleep(AGAIN_MS);
      } else {
        throw new Error(`${what}: ${status} ${text}`);
      }
    }
  }

  /** Each request has a connection of its own: none is lost because the other side ends one that is idle. */
  private async send({ method, path, body }: Call, idempotencyKey: string): Promise<Answer> {
    const text = JSON.stringify(body);
    const call = request(`${this.nextUrl()}${path}`, {
      method,
      agent: false,
      localAddress: this.localAddress,
      signal: AbortSignal.timeout(PATIENCE_MS),
      headers: {
        'x-api-key': this.key,
        'content-type': 'application/json',
        'content-length': Buffer.byteLength(text),
        'idempotency-key': idempotencyKey,
      },
    }).end(text);
    const [response] = (await once(call, 'response')) as [IncomingMessage];
    const chunks = await response.toArray();
    if (!response.complete) {
      throw new Error('half of an answer');
    }
    return {
      status: response.statusCode!,
      retryAfter: response.headers['retry-after'],
      text: Buffer.concat(chunks).toString(),
    };
  }
}
