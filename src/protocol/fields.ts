import { type ErrorCode, TaskwireError } from './errors.js';
import { meant, nearest, shown } from './nearest.js';

/** Names in other protocols, and the field of this one that they mean. */
const ALIASES: Readonly<Record<string, string>> = {
  channel: 'room',
  topic: 'room',
  name: 'room',
  channels: 'rooms',
  topics: 'rooms',
  from: 'since',
  after: 'since',
  last: 'since',
  seq: 'since',
  offset: 'since',
  event: 'type',
  action: 'type',
  op: 'type',
  method: 'type',
  payload: 'data',
  body: 'data',
  params: 'data',
  id: 'request_id',
  key: 'api_key',
  jwt: 'token',
  access_token: 'token',
  accessToken: 'token',
  auth_token: 'token',
  authToken: 'token',
  bearer: 'token',
  authorization: 'token',
};

/** The field of `known` that somebody most likely meant by `name`. */
export function nearestField(name: string, known: Iterable<string>): string | undefined {
  const names = [...known];
  const alias = Object.hasOwn(ALIASES, name) ? ALIASES[name] : undefined;
  return alias !== undefined && names.includes(alias) ? alias : nearest(name, names);
}

/**
 * Refuses an object with an unknown field: it would be ignored.
 * @param known fields that are read
 * @param misplaced fields that belong elsewhere, each with what to do instead
 * @throws TaskwireError `code`, which names the field and the nearest known one
 */
export function assertKnownFields(
  object: Readonly<Record<string, unknown>>,
  {
    known,
    misplaced = {},
    code,
  }: { known: readonly string[]; misplaced?: Readonly<Record<string, string>>; code: ErrorCode },
): void {
  for (const field in object) {
    if (!known.includes(field)) {
      const instead = Object.hasOwn(misplaced, field) ? misplaced[field] : undefined;
      const did_you_mean = instead === undefined ? nearestField(field, known) : undefined;
      throw new TaskwireError(code, {
        message:
          instead === undefined
            ? `Unknown field ${shown(field)}${meant(did_you_mean) || `; known are ${known.join(', ')}`}`
            : `Field ${shown(field)} is in the wrong place: ${instead}`,
        details: { field: field.slice(0, 64), known, ...(did_you_mean === undefined ? {} : { did_you_mean }) },
      });
    }
  }
}

/** An answer that names the field that is wrong and what it wants. */
export const wrongField = (code: ErrorCode, field: string, wants: string): TaskwireError =>
  new TaskwireError(code, { message: `Field "${field}" wants ${wants}`, details: { field, wants } });

export const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
