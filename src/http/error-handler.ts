import type { ErrorRequestHandler } from 'express';
import type { Logger } from '../base/logger.js';
import { type ErrorCode, errorEntry, TaskwireError, toTaskwireError } from '../protocol/errors.js';

/** Our code for an error of Express or its body parser, by its `type`. */
const PARSER_CODES: Readonly<Record<string, ErrorCode>> = {
  'entity.too.large': 'PAYLOAD_TOO_LARGE',
  'charset.unsupported': 'UNSUPPORTED_MEDIA_TYPE',
  'encoding.unsupported': 'UNSUPPORTED_MEDIA_TYPE',
  'entity.parse.failed': 'INVALID_REQUEST',
};

const PARSER_MESSAGES: Readonly<Record<string, string>> = {
  'entity.parse.failed': 'The body is not valid JSON',
  'charset.unsupported': 'The body must be in UTF-8',
  'charset.broken': 'The body is not valid UTF-8',
  'encoding.unsupported': 'Unsupported Content-Encoding',
};

/** `Retry-After` of errors that do not say it themselves, in seconds. */
const RETRY_SECONDS = 1;

/** Answers with an error of the one table, as `{"error": {code, message, details?}}`; the rest stays in the log. */
export function errorHandler(logger: Logger): ErrorRequestHandler {
  return (thrown, request, response, next) => {
    const error = translate(thrown);
    const { status, retry } = errorEntry(error.code);
    if (error.code === 'INTERNAL_ERROR') {
      const { cause = error } = error.options;
      logger.error('request failed', {
        request_id: response.get('X-Request-Id'),
        method: request.method,
        error: cause,
      });
    }
    if (response.headersSent) {
      // The connection is ended: half of an answer must not look like a whole one.
      next(thrown);
      return;
    }
    const { retryAfterMs } = error.options;
    if (retryAfterMs !== undefined || (retry === 'later' && status === 503)) {
      response.set('Retry-After', String(Math.ceil((retryAfterMs ?? RETRY_SECONDS * 1_000) / 1_000)));
    }
    response.status(status).json({ error: error.body });
  };
}

function translate(thrown: unknown): TaskwireError {
  if (thrown instanceof TaskwireError || !(thrown instanceof Error)) {
    return toTaskwireError(thrown);
  }
  const { type, status } = thrown as { type?: unknown; status?: unknown };
  const kind = String(type);
  if (typeof status === 'number' && status >= 400 && status < 500) {
    const code = PARSER_CODES[kind] ?? 'INVALID_REQUEST';
    const message = PARSER_MESSAGES[kind];
    return new TaskwireError(code, { cause: thrown, ...(message === undefined ? {} : { message }) });
  }
  return toTaskwireError(thrown);
}
