import { LRUCache } from 'lru-cache';
import { TurnReader } from '../base/turn-reader.js';

export interface TokenKeysOptions {
  /** Which of these keys are valid. */
  readonly active: (keyIds: readonly string[]) => Promise<ReadonlySet<string>>;
  /** How long an answer stays valid, in milliseconds. */
  readonly cacheMs: number;
  /** Called when a key is not valid although tokens of it were accepted. */
  readonly onInactive: (keyId: string) => void;
  readonly now?: () => number;
}

interface Known {
  active: boolean;
  /** Until when this is used without asking again. */
  fresh: number;
}

const MAX_KEYS = 50_000;

/**
 * Knows whether the keys that made tokens are still valid. Nobody waits for it: an unknown key counts as valid while the
 * database is asked, since the token's signature was good. When the answer is no, connections that came in meanwhile are
 * closed. So tokens work while the database is away.
 */
export class TokenKeys {
  private readonly known = new LRUCache<string, Known>({ max: MAX_KEYS });
  private readonly lookups: TurnReader<true>;
  private readonly now: () => number;

  constructor(private readonly options: TokenKeysOptions) {
    this.now = options.now ?? (() => performance.now());
    this.lookups = new TurnReader(async (keyIds) => {
      const active = await options.active(keyIds);
      return new Map([...active].map((keyId) => [keyId, true]));
    });
  }

  /** Whether tokens of a key are taken. */
  isActive(keyId: string): boolean {
    const now = this.now();
    let known = this.known.get(keyId);
    if (known === undefined || now >= known.fresh) {
      known = { active: known?.active ?? true, fresh: now + this.options.cacheMs };
      this.known.set(keyId, known);
      void this.look(keyId, known);
    }
    return known.active;
  }

  /** A key was disabled. */
  disable(keyId: string): void {
    this.known.set(keyId, { active: false, fresh: this.now() + this.options.cacheMs });
  }

  /** A key has changed: it is looked up at its next use. */
  forget(keyId: string): void {
    this.known.delete(keyId);
  }

  /** Has every key looked up at its next use. */
  expireAll(): void {
    for (const known of this.known.values()) {
      known.fresh = Number.NEGATIVE_INFINITY;
    }
  }

  private async look(keyId: string, asked: Known): Promise<void> {
    try {
      const active = (await this.lookups.read(keyId)) === true;
      if (this.known.get(keyId) === asked) {
        asked.active = active;
        if (!active) {
          this.options.onInactive(keyId);
        }
      }
    } catch {
      // The database is away; it is asked again when this answer is too old.
    }
  }
}
