import { Agent, type ClientRequest, type IncomingMessage, request } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { count, type Outcome, type Target } from './attack.js';

export interface Call {
  /** GET when absent, or POST with a body. */
  readonly method?: string;
  readonly path: string;
  readonly headers?: Readonly<Record<string, string>>;
  /** JSON, as text when it is text. */
  readonly body?: unknown;
  /** Another key than the attacker's; null: none. */
  readonly key?: string | null;
}

export interface Answer {
  readonly status: number;
  readonly text: string;
}

/** Headers of a call. */
export function headersOf({ key }: Target, call: Call): Record<string, string> {
  const shown = call.key === undefined ? key : call.key;
  return {
    ...(shown === null ? {} : { 'x-api-key': shown }),
    ...(call.body === undefined ? {} : { 'content-type': 'application/json' }),
    ...call.headers,
  };
}

const agents = new Map<string, Agent>();

/** One agent for each address: many connections, of one request each. */
function agentOf(address: string): Agent {
  let agent = agents.get(address);
  if (agent === undefined) {
    agent = new Agent({ keepAlive: false, maxSockets: Number.POSITIVE_INFINITY, localAddress: address } as never);
    agents.set(address, agent);
  }
  return agent;
}

/** Begins a request; its body is the caller's. */
export function open(target: Target, call: Call): ClientRequest {
  const { port, address } = target;
  const { method = call.body === undefined ? 'GET' : 'POST', path } = call;
  const agent = agentOf(address);
  return request({
    host: '127.0.0.1',
    port,
    method,
    path,
    agent,
    localAddress: address,
    headers: headersOf(target, call),
  });
}

/** Makes one request, and counts its status and the code of its error. */
export function send(target: Target, outcome: Outcome, call: Call): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const asking = open(target, call);
    asking.on('error', reject);
    asking.on('response', (response: IncomingMessage) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (chunk: string) => {
        text += chunk;
      });
      response.on('error', reject);
      response.on('end', () => {
        const status = response.statusCode ?? 0;
        count(outcome.statuses, status);
        const code = status < 400 ? undefined : /"code":"([A-Z_]+)"/.exec(text)?.[1];
        if (code !== undefined) {
          count(outcome.codes, code);
        }
        outcome.bytes += text.length;
        resolve({ status, text });
      });
    });
    asking.end(
      typeof call.body === 'string' ? call.body : call.body === undefined ? undefined : JSON.stringify(call.body),
    );
  });
}

/** Makes requests, so many at a time, without a pause until it is told to stop. @param callOf the next one */
export async function hammer(
  target: Target,
  outcome: Outcome,
  stop: AbortSignal,
  { atOnce, callOf, pauseMs = 0 }: { atOnce: number; callOf: (n: number) => Call; pauseMs?: number },
): Promise<void> {
  let made = 0;
  const one = async (): Promise<void> => {
    while (!stop.aborted) {
      made += 1;
      try {
        await send(target, outcome, callOf(made));
      } catch {
        await sleep(100);
      }
      await sleep(pauseMs);
    }
  };
  await Promise.race([
    Promise.all(Array.from({ length: atOnce }, one)),
    new Promise((resolve) => stop.addEventListener('abort', resolve)),
  ]);
}
