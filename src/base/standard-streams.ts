let done = false;

/**
 * Lets this process outlive whoever reads its standard output and standard error: `taskwire start 2>&1 | head`, or a
 * collector of logs that restarts. What nobody can read any more is dropped. Idempotent.
 */
export function outliveReaders(): void {
  if (!done) {
    done = true;
    for (const stream of [process.stdout, process.stderr]) {
      stream.on('error', () => {});
    }
  }
}
