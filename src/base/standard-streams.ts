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

/**
 * Has this process end with exit code 1, and say why, when what it prints cannot be written: on a full disk a key that was made
 * would be lost without a sign. That a reader has gone is no failure. For commands; a service goes on.
 */
export function failUnwritten(): void {
  const { stdout } = process;
  let failure: NodeJS.ErrnoException | null = null;
  stdout.on('error', (error) => {
    failure = error;
  });
  process.once('exit', (code) => {
    // The event of what was printed just before the end has not come.
    failure ??= stdout.errored;
    if (failure !== null && failure.code !== 'EPIPE') {
      process.stderr.write(`What was to be printed is lost: ${failure.message}\n`);
      process.exitCode = code || 1;
    }
  });
}
