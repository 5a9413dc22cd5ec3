import { TaskwireError } from './errors.js';
import { EVENT_TYPES } from './events.js';
import { assertKnownFields, isObject, nearestField } from './fields.js';
import { integerText, replaceNumbers } from './json-text.js';
import { CLIENT_MESSAGE_TYPES, CONTROL_TYPES } from './messages.js';
import { meant, nearest, shown } from './nearest.js';

/** A message of a client over the plain wire. */
export interface ClientMessage {
  readonly type: string;
  readonly data: unknown;
  /** JSON text of `request_id`, to be echoed as it was written; undefined: there is none. */
  readonly requestId: string | undefined;
  /** Set when the message cannot be handled; the answer still goes to its `request_id`. */
  readonly error?: TaskwireError;
}

const EXAMPLE = '{"type":"SUBSCRIBE","data":{"room":"job:123"}}';
const MAX_REQUEST_ID = 128;

/** Fields of a message. `timestamp` is ignored: some clients send it, as the server's messages have it. */
const FIELDS = ['type', 'data', 'request_id', 'timestamp'];
const IN_DATA = `put it into data, as in ${EXAMPLE}`;
const MISPLACED = Object.fromEntries(
  ['room', 'rooms', 'since', 'epoch', 'snapshot', 'job_id', 'task_id', 'user_id', 'token', 'api_key'].map((field) => [
    field,
    IN_DATA,
  ]),
);
const IDS = ['job_id', 'task_id', 'user_id'];

/** The error for something that is no message, with an example of one. */
const malformed = (problem: string): TaskwireError =>
  new TaskwireError('INVALID_MESSAGE', { message: `${problem}; send text such as ${EXAMPLE}` });

/** Binary frames are not read. */
export const binaryMessage = (): ClientMessage => ({
  type: '',
  data: undefined,
  requestId: undefined,
  error: malformed('The message is binary'),
});

/**
 * Reads the text of a message. What is wrong with it stands in `error`.
 *
 * Ids that are numbers become strings of the digits that were written: as numbers they would be rounded from 2^53 on.
 */
export function readClientMessage(text: string): ClientMessage {
  let requestId: string | undefined;
  try {
    let value = parse(text);
    if (!isObject(value)) {
      throw malformed('The message is no JSON object');
    }
    requestId = requestIdOf(value, text);
    if (hasRoundedIds(value['data'])) {
      value = JSON.parse(withTextIds(text)) as Record<string, unknown>;
    }
    const { type, data } = value as Record<string, unknown>;
    if (typeof type !== 'string') {
      throw untyped(value as Record<string, unknown>);
    }
    assertKnownFields(value as Record<string, unknown>, {
      known: FIELDS,
      misplaced: MISPLACED,
      code: 'INVALID_MESSAGE',
    });
    return { type, data, requestId };
  } catch (error) {
    return { type: '', data: undefined, requestId, error: error as TaskwireError };
  }
}

/** The answer to a type that does not exist. */
export function unknownType(type: string): TaskwireError {
  const types: readonly string[] = CLIENT_MESSAGE_TYPES;
  const did_you_mean = nearest(type, types);
  const ours = (EVENT_TYPES as readonly string[]).includes(type) || (CONTROL_TYPES as readonly string[]).includes(type);
  const problem = ours ? `${type} is sent by the server only` : `Unknown message type ${shown(type)}`;
  return new TaskwireError('INVALID_MESSAGE_TYPE', {
    message: `${problem}${meant(did_you_mean)}${did_you_mean === undefined ? `; types are ${types.join(', ')}` : ''}`,
    details: { types, ...(did_you_mean === undefined ? {} : { did_you_mean }) },
  });
}

function untyped(message: Record<string, unknown>): TaskwireError {
  if (message['type'] !== undefined) {
    return malformed('Field "type" wants a string');
  }
  const other = Object.keys(message).find((field) => nearestField(field, ['type']) === 'type');
  return malformed(
    other === undefined ? 'The message has no "type"' : `The message has no "type", but ${shown(other)}`,
  );
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw malformed('The message is no JSON');
  }
}

/**
 * @returns JSON text, undefined when there is no id
 * @throws TaskwireError INVALID_MESSAGE
 */
function requestIdOf(message: Readonly<Record<string, unknown>>, text: string): string | undefined {
  const id = message['request_id'];
  if (id === undefined || id === null) {
    return undefined;
  }
  const written = typeof id === 'number' && !isExact(id) ? writtenRequestId(text) : JSON.stringify(id);
  if (typeof id === 'object' || written.length > MAX_REQUEST_ID + 2) {
    throw new TaskwireError('INVALID_MESSAGE', {
      message: `Field "request_id" wants a string, number or boolean of up to ${MAX_REQUEST_ID} characters`,
      details: { field: 'request_id' },
    });
  }
  return written;
}

function writtenRequestId(text: string): string {
  let written = '';
  replaceNumbers(text, ({ name, depth, text: number }) => {
    if (depth === 1 && name === 'request_id') {
      written = number;
    }
    return undefined;
  });
  return written;
}

/** Whether a number is printed again as it was written; `1.0` is not, which means the same. */
const isExact = (value: number): boolean => Number.isSafeInteger(value);

/** Whether the data of a message, or one of its rooms, has an id that is a number and may have been rounded. */
function hasRoundedIds(data: unknown): boolean {
  if (!isObject(data)) {
    return false;
  }
  const { rooms } = data;
  return isRounded(data) || (Array.isArray(rooms) && rooms.some((room) => isObject(room) && isRounded(room)));
}

const isRounded = (object: Readonly<Record<string, unknown>>): boolean =>
  IDS.some((name) => typeof object[name] === 'number' && !Number.isSafeInteger(object[name]));

/** `data` is two brackets deep, and an object in its `rooms` four. */
const withTextIds = (text: string): string =>
  replaceNumbers(text, ({ name, depth, text: number }) =>
    (depth === 2 || depth === 4) && IDS.includes(name) ? `"${integerText(number)}"` : undefined,
  );
