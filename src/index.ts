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
export { connectDatabase, type DatabaseOptions } from './database/connect-database.js';
export { ERRORS, type ErrorBody, type ErrorCode, TaskwireError } from './protocol/errors.js';
export {
  type EnvelopeOf,
  EVENT_TYPES,
  type EventChanges,
  type EventEnvelope,
  type EventType,
  type TaskCreated,
  type TaskDeleted,
  type TaskEvent,
  type TaskFeeUpdated,
  type TaskStatusChanged,
  type TaskUpdated,
} from './protocol/events.js';
export type {
  AuthResult,
  ErrorMessage,
  Position,
  Positions,
  PositionsMessage,
  RequestId,
  RoomRefusal,
  ServerMessage,
  SnapshotMessage,
  SnapshotRequest,
  SubscribeRequest,
  SubscribeResult,
  SubscribeResults,
  SuccessMessage,
  UnsubscribeResult,
} from './protocol/messages.js';
export { jobRoom, taskRoom, userRoom } from './protocol/rooms.js';
export type { Role, Scope, TaskRow } from './protocol/tasks.js';
export {
  type ApiKeyInput,
  type ApiKeyRecord,
  ApiKeyRepository,
  type CreatedKey,
} from './repository/api-key-repository.js';
export type { BatchOutcome } from './repository/batch-writes.js';
export type {
  AttestationInput,
  CreateTaskInput,
  ExecutionInput,
  FeeInput,
  JobInput,
  OutcomeInput,
  StatusInput,
} from './repository/inputs.js';
export { JobRepository, type JobRow } from './repository/job-repository.js';
export type { TaskUpdate } from './repository/task-patch.js';
export { TaskRepository } from './repository/task-repository.js';
export type { EventPublisher, TaskWrite } from './repository/write-runner.js';
export { migrate } from './schema/migrate.js';
