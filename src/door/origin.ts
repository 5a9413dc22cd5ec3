import type { IncomingMessage } from 'node:http';
import { TaskwireError } from '../protocol/errors.js';

/** Lets a request pass or throws ORIGIN_NOT_ALLOWED. */
export type CheckOrigin = (request: IncomingMessage) => void;

/**
 * Checks the origin of what a browser sends. A request without an `Origin` does not come from another site's page and passes.
 * @param allowed origins such as `https://app.example.com`; `*`: any
 */
export function originCheck(allowed: readonly string[]): CheckOrigin {
  const any = allowed.includes('*');
  const known = new Set(allowed.map(normalOrigin));
  return ({ headers: { origin } }) => {
    if (origin !== undefined && !any && !known.has(normalOrigin(origin))) {
      throw new TaskwireError('ORIGIN_NOT_ALLOWED');
    }
  };
}

/** Browsers write scheme and host in lower case and leave out the scheme's own port; people who configure may not. */
function normalOrigin(text: string): string {
  // The origin of a URL without host is the word `null`, which as a header stands for a page that has none.
  return text !== 'null' && URL.canParse(text) ? new URL(text).origin : text;
}
