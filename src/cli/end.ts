/**
 * Ends this process once what it has printed is written, or the reason why not has been heard. It does not wait for the other
 * side of connections: a server that asked for a password in vain keeps one open for a minute.
 */
export function end(code: number): void {
  process.exitCode = code;
  process.stdout.write('', () => process.stderr.write('', () => setImmediate(() => process.exit())));
}
