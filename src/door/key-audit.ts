import { userInfo } from 'node:os';
import type { Logger } from '../base/logger.js';
import type { ApiKeyRecord } from '../repository/api-key-repository.js';

/** What happened to a key, or to all of an owner. */
export type KeyEvent = 'key created' | 'key changed' | 'key rotated' | 'key disabled' | 'keys disabled';

/** Who changed a key. */
export interface KeyEditor {
  /** Id of the key that was used for it, or `command line`. */
  readonly by: string;
  /** Owner of that key, or the name of whoever ran the command. */
  readonly by_owner: string;
}

/** Writes a line into the log for every change of a key: who changed what. A key itself never stands in it. */
export function auditKey(
  logger: Pick<Logger, 'info'>,
  { by, by_owner }: KeyEditor,
  event: KeyEvent,
  fields: Readonly<Record<string, unknown>>,
): void {
  logger.info(event, { by, by_owner, ...fields });
}

/** What a line of the log says of a key. */
export const keySummary = (record: ApiKeyRecord): Record<string, unknown> => {
  const { key_id, owner, role, rate_limit, scopes, expires_at } = record;
  return { key_id, owner, role, rate_limit, scopes, expires_at };
};

/** Whoever runs this process. */
export function commandLineEditor(): KeyEditor {
  const by = 'command line';
  try {
    return { by, by_owner: userInfo().username };
  } catch {
    // In a container a process may run as a user without a name.
    return { by, by_owner: `uid ${process.getuid?.()}` };
  }
}
