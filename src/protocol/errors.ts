/** What a client should do after a refusal: come back later by itself, or stop and tell a person. */
export type Retry = 'later' | 'never';

export interface ErrorEntry {
  /** Shown to clients; says nothing about the inside of the server. */
  readonly message: string;
  /** HTTP status of a REST answer. */
  readonly status: number;
  /**
   * WebSocket close code when the error ends a connection. 4000-4499 and 1012: reconnect; 4500-4999: do not.
   * Absent where the error only answers a message.
   */
  readonly close?: number;
  readonly retry: Retry;
}

/** Every error that leaves the server, over REST, in an `ERROR` message, in `connect_error` or as a close code. */
export const ERRORS = {
  MISSING_API_KEY: { message: 'API key required', status: 401, close: 4501, retry: 'never' },
  INVALID_API_KEY: { message: 'Invalid or expired API key', status: 401, close: 4502, retry: 'never' },
  INACTIVE_API_KEY: { message: 'API key is not active', status: 401, close: 4503, retry: 'never' },
  AUTHENTICATION_FAILED: { message: 'Authentication failed', status: 401, close: 4504, retry: 'never' },
  INVALID_TOKEN: { message: 'Invalid token', status: 401, close: 4507, retry: 'never' },
  TOKEN_EXPIRED: { message: 'Token expired, come back with a new one', status: 401, close: 4401, retry: 'later' },
  TOKEN_ISSUER_UNAVAILABLE: {
    message: 'Token issuer is not available',
    status: 503,
    close: 4014,
    retry: 'later',
  },
  TOKENS_NOT_CONFIGURED: { message: 'No tokens are made without TOKEN_SECRET', status: 501, retry: 'never' },
  ORIGIN_NOT_ALLOWED: { message: 'Origin not allowed', status: 403, close: 4505, retry: 'never' },
  RATE_LIMIT_EXCEEDED: { message: 'Rate limit exceeded', status: 429, close: 4029, retry: 'later' },
  INVALID_ROOM: { message: 'Invalid room format', status: 400, retry: 'never' },
  ACCESS_DENIED: { message: 'No permission to access this resource', status: 403, close: 4508, retry: 'never' },
  TOO_MANY_ROOMS: { message: 'Too many rooms on this connection', status: 400, retry: 'never' },
  INVALID_MESSAGE: { message: 'Message is not a JSON object with a type', status: 400, retry: 'never' },
  INVALID_MESSAGE_TYPE: { message: 'Unknown message type', status: 400, retry: 'never' },
  INVALID_SUBSCRIPTION_DATA: { message: 'Invalid subscription data', status: 400, retry: 'never' },
  INVALID_UNSUBSCRIPTION_DATA: { message: 'Invalid unsubscription data', status: 400, retry: 'never' },
  MESSAGE_TOO_LARGE: { message: 'Message too large', status: 413, close: 1009, retry: 'never' },
  SLOW_CONSUMER: { message: 'Connection reads too slowly', status: 503, close: 4008, retry: 'later' },
  STREAM_RESET: { message: 'The event stream was reset, subscribe again', status: 503, close: 4010, retry: 'later' },
  SERVER_DRAINING: { message: 'Server is restarting', status: 503, close: 1012, retry: 'later' },
  INVALID_REQUEST: { message: 'Invalid request', status: 400, close: 4506, retry: 'never' },
  NOT_FOUND: { message: 'Not found', status: 404, retry: 'never' },
  METHOD_NOT_ALLOWED: { message: 'Method not allowed', status: 405, retry: 'never' },
  IDEMPOTENCY_MISMATCH: {
    message: 'This idempotency key was given to another request before; use a new one',
    status: 409,
    retry: 'never',
  },
  OWNER_MISMATCH: { message: 'This job belongs to another user', status: 409, retry: 'never' },
  ALREADY_EXISTS: { message: 'Already exists', status: 409, retry: 'never' },
  WRITE_REFUSED: { message: 'A trigger of the database did not let this write happen', status: 409, retry: 'never' },
  PAYLOAD_TOO_LARGE: { message: 'Request body too large', status: 413, retry: 'never' },
  UNSUPPORTED_MEDIA_TYPE: { message: 'Content-Type must be application/json', status: 415, retry: 'never' },
  DATABASE_UNAVAILABLE: { message: 'Database is not available', status: 503, close: 4013, retry: 'later' },
  STREAM_BUSY: { message: 'Too many writes of this user wait', status: 503, retry: 'later' },
  INTERNAL_ERROR: { message: 'Internal error', status: 500, close: 1011, retry: 'later' },
} as const satisfies Record<string, ErrorEntry>;

export type ErrorCode = keyof typeof ERRORS;

/** The entry of a code, with its optional fields visible. */
export function errorEntry(code: ErrorCode): ErrorEntry {
  return ERRORS[code];
}

/** What a client gets of an error, on every way out. */
export interface ErrorBody {
  readonly code: ErrorCode;
  readonly message: string;
  readonly details?: unknown;
  readonly retry_after_ms?: number;
}

/** An error with a code of the table; anything else that is thrown leaves the server as INTERNAL_ERROR. */
export class TaskwireError extends Error {
  override readonly name = 'TaskwireError';

  constructor(
    readonly code: ErrorCode,
    readonly options: {
      readonly message?: string;
      readonly details?: unknown;
      readonly retryAfterMs?: number;
      readonly cause?: unknown;
    } = {},
  ) {
    super(options.message ?? ERRORS[code].message, { cause: options.cause });
  }

  get body(): ErrorBody {
    const { details, retryAfterMs } = this.options;
    return {
      code: this.code,
      message: this.message,
      ...(details === undefined ? {} : { details }),
      ...(retryAfterMs === undefined ? {} : { retry_after_ms: Math.ceil(retryAfterMs) }),
    };
  }
}

/** `error` itself when it carries a code, INTERNAL_ERROR around it otherwise. */
export function toTaskwireError(error: unknown): TaskwireError {
  return error instanceof TaskwireError ? error : new TaskwireError('INTERNAL_ERROR', { cause: error });
}
