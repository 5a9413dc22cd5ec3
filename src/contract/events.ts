import { z } from 'zod';
import type { EventChanges, EventEnvelope, EventType } from '../protocol/events.js';
import { schemaOf } from './schemas.js';
import { jobId, position, taskId, taskRow, time, userId } from './values.js';

const ids = { task_id: taskId, job_id: jobId, user_id: userId };
const oldFee = z.number().nullable();

const { task_id: _task, job_id: _job, user_id: _user, ...rowFields } = taskRow.shape;

const changes = {
  TASK_CREATED: taskRow,
  TASK_UPDATED: z.strictObject({ ...ids, ...z.object(rowFields).partial().shape }),
  TASK_STATUS_CHANGED: z.strictObject({
    ...ids,
    old_status: z.string(),
    new_status: z.string(),
    task_status: z.string(),
    task_number: z.int().nonnegative().optional(),
    task_submission_tx_hash: z.string().optional(),
  }),
  TASK_FEE_UPDATED: z.strictObject({ ...ids, old_fee: oldFee, new_fee: z.number(), task_opx_cost: z.number() }),
  TASK_DELETED: z.strictObject({ ...ids, old_status: z.string(), old_fee: oldFee }),
} satisfies Record<EventType, z.ZodType>;

schemaOf<EventChanges>()(z.strictObject(changes));

const envelope = <Type extends EventType>(type: Type) =>
  z.strictObject({
    type: z.literal(type),
    seq: position.seq,
    data: z.strictObject({ ...ids, changes: changes[type], timestamp: time }),
    timestamp: time,
  });

/** The messages of events, by type. */
export const events = {
  TASK_CREATED: envelope('TASK_CREATED'),
  TASK_UPDATED: envelope('TASK_UPDATED'),
  TASK_STATUS_CHANGED: envelope('TASK_STATUS_CHANGED'),
  TASK_FEE_UPDATED: envelope('TASK_FEE_UPDATED'),
  TASK_DELETED: envelope('TASK_DELETED'),
} satisfies Record<EventType, z.ZodType>;

export const eventEnvelope = schemaOf<EventEnvelope>()(
  z.discriminatedUnion('type', [
    events.TASK_CREATED,
    events.TASK_UPDATED,
    events.TASK_STATUS_CHANGED,
    events.TASK_FEE_UPDATED,
    events.TASK_DELETED,
  ]),
);
