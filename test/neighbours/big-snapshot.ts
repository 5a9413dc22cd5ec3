import type { Target } from './attack.js';
import { fillJob } from './sql.js';

const TASKS = 2_000;
const BYTES = 8_000;
/** What a snapshot of the job has at least. */
export const SNAPSHOT_BYTES = TASKS * BYTES;

/** Fills the attacker's first job, so that its snapshot has 16 MB. */
export const fillBigJob = (target: Target): Promise<void> => fillJob(target, { tasks: TASKS, bytes: BYTES });

/** The message that asks for it in parts. */
export const bigSnapshotRequest = ({ jobs }: Target): string =>
  JSON.stringify({ type: 'SUBSCRIBE', data: { room: `job:${jobs[0]}`, snapshot: { parts: true } } });
