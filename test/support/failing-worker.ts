import cluster from 'node:cluster';

/** Loaded into an instance: its workers fail before they have begun. */
if (cluster.isWorker) {
  process.exit(3);
}
