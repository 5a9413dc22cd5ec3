/** Microseconds of the machine's monotonic clock: comparable between the processes of one host. */
export function micros(): number {
  const [seconds, nanoseconds] = process.hrtime();
  return seconds * 1e6 + nanoseconds / 1e3;
}
