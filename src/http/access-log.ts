import { randomUUID } from 'node:crypto';
import type { RequestHandler } from 'express';
import type { Logger } from '../base/logger.js';

const REQUEST_ID = /^[\w.-]{1,64}$/;
const MAX_PATH = 256;

/** Gives each request an id (the client's own, when it is usable), and logs how it was answered. */
export function accessLog(logger: Logger): RequestHandler {
  return (request, response, next) => {
    const given = request.get('X-Request-Id');
    const id = given !== undefined && REQUEST_ID.test(given) ? given : randomUUID();
    response.set('X-Request-Id', id);
    const start = performance.now();
    // A query may hold a key under an encoded name, so none of it is logged.
    const path = request.originalUrl.split('?', 1)[0]!.slice(0, MAX_PATH);
    response.once('close', () => {
      const fields = {
        request_id: id,
        method: request.method,
        path,
        status: response.statusCode,
        ms: Math.round((performance.now() - start) * 10) / 10,
        ...(response.writableFinished ? {} : { aborted: true }),
      };
      logger[response.statusCode >= 500 ? 'info' : 'debug']('request', fields);
    });
    next();
  };
}
