import cluster from 'node:cluster';

/** Loaded into an instance: a worker that gets SIGUSR2 never comes back to its event loop. */
if (cluster.isWorker) {
  process.on('SIGUSR2', () => {
    for (;;) {}
  });
}
