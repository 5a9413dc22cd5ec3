import type { IncomingHttpHeaders, ServerResponse } from 'node:http';
import type { Request, RequestHandler, Response } from 'express';
import { queryOf } from '../door/credentials.js';
import type { Position } from '../protocol/messages.js';
import type { Identity, Scope } from '../protocol/tasks.js';
import { type Authenticate, assertMayDo, type CountMore } from './authenticate.js';
import { invalidField } from './input.js';
import type { ReadJson } from './json-body.js';
import type { RestQueues } from './queues.js';

/** A request that was authenticated and counted. */
export interface Call {
  readonly identity: Identity;
  /** Named parts of the path. */
  readonly params: Readonly<Record<string, string>>;
  readonly query: URLSearchParams;
  /** JSON of the body; undefined when there is none. */
  readonly body: unknown;
  /** The header Idempotency-Key, which makes a write once. */
  readonly idempotencyKey?: string | undefined;
  /**
   * Counts further requests of the caller, beside this one.
   * @throws TaskwireError RATE_LIMIT_EXCEEDED, INVALID_REQUEST
   */
  readonly countMore: (requests: number) => Promise<void>;
}

export interface Answer {
  /** 200 when absent. */
  readonly status?: number;
  /** Sent as JSON; text is JSON already and is sent as it is. */
  readonly body: object | string;
  /** Position of the state that the answer shows: sent in headers. */
  readonly position?: Position | undefined;
}

/** Headers that tell the position of what an answer shows. */
export const POSITION_HEADERS = { seq: 'X-Stream-Seq', epoch: 'X-Stream-Epoch' } as const;

/**
 * Turns a function from call to answer into a handler.
 * @param scope what the caller must be allowed to do; when absent, a GET reads and everything else writes
 */
export type Endpoint = (handle: (call: Call) => Promise<Answer>, scope?: Scope) => RequestHandler;

export interface EndpointPorts {
  readonly authenticate: Authenticate;
  readonly countMore: CountMore;
  readonly readJson: ReadJson;
  readonly queues: Pick<RestQueues, 'reads' | 'answers' | 'bodies'>;
}

/** The steps of every request with a key: authenticate, count, read the body, handle, answer. A body is read only after its sender is known. */
export function createEndpoint({ authenticate, countMore, readJson, queues }: EndpointPorts): Endpoint {
  const { reads, answers, bodies } = queues;
  return (handle, scope) => async (request, response) => {
    const identity = await authenticate(request, response);
    const isRead = request.method === 'GET' || request.method === 'HEAD';
    assertMayDo(identity, scope ?? (isRead ? 'read' : 'write'));
    const { keyId } = identity;
    const read = (): Promise<unknown> => readJson(request, response);
    const body = await (hasBody(request) ? bodies.run(keyId, read) : read());
    const params = request.params as Record<string, string>;
    const idempotencyKey = idempotencyKeyOf(request.headers);
    const call: Call = {
      identity,
      params,
      query: queryOf(request),
      body,
      idempotencyKey,
      countMore: (requests) => countMore(identity, response, requests),
    };
    if (!isRead) {
      send(response, await handle(call));
      return;
    }
    await answers.run(keyId, async () => {
      if (!response.destroyed) {
        send(response, await reads.run(keyId, () => handle(call)));
        await taken(response);
      }
    });
  };
}

function send(response: Response, { status = 200, position, body }: Answer): void {
  if (position !== undefined) {
    response.set({ [POSITION_HEADERS.seq]: String(position.seq), [POSITION_HEADERS.epoch]: position.epoch });
  }
  response.status(status);
  if (typeof body === 'string') {
    response.type('json').send(body);
  } else {
    response.json(body);
  }
}

/** Resolves when the system has all of an answer, or its client has gone. */
function taken(response: ServerResponse): Promise<void> | undefined {
  if (response.writableFinished || response.destroyed) {
    return undefined;
  }
  return new Promise((resolve) => {
    response.once('finish', resolve);
    response.once('close', resolve);
  });
}

const hasBody = ({ headers }: Request): boolean =>
  headers['transfer-encoding'] !== undefined || (headers['content-length'] ?? '0') !== '0';

/** @throws TaskwireError INVALID_REQUEST */
function idempotencyKeyOf(headers: IncomingHttpHeaders): string | undefined {
  const key = headers['idempotency-key'];
  if (key === undefined) {
    return undefined;
  }
  if (typeof key !== 'string' || !/^[\x21-\x7e]{1,255}$/.test(key)) {
    throw invalidField('Idempotency-Key', 'wants 1 to 255 printable characters without spaces');
  }
  return key;
}
