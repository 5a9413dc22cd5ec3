import { readdirSync } from 'node:fs';
import { basename } from 'node:path';

/** What an attacker is given. */
export interface Target {
  readonly port: number;
  /** A `user` key of its own. */
  readonly key: string;
  /** Jobs of the key's owner, each with some tasks. */
  readonly jobs: readonly string[];
  /** The address that it comes from; others come from others. */
  readonly address: string;
  /** Postgres, for those that get at it past the service. */
  readonly databaseUrl: string;
  /** Processes of the workers. */
  readonly workers: readonly number[];
}

/** What came of an attack so far. */
export interface Outcome {
  /** Times that a connection was open. */
  opened: number;
  /** Connections that the server took so far at a time, at most. */
  most: number;
  /** Bytes of attacks that the server has read. */
  bytes: number;
  /** How connections ended, by close code. */
  readonly closes: Record<string, number>;
  /** Answers over HTTP, by status. */
  readonly statuses: Record<string, number>;
}

/** One kind of attack: a file below `attacks`, whose default export this is. */
export interface Attack {
  /** What the attacker does, for the table. */
  readonly title: string;
  /** Variables of the service for this attack, beside the defaults. */
  readonly env?: Readonly<Record<string, string>>;
  /** Runs in a process of its own until it is told to stop. It goes on, whatever it is answered. */
  run(target: Target, outcome: Outcome, stop: AbortSignal): Promise<void>;
  /**
   * Throws while the attacker was not yet slowed, refused or closed as it should be.
   * @param seconds for how long it has been going on
   */
  verify(outcome: Outcome, seconds: number): void;
}

const FOLDER = new URL('attacks/', import.meta.url);

/** Names of all attacks. */
export function attackNames(): string[] {
  return readdirSync(FOLDER)
    .filter((name) => name.endsWith('.js'))
    .map((name) => basename(name, '.js'))
    .sort();
}

export async function loadAttack(name: string): Promise<Attack> {
  return ((await import(new URL(`${name}.js`, FOLDER).href)) as { default: Attack }).default;
}

export const newOutcome = (): Outcome => ({ opened: 0, most: 0, bytes: 0, closes: {}, statuses: {} });

/** Counts one more of a kind. */
export function count(counts: Record<string, number>, kind: string | number): void {
  counts[kind] = (counts[kind] ?? 0) + 1;
}
