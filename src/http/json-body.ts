import { isUtf8 } from 'node:buffer';
import express, { type Request, type Response } from 'express';
import { TaskwireError } from '../protocol/errors.js';
import { parseBody } from './body-text.js';

/** Reads a request's JSON. */
export type ReadJson = (request: Request, response: Response) => Promise<unknown>;

/**
 * @param limit most bytes of a body, after decompression
 * @returns a function that throws UNSUPPORTED_MEDIA_TYPE, INVALID_REQUEST, and the reader's own errors, which the error
 * handler knows; what it returns is undefined when there is no body
 */
export function jsonReader(limit: number): ReadJson {
  const read = express.text({ limit, type: 'application/json', verify: assertUtf8 });
  return async (request, response) => {
    // False: there is a body, of another type, which the reader would leave unread.
    if (request.is('application/json') === false && request.headers['content-length'] !== '0') {
      throw new TaskwireError('UNSUPPORTED_MEDIA_TYPE');
    }
    await new Promise<void>((resolve, reject) => {
      read(request, response, (error?: unknown) => (error === undefined ? resolve() : reject(error)));
    });
    const text = request.body as string | undefined;
    return text === undefined || text === '' ? undefined : parseBody(text);
  };
}

function assertUtf8(_request: unknown, _response: unknown, body: Buffer, charset: string): void {
  if (charset !== 'utf-8') {
    throw Object.assign(new Error(`charset ${charset}`), { type: 'charset.unsupported' });
  }
  // The reader would put other characters in the place of such bytes, and they would be written.
  if (!isUtf8(body)) {
    throw Object.assign(new Error('bytes that are no UTF-8'), { type: 'charset.broken' });
  }
}
