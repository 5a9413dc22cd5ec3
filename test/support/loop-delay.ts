import { monitorEventLoopDelay } from 'node:perf_hooks';

/** Loaded into an instance: each process says on its log, every second, how late its event loop was at most. */
const histogram = monitorEventLoopDelay({ resolution: 10 });
histogram.enable();
setInterval(() => {
  const worst = histogram.max / 1e6;
  histogram.reset();
  process.stderr.write(
    `${JSON.stringify({ message: 'event loop delay', process: process.pid, ms: Math.round(worst) })}\n`,
  );
}, 1_000).unref();
