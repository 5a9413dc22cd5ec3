/**
 * What programs that write tasks import: an API, a scheduler, a job.
 *
 * ```ts
 * const db = connectDatabase({ url: 'postgres://...', pool: 5 });
 * const transport = await connectTransport({ url: 'redis://...' });
 * const tasks = new TaskRepository(db, new Publisher(transport));
 * ```
 */

export type { Publishing as PublishTransport } from './broker/broker.js';
export { Publisher } from './broker/publisher.js';
export { connectTransport, type RedisTransport } from './broker/redis/redis-transport.js';
export { ERRORS, type ErrorBody, type ErrorCode, TaskwireError } from './protocol/errors.js';
export { EVENT_TYPES, type EventEnvelope, type EventType, type TaskEvent } from './protocol/events.js';
export type { Position, SubscribeRequest, SubscribeResult } from './protocol/messages.js';
export { jobRoom, taskRoom, userRoom } from './protocol/rooms.js';
export type { Role, TaskRow } from './protocol/tasks.js';
export { type ApiKeyRecord, ApiKeyRepository } from './repository/api-key-repository.js';
export { connectDatabase, type DatabaseOptions } from './repository/connect-database.js';
export { JobRepository, type JobRow } from './repository/job-repository.js';
export { migrate } from './repository/migrate.js';
export type { AttestationInput, CreateTaskInput, ExecutionInput, JobInput } from './repository/task-input.js';
export type { TaskUpdate } from './repository/task-patch.js';
export {
  type BatchOutcome,
  type EventPublisher,
  TaskRepository,
  type TaskWrite,
} from './repository/task-repository.js';
