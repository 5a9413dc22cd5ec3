import { expect } from 'chai';
import type { z } from 'zod';
import type {
  ApiKeyInput,
  AttestationInput,
  CreateTaskInput,
  EventEnvelope,
  ExecutionInput,
  FeeInput,
  JobInput,
  ServerMessage,
  StatusInput,
} from '../../src/index.js';
import type { apiKeyInput } from '../../src/repository/key-input.js';
import type {
  attestationInput,
  createTaskInput,
  executionInput,
  feeInput,
  jobInput,
  statusInput,
} from '../../src/repository/task-input.js';

/** `A` and `B` take the same values, and have the same fields. */
type Same<A, B> = [A] extends [B] ? ([B] extends [A] ? ([keyof A] extends [keyof B] ? true : never) : never) : never;
type Loose<Value> = {
  [Field in keyof Value]: Value[Field] extends Array<infer Item> | undefined
    ? readonly Item[] | undefined
    : Value[Field];
};
type Read<Schema extends z.ZodType> = Loose<Required<z.input<Schema>>>;
type Named<Input> = Loose<Required<Input>>;

// These lines are the test: they compile only while the documented inputs are what the schemas read.
const inputs: [
  Same<Named<JobInput>, Read<typeof jobInput>>,
  Same<Named<CreateTaskInput>, Read<typeof createTaskInput>>,
  Same<Named<ExecutionInput>, Read<typeof executionInput>>,
  Same<Named<AttestationInput>, Read<typeof attestationInput>>,
  Same<Named<FeeInput>, Read<typeof feeInput>>,
  Same<Named<StatusInput>, Read<typeof statusInput>>,
  Same<Named<ApiKeyInput>, Read<typeof apiKeyInput>>,
] = [true, true, true, true, true, true, true];

/** What somebody writes who handles messages: each type has its own fields, and none is forgotten. */
function told(message: ServerMessage): string {
  switch (message.type) {
    case 'TASK_CREATED':
      return message.data.changes.created_at;
    case 'TASK_UPDATED':
      return String(message.data.changes.execution_tx_hash);
    case 'TASK_STATUS_CHANGED':
      return `${message.data.changes.old_status} to ${message.data.changes.new_status}`;
    case 'TASK_FEE_UPDATED':
      return `${message.data.changes.old_fee} to ${message.data.changes.new_fee}`;
    case 'TASK_DELETED':
      return `${message.data.changes.task_id} is gone`;
    case 'JOB_TASKS_SNAPSHOT':
    case 'TASK_SNAPSHOT':
    case 'USER_TASKS_SNAPSHOT':
    case 'SNAPSHOT_PART':
      return `${message.data.tasks.length} tasks up to ${message.seq}`;
    case 'PONG':
    case 'POSITION':
      return message.data.positions.map(({ room, seq }) => `${room} ${seq}`).join();
    case 'SUCCESS':
      return message.data.message;
    case 'ERROR':
      return message.data.code;
    default:
      return message;
  }
}

describe('public types', () => {
  it('tell what a message has by its type', () => {
    const event: EventEnvelope = {
      type: 'TASK_STATUS_CHANGED',
      seq: 4,
      data: {
        task_id: 1,
        job_id: '1',
        user_id: 'ada',
        changes: {
          task_id: 1,
          job_id: '1',
          user_id: 'ada',
          old_status: 'pending',
          new_status: 'done',
          task_status: 'done',
        },
        timestamp: '2024-01-01T00:00:00.000Z',
      },
      timestamp: '2024-01-01T00:00:00.000Z',
    };
    expect(told(event)).to.equal('pending to done');
    expect(inputs).to.not.include(false);
  });
});
