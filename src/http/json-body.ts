import express, { type Request, type Response } from 'express';
import { TaskwireError } from '../protocol/errors.js';

/** Reads a request's JSON. */
export type ReadJson = (request: Request, response: Response) => Promise<unknown>;

/**
 * @param limit most bytes of a body, after decompression
 * @returns a function that throws UNSUPPORTED_MEDIA_TYPE, and the parser's own errors, which the error handler knows; what
 * it returns is undefined when there is no body
 */
export function jsonReader(limit: number): ReadJson {
  const parse = express.json({ limit, type: 'application/json' });
  return async (request, response) => {
    // False: there is a body, of another type, which the parser would leave unread.
    if (request.is('application/json') === false && request.headers['content-length'] !== '0') {
      throw new TaskwireError('UNSUPPORTED_MEDIA_TYPE');
    }
    await new Promise<void>((resolve, reject) => {
      parse(request, response, (error?: unknown) => (error === undefined ? resolve() : reject(error)));
    });
    return request.body as unknown;
  };
}
