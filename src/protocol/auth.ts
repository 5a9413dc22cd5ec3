import { TaskwireError } from './errors.js';
import { assertKnownFields, isObject } from './fields.js';

/** The data of an AUTH message, its values unchecked. */
export interface AuthData {
  readonly token?: unknown;
  readonly api_key?: unknown;
}

const EXAMPLE = '{"type":"AUTH","data":{"token":"..."}}';

/** What somebody is told who connected without credentials and does not send them first. */
export const authFirst = (problem: string): TaskwireError =>
  new TaskwireError('MISSING_API_KEY', { message: `API key required: ${problem}; send ${EXAMPLE} first` });

/**
 * Reads the data of an AUTH message: `{token}` or `{api_key}`.
 * @throws TaskwireError INVALID_MESSAGE
 */
export function parseAuth(data: unknown): AuthData {
  if (!isObject(data) || (data['token'] === undefined && data['api_key'] === undefined)) {
    if (isObject(data)) {
      assertKnownFields(data, { known: ['token', 'api_key'], code: 'INVALID_MESSAGE' });
    }
    throw new TaskwireError('INVALID_MESSAGE', { message: `AUTH wants a token or an api_key, as in ${EXAMPLE}` });
  }
  assertKnownFields(data, { known: ['token', 'api_key'], code: 'INVALID_MESSAGE' });
  return data;
}
