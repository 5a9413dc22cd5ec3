import { spawnSync } from 'node:child_process';
import { appendFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { findProgram } from './programs.js';

const mounted = new Set<string>();
process.once('exit', () => {
  for (const dir of mounted) {
    unmount(dir);
  }
});

function run(program: string, ...args: string[]): string | undefined {
  const path = findProgram(program);
  if (path === undefined) {
    return `${program} not found in PATH`;
  }
  const { status, stderr, error } = spawnSync(path, args, { encoding: 'utf8' });
  return status === 0 ? undefined : (error?.message ?? stderr.trim());
}

function unmount(dir: string): void {
  // Lazily: a process that still ends may have a file open.
  run('umount', '--lazy', dir);
  mounted.delete(dir);
}

/** A disk of its own, of a size that can be filled. Its place is a new folder. */
export class SmallDisk {
  readonly dir = mkdtempSync(join(tmpdir(), 'taskwire-disk-'));
  private readonly filler = join(this.dir, 'filler');

  /** @param options `owner`: to whom its folder belongs; without one, to this user */
  constructor({ megabytes, owner }: { megabytes: number; owner?: { uid: number; gid: number } | undefined }) {
    const user = owner === undefined ? '' : `,uid=${owner.uid},gid=${owner.gid}`;
    const refusal = run('mount', '-t', 'tmpfs', '-o', `size=${megabytes}m,mode=700${user}`, 'taskwire-test', this.dir);
    if (refusal !== undefined) {
      rmSync(this.dir, { recursive: true, force: true });
      throw new Error(`no disk can be mounted: ${refusal}`);
    }
    mounted.add(this.dir);
  }

  /** Takes all the room that is left. */
  fill(): void {
    for (const size of [1_048_576, 4_096]) {
      try {
        for (;;) {
          appendFileSync(this.filler, Buffer.alloc(size));
        }
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') {
          throw error;
        }
      }
    }
  }

  /** Gives the room back that `fill` took. */
  makeRoom(): void {
    rmSync(this.filler, { force: true });
  }

  /** Writes are refused from now on, as those of a disk are that has failed. */
  makeReadOnly(): void {
    const refusal = run('mount', '-o', 'remount,ro', this.dir);
    if (refusal !== undefined) {
      throw new Error(refusal);
    }
  }

  stop(): void {
    unmount(this.dir);
    rmSync(this.dir, { recursive: true, force: true });
  }
}

function whyNot(): string | undefined {
  try {
    new SmallDisk({ megabytes: 1 }).stop();
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}

/** A test or a suite on disks of its own. Where this user may not mount any it is pending, and its title says why. */
export function withDisks(title: string, make: (title: string, pending: boolean) => unknown): void {
  const reason = whyNot();
  make(reason === undefined ? title : `${title} [not run: ${reason.split('\n', 1)[0]}]`, reason !== undefined);
}
