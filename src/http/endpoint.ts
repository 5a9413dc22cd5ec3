import type { RequestHandler } from 'express';
import { queryOf } from '../door/credentials.js';
import type { Identity } from '../protocol/tasks.js';
import type { Authenticate } from './authenticate.js';
import type { ReadJson } from './json-body.js';

/** A request whose maker is known and has a request left. */
export interface Call {
  readonly identity: Identity;
  /** Named parts of the path. */
  readonly params: Readonly<Record<string, string>>;
  readonly query: URLSearchParams;
  /** JSON of the body; undefined when there is none. */
  readonly body: unknown;
}

export interface Answer {
  /** 200 when absent. */
  readonly status?: number;
  readonly body: unknown;
}

/** Turns a function from call to answer into a handler. */
export type Endpoint = (handle: (call: Call) => Promise<Answer>) => RequestHandler;

/** The way of every request with a key: authenticate, count, read the body, handle, answer. Who may not is not read. */
export function createEndpoint(authenticate: Authenticate, readJson: ReadJson): Endpoint {
  return (handle) => async (request, response) => {
    const identity = await authenticate(request, response);
    const body = await readJson(request, response);
    const params = request.params as Record<string, string>;
    const answer = await handle({ identity, params, query: queryOf(request), body });
    response.status(answer.status ?? 200).json(answer.body);
  };
}
