import type { IncomingMessage } from 'node:http';
import { toTaskwireError } from '../protocol/errors.js';
import type { AddressBrake } from './address-brake.js';
import { type AddressOf, addressGroup } from './client-address.js';
import { credentialsOf } from './credentials.js';
import type { KeyGuard } from './key-guard.js';
import type { RefusalLog } from './refusal-log.js';
import type { WaitingRoom } from './waiting-room.js';

export interface ApproachOptions {
  readonly addressOf: AddressOf;
  readonly attempts: AddressBrake;
  readonly keys: Pick<KeyGuard, 'knows' | 'check'>;
  readonly waitingRoom: WaitingRoom;
  /** Told about those that are refused. */
  readonly refusals: Pick<RefusalLog, 'note'>;
}

/** Checks a connection before its owner is known. It makes no look-ups. */
export class Approach {
  constructor(private readonly options: ApproachOptions) {}

  /**
   * Called before an upgrade, and before a session of Engine.IO begins. A request with a key that was valid here a short
   * while ago passes: then only the limits of the key count.
   * @throws TaskwireError RATE_LIMIT_EXCEEDED when its address has come too often, or has tried too many keys
   */
  check(request: IncomingMessage): void {
    const { addressOf, attempts, keys, refusals } = this.options;
    const credentials = credentialsOf(request, { query: 'all' });
    if (keys.knows(credentials)) {
      return;
    }
    const address = addressOf(request);
    const group = addressGroup(address);
    try {
      attempts.count(group);
      keys.check(credentials, group);
    } catch (error) {
      const { code, message } = toTaskwireError(error);
      refusals.note({ code, reason: message, address });
      throw error;
    }
  }

  /**
   * Counts a connection until its owner is known.
   * @param end closes it when it takes too long, or when too many others wait
   * @returns a function that is called when the connection has been let in or is gone; idempotent
   */
  wait(request: IncomingMessage, end: () => void): () => void {
    const { addressOf, waitingRoom } = this.options;
    return waitingRoom.enter(addressGroup(addressOf(request)), end);
  }
}
