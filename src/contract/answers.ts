import { z } from 'zod';
import type { ErrorBody } from '../protocol/errors.js';
import { ROLES, type Role, SCOPES, type Scope } from '../protocol/tasks.js';
import type { ApiKeyRecord } from '../repository/api-key-repository.js';
import type { JobRow } from '../repository/job-repository.js';
import type { TaskWrite } from '../repository/write-runner.js';
import { MESSAGE_COUNTS, type MessageCount } from '../stats/cluster-stats.js';
import type { HealthReport } from '../stats/health.js';
import { eventEnvelope } from './events.js';
import { schemaOf } from './schemas.js';
import { count, epoch, errorBody, jobId, position, taskId, taskRow, time, userId } from './values.js';

const error = schemaOf<{ error: ErrorBody }>()(z.strictObject({ error: errorBody }));

const job = schemaOf<JobRow>()(z.strictObject({ job_id: jobId, user_id: userId, created_at: time }));

const jobs = z.array(job);
const nextJob = jobId.nullable();
const jobList = z.union([
  z.strictObject({ user_id: userId, jobs, next: nextJob, ...position }),
  z.strictObject({ jobs, next: nextJob }),
]);

const write = schemaOf<TaskWrite>()(
  z.strictObject({
    task_id: taskId,
    job_id: jobId,
    user_id: userId,
    seq: count.optional().meta({ description: "Place of the write's event in the owner's stream." }),
    epoch: epoch.optional(),
  }),
);

const tasks = { tasks: z.array(taskRow), next: taskId.nullable(), ...position };

const apiKey = schemaOf<ApiKeyRecord>()(
  z.strictObject({
    key_id: z.string(),
    prefix: z.string(),
    owner: userId,
    role: z.enum(ROLES as [Role, ...Role[]]),
    name: z.string().nullable(),
    rate_limit: count,
    scopes: z
      .array(z.enum(SCOPES as [Scope, ...Scope[]]))
      .readonly()
      .nullable(),
    active: z.boolean(),
    expires_at: time.nullable(),
    created_at: time,
    last_used_at: time.nullable(),
  }),
);
const newApiKey = apiKey.extend({ key: z.string().meta({ description: 'The key itself, this once.' }) });

const token = { token: z.string(), expires_in: count, expires_at: time };

const counts = Object.fromEntries(MESSAGE_COUNTS.map((name) => [name, count])) as Record<MessageCount, typeof count>;

const health = schemaOf<HealthReport>()(
  z.strictObject({
    status: z.enum(['healthy', 'degraded', 'starting', 'draining']),
    timestamp: count.meta({ description: 'Seconds since 1970.' }),
    websocket: z.strictObject({ active_connections: count, active_rooms: count }),
    components: z.strictObject({
      database: z.enum(['up', 'down', 'failing', 'read-only', 'busy']),
      broker: z.enum(['up', 'degraded', 'down']),
    }),
    lost: z.array(z.string()).readonly().optional(),
    partial: z.boolean(),
  }),
);

const batchResults = z.strictObject({ results: z.array(z.union([write, error])) });

/** What REST answers, by the name that it has in the document. */
export const ANSWERS = {
  Error: error,
  ErrorBody: errorBody,
  Task: taskRow,
  Job: job,
  JobList: jobList,
  TaskWrite: write,
  FeeWrite: write.extend({ fee: z.number().nullable() }),
  StatusWrite: write.extend({ task_status: z.string() }),
  BatchResults: batchResults,
  TasksCreated: z.union([write, batchResults]),
  JobTasks: z.strictObject({ job_id: jobId, ...tasks }),
  UserTasks: z.strictObject({ user_id: userId, ...tasks }),
  Event: eventEnvelope,
  History: z.strictObject({
    events: z.array(eventEnvelope),
    ...position,
    recovered: z.boolean(),
    next: count.nullable().meta({ description: '`since` of the next page; null: there was nothing more.' }),
  }),
  ApiKey: apiKey,
  ApiKeys: z.strictObject({ keys: z.array(apiKey) }),
  NewApiKey: newApiKey,
  RotatedApiKey: newApiKey.extend({ replaces: z.string() }),
  DisabledApiKey: z.strictObject({ key_id: z.string(), active: z.literal(false) }),
  DisabledApiKeys: z.strictObject({ owner: userId, key_ids: z.array(z.string()), active: z.literal(false) }),
  Token: z.union([
    z.strictObject({ ...token, rooms: z.array(z.string()) }),
    z.strictObject({ ...token, user: userId }),
  ]),
  Health: health,
  Statistics: z.strictObject({
    status: z.literal('success'),
    data: z.strictObject({
      total_clients: count,
      total_rooms: count,
      rooms: z.record(z.string(), count),
      rooms_truncated: z.literal(true).optional(),
      messages: z.strictObject(counts),
      nodes: count,
      partial: z.boolean(),
    }),
  }),
  Document: z.looseObject({}),
} as const satisfies Record<string, z.ZodType>;

export type AnswerName = keyof typeof ANSWERS;
