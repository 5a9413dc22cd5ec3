import { TaskwireError } from '../protocol/errors.js';
import { integerText, replaceNumbers } from '../protocol/json-text.js';

/**
 * Parses the text of a body. A `job_id` that is a number, in the body's object or in the items of its array, becomes a
 * string with the very value that was written: as a number it would be rounded from 2^53 on.
 * @throws TaskwireError INVALID_REQUEST when the text is not JSON
 */
export function parseBody(text: string): unknown {
  const body = parse(text);
  const items: readonly unknown[] = Array.isArray(body) ? body : [body];
  return items.some(hasNumber) ? parse(withTextIds(text, Array.isArray(body) ? 2 : 1)) : body;
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new TaskwireError('INVALID_REQUEST', { message: 'The body is not valid JSON', cause });
  }
}

function hasNumber(item: unknown): boolean {
  return typeof item === 'object' && item !== null && typeof (item as { job_id?: unknown }).job_id === 'number';
}

/** @param level how many brackets are open around the ids that count */
const withTextIds = (text: string, level: number): string =>
  replaceNumbers(text, ({ name, depth, text: number }) =>
    depth === level && name === 'job_id' ? `"${integerText(number)}"` : undefined,
  );
