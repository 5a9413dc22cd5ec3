import { z } from 'zod';
import { historyInput, streamInput } from '../http/events-routes.js';
import { jobPageInput, pageInput } from '../http/input.js';
import { ownJobInput } from '../http/jobs-routes.js';
import { changeBody, rotateBody } from '../http/keys-routes.js';
import { tokenBody } from '../http/tokens-routes.js';
import type { ErrorCode } from '../protocol/errors.js';
import { apiKeyInput } from '../repository/key-input.js';
import {
  attestationInput,
  createTaskInput,
  executionInput,
  feeInput,
  jobInput,
  MAX_BATCH,
  statusInput,
  taskIdInput,
  userIdInput,
} from '../repository/task-input.js';
import type { AnswerName } from './answers.js';

/** The id of the path may be repeated in the body. */
const repeated = { task_id: z.union([taskIdInput, z.string()]).optional() };
const items = <Item extends z.ZodType>(item: Item) => z.array(item).min(1).max(MAX_BATCH);
/** An item of a batch may have a key of its own. */
const once = { idempotency_key: z.string().min(1).max(255).optional() };
const ofKind = <Kind extends string>(kind: Kind) => ({ task_id: taskIdInput, kind: z.literal(kind), ...once });

/** The bodies of requests, by the name that they have in the document. */
export const BODIES = {
  NewJob: z.union([jobInput, ownJobInput]).meta({
    description: 'A key that sees everything says which job, and whose. Other keys get an id that is made here.',
  }),
  NewTask: createTaskInput,
  NewTasks: z.union([createTaskInput, items(createTaskInput.extend(once))]),
  Execution: executionInput.extend(repeated).meta({ description: 'At least one field.' }),
  Attestation: attestationInput.extend(repeated).meta({ description: 'At least one field.' }),
  Fee: feeInput.extend(repeated),
  Status: statusInput.extend(repeated),
  TaskUpdates: items(
    z.discriminatedUnion('kind', [
      executionInput.extend(ofKind('execution')),
      attestationInput.extend(ofKind('attestation')),
      feeInput.extend(ofKind('fee')),
      statusInput.extend(ofKind('status')),
    ]),
  ),
  ApiKeyInput: apiKeyInput,
  ApiKeyChange: changeBody,
  ApiKeyRotation: rotateBody,
  NewToken: tokenBody,
} as const satisfies Record<string, z.ZodType>;

export type BodyName = keyof typeof BODIES;

export interface Operation {
  /** `operationId` of the document. */
  readonly id: string;
  readonly tag: 'jobs' | 'tasks' | 'history' | 'keys' | 'tokens' | 'system';
  readonly summary: string;
  /** `key`: a key is needed. `read`: a token will do. `stream`: also one in the query. `stats`: STATS_ACCESS says. */
  readonly access: 'key' | 'read' | 'stream' | 'stats' | 'open';
  readonly query?: z.ZodObject;
  readonly body?: BodyName;
  /** Whether a request may come without its body. */
  readonly bodyOptional?: true;
  /** What is answered, by status; null: no body that is described here. */
  readonly answers: Readonly<Record<number, AnswerName | null>>;
  /** Answers in other forms than JSON, by content type. */
  readonly alsoAs?: Readonly<Record<string, string>>;
  /** The answer is not JSON at all. */
  readonly text?: string;
  /** Whether the header Idempotency-Key makes it once. */
  readonly once?: true;
  /** The answer has the headers of a position. */
  readonly positioned?: true;
  /** Errors beside those that any such request may get. */
  readonly errors?: readonly ErrorCode[];
}

const ofUser = { user_id: userIdInput.optional() };
const room = z.object({ room: z.string().optional() });

const history = (id: string, whose: string): Operation => ({
  id,
  tag: 'history',
  summary: `What happened ${whose}: a page as JSON, or a stream that goes on live`,
  access: 'stream',
  query: historyInput.extend({ snapshot: streamInput.shape.snapshot }),
  answers: { 200: 'History' },
  alsoAs: {
    'text/event-stream': 'Server-Sent Events without names. The data of each is a message of the AsyncAPI document.',
    'application/x-ndjson': 'One message of the AsyncAPI document on each line.',
  },
  positioned: true,
});

const update = (id: string, body: BodyName, answer: AnswerName, summary: string): Operation => ({
  id,
  tag: 'tasks',
  summary,
  access: 'key',
  body,
  answers: { 200: answer },
  once: true,
  errors: ['IDEMPOTENCY_MISMATCH', 'WRITE_REFUSED', 'STREAM_BUSY'],
});

/** Everything that REST does, by method and path of the route table. */
export const OPERATIONS: Readonly<Record<string, Operation>> = {
  'GET /api/jobs': {
    id: 'listJobs',
    tag: 'jobs',
    summary: "A page of jobs: the key's owner's, one user's, or everybody's",
    access: 'read',
    query: jobPageInput.extend(ofUser),
    answers: { 200: 'JobList' },
    positioned: true,
  },
  'POST /api/jobs': {
    id: 'createJob',
    tag: 'jobs',
    summary: 'Makes a job',
    access: 'key',
    body: 'NewJob',
    bodyOptional: true,
    once: true,
    answers: { 201: 'Job' },
    errors: ['ALREADY_EXISTS', 'OWNER_MISMATCH', 'IDEMPOTENCY_MISMATCH', 'STREAM_BUSY'],
  },
  'GET /api/jobs/:job_id': {
    id: 'getJob',
    tag: 'jobs',
    summary: 'One job',
    access: 'read',
    answers: { 200: 'Job' },
    positioned: true,
  },
  'POST /api/tasks': {
    id: 'createTasks',
    tag: 'tasks',
    summary: 'Makes a task, or one per item of a list',
    access: 'key',
    body: 'NewTasks',
    answers: { 201: 'TasksCreated', 207: 'BatchResults' },
    once: true,
    errors: ['IDEMPOTENCY_MISMATCH', 'WRITE_REFUSED', 'STREAM_BUSY'],
  },
  'PUT /api/tasks': {
    id: 'updateTasks',
    tag: 'tasks',
    summary: 'One update per item; 207 when some were not made',
    access: 'key',
    body: 'TaskUpdates',
    answers: { 200: 'BatchResults', 207: 'BatchResults' },
    once: true,
    errors: ['IDEMPOTENCY_MISMATCH', 'WRITE_REFUSED', 'STREAM_BUSY'],
  },
  'GET /api/tasks/job/:job_id': {
    id: 'listTasksOfJob',
    tag: 'tasks',
    summary: "A page of a job's tasks",
    access: 'read',
    query: pageInput,
    answers: { 200: 'JobTasks' },
    positioned: true,
  },
  'PUT /api/tasks/execution/:id': update('updateExecution', 'Execution', 'TaskWrite', 'Writes an execution'),
  'PUT /api/tasks/attestation/:id': update('updateAttestation', 'Attestation', 'TaskWrite', 'Writes an attestation'),
  'PUT /api/tasks/:id/fee': update('updateFee', 'Fee', 'FeeWrite', 'Writes the fee'),
  'PUT /api/tasks/:id/status': update('updateStatus', 'Status', 'StatusWrite', 'Writes the status'),
  'GET /api/tasks/:id': {
    id: 'getTask',
    tag: 'tasks',
    summary: 'One task',
    access: 'read',
    answers: { 200: 'Task' },
    positioned: true,
  },
  'DELETE /api/tasks/:id': {
    id: 'deleteTask',
    tag: 'tasks',
    summary: 'Deletes a task; for keys that see everything',
    access: 'key',
    once: true,
    answers: { 200: 'TaskWrite' },
    errors: ['IDEMPOTENCY_MISMATCH', 'WRITE_REFUSED', 'STREAM_BUSY'],
  },
  'GET /api/users/:user_id/tasks': {
    id: 'listTasksOfUser',
    tag: 'tasks',
    summary: "A page of a user's tasks",
    access: 'read',
    query: pageInput,
    answers: { 200: 'UserTasks' },
    positioned: true,
  },
  'GET /api/jobs/:job_id/events': history('historyOfJob', 'in a job'),
  'GET /api/tasks/:id/events': history('historyOfTask', 'to a task'),
  'GET /api/users/:user_id/events': history('historyOfUser', 'to the tasks of a user'),
  'GET /api/keys': {
    id: 'listKeys',
    tag: 'keys',
    summary: 'All keys',
    access: 'key',
    answers: { 200: 'ApiKeys' },
  },
  'POST /api/keys': {
    id: 'createKey',
    tag: 'keys',
    summary: 'Makes a key',
    access: 'key',
    body: 'ApiKeyInput',
    answers: { 201: 'NewApiKey' },
  },
  'DELETE /api/keys': {
    id: 'disableKeysOfOwner',
    tag: 'keys',
    summary: 'Disables all keys of a user',
    access: 'key',
    query: z.object({ owner: userIdInput }),
    answers: { 200: 'DisabledApiKeys' },
  },
  'PUT /api/keys/:key_id': {
    id: 'changeKey',
    tag: 'keys',
    summary: 'Changes the rate limit of a key, disables it or enables it',
    access: 'key',
    body: 'ApiKeyChange',
    answers: { 200: 'ApiKey' },
  },
  'DELETE /api/keys/:key_id': {
    id: 'disableKey',
    tag: 'keys',
    summary: 'Disables a key',
    access: 'key',
    answers: { 200: 'DisabledApiKey' },
  },
  'POST /api/keys/:key_id/rotate': {
    id: 'rotateKey',
    tag: 'keys',
    summary: 'Makes the successor of a key; both are valid for a while',
    access: 'key',
    body: 'ApiKeyRotation',
    bodyOptional: true,
    answers: { 201: 'RotatedApiKey' },
  },
  'POST /api/tokens': {
    id: 'createToken',
    tag: 'tokens',
    summary: 'Makes a token that reads some rooms, or all of a user',
    access: 'key',
    body: 'NewToken',
    answers: { 201: 'Token' },
    errors: ['TOKENS_NOT_CONFIGURED'],
  },
  'GET /api/ws/health': {
    id: 'health',
    tag: 'system',
    summary: 'Whether the service works; 503 when this worker takes no new work',
    access: 'open',
    answers: { 200: 'Health', 503: 'Health' },
  },
  'GET /api/ws/stats': {
    id: 'statistics',
    tag: 'system',
    summary: 'Connections, rooms and messages of the whole cluster',
    access: 'stats',
    query: room,
    answers: { 200: 'Statistics' },
  },
  'GET /metrics': {
    id: 'metrics',
    tag: 'system',
    summary: 'The numbers of the statistics for Prometheus',
    access: 'stats',
    answers: { 200: null },
    text: 'text/plain',
  },
  'GET /api/ws/tasks': {
    id: 'connect',
    tag: 'system',
    summary: 'The address of WebSockets, which the AsyncAPI document describes; a plain request is refused',
    access: 'open',
    answers: { 101: null },
    errors: ['INVALID_REQUEST'],
  },
  'GET /api/openapi.json': {
    id: 'openapi',
    tag: 'system',
    summary: 'This document',
    access: 'open',
    answers: { 200: 'Document' },
  },
  'GET /api/asyncapi.json': {
    id: 'asyncapi',
    tag: 'system',
    summary: 'The document of the messages',
    access: 'open',
    answers: { 200: 'Document' },
  },
  'GET /api/docs': {
    id: 'docs',
    tag: 'system',
    summary: 'A page for people that shows both documents',
    access: 'open',
    answers: { 200: null },
    text: 'text/html',
  },
};
