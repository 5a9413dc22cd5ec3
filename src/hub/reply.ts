import type { TaskwireError } from '../protocol/errors.js';

/** A good answer to a client's message. */
export interface Success {
  readonly type: 'SUCCESS' | 'PONG';
  readonly message?: string;
  readonly data: unknown;
}

export type Reply = (outcome: Success | TaskwireError) => void;
