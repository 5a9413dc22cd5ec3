import type { HubOptions } from '../../src/hub/hub.js';

/** A hub in which little is much, and that does nothing by itself. */
export const HUB_OPTIONS: HubOptions = {
  RING_EVENTS: 4,
  RING_BYTES: 1_000_000,
  RECONCILE_MS: 3_600_000,
  RECONCILE_IDLE_MS: 3_600_000,
  REPLAY_PAGE: 3,
  REPLAY_CONCURRENCY: 2,
  MAX_SNAPSHOT_TASKS: 10,
  MAX_SNAPSHOT_BYTES: 1_000_000,
  MAX_BUFFERED_BYTES: 1_000_000,
  SLOW_CONSUMER_MS: 10_000,
  POSITION_INTERVAL_MS: 3_600_000,
};
