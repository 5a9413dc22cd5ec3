import { TaskwireError } from '../protocol/errors.js';

/**
 * Strings and brackets of JSON, which are all that structure needs, and the number that belongs to a name. It takes time
 * in proportion to the text only when every string has its end.
 */
const TOKEN = /("[^"\\]*(?:\\.[^"\\]*)*")(?:\s*:\s*(-?\d[\d.eE+-]*))?|[{}[\]]/g;

const NUMBER = /^(\d+)(?:\.(\d+))?(?:e([+-]?\d+))?$/i;
/** Longer numbers are left as they are: they are no ids. */
const MAX_NUMBER_LENGTH = 100;

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

/**
 * @param text valid JSON
 * @param level how many brackets are open around the names that count
 */
function withTextIds(text: string, level: number): string {
  let depth = 0;
  return text.replace(TOKEN, (token: string, name?: string, number?: string) => {
    if (name === undefined) {
      depth += token === '{' || token === '[' ? 1 : -1;
    } else if (number !== undefined && depth === level && JSON.parse(name) === 'job_id') {
      return `"job_id":"${integerText(number)}"`;
    }
    return token;
  });
}

/** @returns the digits of a number that is an unsigned integer, however it is written; other numbers as they are */
function integerText(number: string): string {
  const match = number.length > MAX_NUMBER_LENGTH ? null : NUMBER.exec(number);
  if (match === null) {
    return number;
  }
  const [, whole, fraction = '', exponent = '0'] = match as unknown as [string, string, string?, string?];
  const digits = `${whole}${fraction}`.replace(/0+$/, '');
  const zeros = whole.length + Number(exponent) - digits.length;
  if (digits === '') {
    return '0';
  }
  return zeros < 0 || zeros > MAX_NUMBER_LENGTH ? number : `${digits}${'0'.repeat(zeros)}`.replace(/^0+/, '');
}
