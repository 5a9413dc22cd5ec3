import type { ServerResponse } from 'node:http';
import type { RequestHandler } from 'express';
import { unsentBytes } from '../base/unsent.js';

/** Looks that find nothing taken before an answer counts as stalled: a worker that was held up itself has not looked. */
const LOOKS = 8;

/**
 * Ends connections whose client takes nothing of its answer, which would keep its memory for ever. Who takes something,
 * however slowly, is waited for.
 * @param stallMs how long nothing may be taken, in milliseconds
 */
export function endStalledAnswers(stallMs: number): RequestHandler {
  return (_request, response, next) => {
    // All of the answer was written; most of the time all of it was taken as well. Streams end themselves.
    response.once('prefinish', () => {
      if (!response.writableFinished && unsent(response) > 0) {
        watch(response, stallMs);
      }
    });
    next();
  };
}

function watch(response: ServerResponse, stallMs: number): void {
  let before = unsent(response);
  let idleLooks = 0;
  const timer = setInterval(() => {
    const rest = unsent(response);
    idleLooks = rest < before ? 0 : idleLooks + 1;
    before = rest;
    if (idleLooks >= LOOKS) {
      response.destroy();
    }
  }, stallMs / LOOKS).unref();
  response.once('close', () => clearInterval(timer));
}

const unsent = ({ socket }: ServerResponse): number => (socket === null ? 0 : unsentBytes(socket));
