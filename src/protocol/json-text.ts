/**
 * Matches strings and brackets of JSON, and the number behind a name. For valid JSON it takes time in proportion to the text.
 */
const TOKEN = /("[^"\\]*(?:\\.[^"\\]*)*")(?:\s*:\s*(-?\d[\d.eE+-]*))?|[{}[\]]/g;

const NUMBER = /^(\d+)(?:\.(\d+))?(?:e([+-]?\d+))?$/i;
/** Longer numbers are left as they are: they are no ids. */
const MAX_NUMBER_LENGTH = 100;

/** A number of a JSON text, as it was written. */
export interface WrittenNumber {
  /** The name before it. */
  readonly name: string;
  /** How many brackets are open around it: 1 in the outermost object. */
  readonly depth: number;
  readonly text: string;
}

/**
 * Replaces numbers of a JSON text before it is parsed, where parsing would round them (from 2^53 on).
 * @param text valid JSON
 * @param replace gives the JSON text that is to stand there instead, or undefined to leave the number as it is
 */
export function replaceNumbers(text: string, replace: (number: WrittenNumber) => string | undefined): string {
  let depth = 0;
  return text.replace(TOKEN, (token: string, name?: string, number?: string) => {
    if (name === undefined) {
      depth += token === '{' || token === '[' ? 1 : -1;
    } else if (number !== undefined) {
      const replaced = replace({ name: JSON.parse(name) as string, depth, text: number });
      return replaced === undefined ? token : `${name}:${replaced}`;
    }
    return token;
  });
}

/** @returns the digits of a number that is an unsigned integer, however it is written; other numbers as they are */
export function integerText(number: string): string {
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
