const LOOK_MS = 500;

/** An argument of the program, given by `npm start`: drain when the parent process is gone. */
export const END_WITH_PARENT = '--end-with-parent';

/**
 * Calls back once when the parent process is gone. npm ends on a signal without passing it on, and would leave the service behind.
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
