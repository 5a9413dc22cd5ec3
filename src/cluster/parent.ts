const LOOK_MS = 500;

/** An argument of the program, given by `npm start`: drain when the parent process is gone. */
export const END_WITH_PARENT = '--end-with-parent';

/**
 * Calls back once when the parent process is gone. npm passes SIGTERM and SIGINT on; other signals end it alone, and would leave the service behind.
 * A parent that is gone when this begins is not missed. The parent is npm, not its shell: that lives on without npm and passes nothing
 * on, so the script `start` has it become this program (`exec`).
 * @param args arguments of this program; without END_WITH_PARENT nothing is watched
 */
export function onParentGone(listener: () => void, args: readonly string[] = process.argv): void {
  if (args.includes(END_WITH_PARENT)) {
    const parent = process.ppid;
    const timer = setInterval(() => {
      if (process.ppid !== parent) {
        clearInterval(timer);
        listener();
      }
    }, LOOK_MS).unref();
  }
}
