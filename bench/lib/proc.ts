import { readdirSync, readFileSync } from 'node:fs';

/** Length of the kernel's clock tick, in which /proc counts CPU time, in microseconds. */
const TICK_MICROS = 10_000;

function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    // The process went away meanwhile.
    return undefined;
  }
}

/** Fields of /proc/pid/stat from the third on; the second may hold spaces. */
function statOf(pid: number): string[] | undefined {
  const text = read(`/proc/${pid}/stat`);
  return text?.slice(text.lastIndexOf(')') + 2).split(' ');
}

/** A process and all its living descendants. */
export function processTree(root: number): number[] {
  const children = new Map<number, number[]>();
  for (const name of readdirSync('/proc')) {
    const pid = Number(name);
    if (Number.isInteger(pid)) {
      const parent = Number(statOf(pid)?.[1]);
      children.set(parent, [...(children.get(parent) ?? []), pid]);
    }
  }
  const found: number[] = [];
  const open = [root];
  for (let pid = open.pop(); pid !== undefined; pid = open.pop()) {
    found.push(pid);
    open.push(...(children.get(pid) ?? []));
  }
  return found;
}

/** CPU time of one process's threads as the scheduler counts it; undefined: this kernel does not tell. */
function preciseMicros(pid: number): number | undefined {
  let sum = 0;
  try {
    for (const thread of readdirSync(`/proc/${pid}/task`)) {
      sum += Number(read(`/proc/${pid}/task/${thread}/schedstat`)?.split(' ')[0] ?? 0);
    }
  } catch {
    return undefined;
  }
  return sum > 0 ? sum / 1_000 : undefined;
}

/** User and system time in microseconds of a process and its descendants, those that ended included. */
export function cpuMicros(root: number): number {
  let sum = 0;
  for (const pid of processTree(root)) {
    const stat = statOf(pid);
    if (stat !== undefined) {
      const [user = 0, system = 0, endedUser = 0, endedSystem = 0] = stat.slice(11, 15).map(Number);
      sum += (preciseMicros(pid) ?? (user + system) * TICK_MICROS) + (endedUser + endedSystem) * TICK_MICROS;
    }
  }
  return sum;
}

/**
 * Proportional set size in bytes of a process and its descendants, without pages of files: those are the program itself,
 * and how much of them is charged to a process depends on who else on the machine runs it.
 */
export function pssBytes(root: number): number {
  let sum = 0;
  for (const pid of processTree(root)) {
    const text = read(`/proc/${pid}/smaps_rollup`) ?? '';
    const kilobytes = (field: string): number =>
      Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(text)?.[1] ?? 0);
    sum += (kilobytes('Pss') - kilobytes('Pss_File')) * 1_024;
  }
  return sum;
}
