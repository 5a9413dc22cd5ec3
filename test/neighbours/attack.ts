import { readdirSync } from 'node:fs';
import { basename } from 'node:path';
import type { Role } from '../../src/protocol/tasks.js';

/** What an attacker is given. */
export interface Target {
  readonly port: number;
  /** A key of its own. */
  readonly key: string;
  /** Whose it is; nobody else has anything of this user's. */
  readonly owner: string;
  /** Jobs of the owner, each with one task. */
  readonly jobs: readonly string[];
  /** Those tasks, in the order of the jobs. */
  readonly tasks: readonly number[];
  /** The address that it comes from; others come from others. */
  readonly address: string;
  /** Postgres, for those that get at it past the service. */
  readonly databaseUrl: string;
  /** Processes of the workers that have no connection of the honest user. */
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
  /** Refusals, by the code of the error. */
  readonly codes: Record<string, number>;
}

/** What attacks have in common: those of one kind run beside each other in `npm test`. */
export const KINDS = ['messages', 'door', 'requests', 'readers', 'database', 'workers'] as const;
export type Kind = (typeof KINDS)[number];

/** One kind of attack: a file below `attacks`, whose default export this is. */
export interface Attack {
  readonly kind: Kind;
  /** What the attacker does, for the table. */
  readonly title: string;
  /** Of its key: `user` when absent. */
  readonly role?: Role;
  /** Requests a minute of its key: the default when absent. */
  readonly rateLimit?: number;
  /** Whether it runs in the long form only. */
  readonly long?: boolean;
  /** Of three workers one hangs, which has no connection of the honest user. */
  readonly hangs?: boolean;
  /** Requests of the honest user that may fail: those that were on their way to a worker that then hangs. */
  readonly mayFail?: number;
  /** Makes what the attack needs, before it begins. */
  prepare?(target: Target): Promise<void>;
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

export const newOutcome = (): Outcome => ({
  opened: 0,
  most: 0,
  bytes: 0,
  closes: {},
  statuses: {},
  codes: {},
});

/** Counts one more of a kind. */
export function count(counts: Record<string, number>, kind: string | number): void {
  counts[kind] = (counts[kind] ?? 0) + 1;
}
