import { TaskwireError } from './errors.js';
import { assertKnownFields, isObject, wrongField } from './fields.js';

/** The data of an AUTH message. */
export interface AuthData {
  readonly token?: string;
  readonly api_key?: string;
}

const FIELDS = ['token', 'api_key'];
const EXAMPLE = '{"type":"AUTH","data":{"token":"..."}}';

/** The error for a client that connected without credentials and does not send them first. */
export const authFirst = (problem: string): TaskwireError =>
  new TaskwireError('MISSING_API_KEY', { message: `API key required: ${problem}; send ${EXAMPLE} first` });

/**
 * Reads the data of an AUTH message: `{token}` or `{api_key}`.
 * @throws TaskwireError INVALID_MESSAGE
 */
export function parseAuth(data: unknown): AuthData {
  if (isObject(data)) {
    assertKnownFields(data, { known: FIELDS, code: 'INVALID_MESSAGE' });
    for (const field of FIELDS) {
      if (data[field] !== undefined && (typeof data[field] !== 'string' || data[field] === '')) {
        throw wrongField('INVALID_MESSAGE', field, 'a string that is not empty; leave it out when you have none');
      }
    }
  }
  if (!isObject(data) || FIELDS.every((field) => data[field] === undefined)) {
    throw new TaskwireError('INVALID_MESSAGE', { message: `AUTH wants a token or an api_key, as in ${EXAMPLE}` });
  }
  return data as AuthData;
}
