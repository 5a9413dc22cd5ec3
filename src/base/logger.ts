import winston from 'winston';

/** What the rest of the system asks of a logger. */
export interface Logger {
  error(message: string, fields?: Record<string, unknown>): void;
  warn(message: string, fields?: Record<string, unknown>): void;
  info(message: string, fields?: Record<string, unknown>): void;
  debug(message: string, fields?: Record<string, unknown>): void;
  child(fields: Record<string, unknown>): Logger;
}

const KEY = /tw_[A-Za-z0-9_-]{8,}/g;
/** A JWT: its first two parts are JSON in base64url, and so begin like this. */
const TOKEN = /eyJ[\w-]+\.eyJ[\w-]+\.[\w-]*/g;
/** A password may hold an @ itself: the last one before the path ends it. */
const CREDENTIALS = /(\b[a-z]+:\/\/[^\s:/@]*:)[^\s/]*@/gi;
/** Redis repeats what it was sent with a command that it does not know: a password, a script, an event. */
const REPEATED = /,? with args beginning with.*/gi;
/** Objects within objects that are printed. */
const MAX_DEPTH = 4;

/** `text` without API keys, tokens and passwords in URLs. */
export function redact(text: string): string {
  return text
    .replace(KEY, 'tw_[redacted]')
    .replace(TOKEN, '[redacted token]')
    .replace(/([?&](?:api_key|token|password)=)[^&\s"]*/gi, '$1[redacted]')
    .replace(REPEATED, '')
    .replace(CREDENTIALS, '$1[redacted]@');
}

function clean(value: unknown, depth = 0): unknown {
  if (typeof value === 'string') {
    return redact(value);
  }
  if (value instanceof Error) {
    const { code } = value as NodeJS.ErrnoException;
    return {
      name: value.name,
      message: redact(value.message),
      ...(code === undefined ? {} : { code }),
      ...(value.stack === undefined ? {} : { stack: redact(value.stack) }),
      ...(value.cause === undefined || depth >= MAX_DEPTH ? {} : { cause: clean(value.cause, depth + 1) }),
    };
  }
  if (typeof value === 'object' && value !== null) {
    if (depth >= MAX_DEPTH) {
      return '[nested too deep]';
    }
    return Array.isArray(value)
      ? value.map((item) => clean(item, depth + 1))
      : Object.fromEntries(Object.entries(value).map(([key, item]) => [key, clean(item, depth + 1)]));
  }
  return value;
}

const redaction = winston.format((info) => {
  for (const key of Object.keys(info)) {
    if (key !== 'level') {
      info[key] = clean(info[key]);
    }
  }
  return info;
});

/** An error as `clean` makes it. */
interface CleanError {
  readonly name?: string;
  readonly message?: string;
  readonly code?: string;
  readonly stack?: string;
  readonly cause?: CleanError;
}

/** An error on lines of its own, and below it what each one was caused by: the reason often stands there only. */
function linesOf(error: CleanError): string {
  const lines = [error.stack ?? error.message ?? JSON.stringify(error)];
  for (let cause = error.cause; typeof cause === 'object' && cause !== null; cause = cause.cause) {
    lines.push(`caused by ${cause.name ?? 'an error'}: ${cause.message || (cause.code ?? JSON.stringify(cause))}`);
  }
  return lines.map((line) => `\n  ${line}`).join('');
}

const pretty = winston.format.printf(({ timestamp, level, message, ...fields }) => {
  const { error, ...rest } = fields as Record<string, unknown> & { error?: CleanError };
  const tail = Object.entries(rest)
    .map(([key, value]) => ` ${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`)
    .join('');
  return `${String(timestamp)} ${level.padEnd(5)} ${String(message)}${tail}${error === undefined ? '' : linesOf(error)}`;
});

const LEVELS = ['error', 'warn', 'info', 'debug'] as const;

const nothing = (): void => {};

/** Most bytes of lines that wait for whoever reads standard error: a collector that stands still must not fill the memory. */
const MAX_WAITING_BYTES = 4_194_304;
/** Lines that were dropped since then. */
let dropped = 0;

/** Writes a line, if the ones before it have been read. */
function write(logger: winston.Logger, level: string, message: string, fields?: Record<string, unknown>): void {
  if (process.stderr.writableLength > MAX_WAITING_BYTES) {
    dropped += 1;
    return;
  }
  if (dropped > 0) {
    // Where errors alone are logged, a warning would not be.
    logger.log(level === 'error' ? level : 'warn', 'nobody read the log for a while: lines were dropped', {
      lines: dropped,
    });
    dropped = 0;
  }
  logger.log(level, message, fields);
}

/** Drops lines below the level before winston formats them. */
function upTo(level: string, logger: winston.Logger): Logger {
  const wanted = LEVELS.slice(0, LEVELS.indexOf(level as (typeof LEVELS)[number]) + 1);
  const methods = LEVELS.map((name) => [
    name,
    wanted.includes(name)
      ? (message: string, fields?: Record<string, unknown>) => write(logger, name, message, fields)
      : nothing,
  ]);
  return {
    ...(Object.fromEntries(methods) as Pick<Logger, (typeof LEVELS)[number]>),
    child: (fields) => upTo(level, logger.child(fields)),
  };
}

/** A logger on standard error, so that standard output stays free for what a command prints. API keys never pass it. */
export function createLogger(options: { level: string; format: 'json' | 'pretty' }): Logger {
  const { combine, timestamp, json } = winston.format;
  const logger = winston.createLogger({
    level: options.level,
    format: combine(timestamp(), redaction(), options.format === 'json' ? json() : pretty),
    transports: [new winston.transports.Console({ stderrLevels: [...LEVELS] })],
  });
  return upTo(options.level, logger);
}

/** A logger that says nothing. */
export const silentLogger: Logger = {
  error() {},
  warn() {},
  info() {},
  debug() {},
  child: () => silentLogger,
};
