import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { availableParallelism, cpus, release, setPriority, totalmem } from 'node:os';
import { findProgram } from '../../test/support/programs.js';

/** Where processes run. `server` and `load` are lists of cores as taskset takes them. */
export interface Pinning {
  readonly server?: string;
  readonly load?: string;
}

/** Servers on the first core, everything else on the second; nothing is pinned where that cannot be. */
export function pinning(): Pinning {
  if (findProgram('taskset') === undefined || availableParallelism() < 2) {
    return {};
  }
  return { server: '0', load: '1' };
}

/** Moves this process, and so whatever it starts from now on, to some cores. */
export const pinSelf = (cores: string | undefined): void => pin(process.pid, cores);

/** Moves a process with all its threads. */
export function pin(pid: number, cores: string | undefined): void {
  if (cores !== undefined) {
    spawnSync('taskset', ['-a', '-p', '-c', cores, String(pid)]);
  }
}

/** Priority of Redis and the load over Postgres and the writer, which share a core with them. */
const PRECEDENCE = -15;

/**
 * Has a process go before others on its core, so that what is timed is not how long it waited for them. Where this user may
 * not say so, all are equal.
 * @param pid 0: this process
 */
export function goFirst(pid: number): void {
  try {
    setPriority(pid, PRECEDENCE);
  } catch {
    // Only root may.
  }
}

/** A command that runs another one on some cores and with as many file descriptors as it may have. */
export function pinned(cores: string | undefined, command: readonly string[]): [string, string[]] {
  const words = cores === undefined ? [...command] : ['taskset', '-c', cores, ...command];
  return ['/bin/sh', ['-c', 'ulimit -n "$(ulimit -H -n)" 2>/dev/null; exec "$@"', 'sh', ...words]];
}

/** Whether CPU time and memory can be read here. */
export const measurable = existsSync('/proc/self/stat') && existsSync('/proc/self/smaps_rollup');

/** What the figures were measured on. */
export function machine(): Record<string, string | number> {
  return {
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cores: cpus().length,
    memory_gb: Math.round(totalmem() / 2 ** 30),
    kernel: release(),
    node: process.version,
  };
}
