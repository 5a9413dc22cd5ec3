import { z } from 'zod';
import type { EventType } from '../protocol/events.js';
import type {
  AuthResult,
  ClientMessageType,
  ControlType,
  ErrorMessage,
  Positions,
  PositionsMessage,
  RequestId,
  RoomRefusal,
  SnapshotMessage,
  SnapshotPartMessage,
  SubscribeRequest,
  SubscribeResult,
  SubscribeResults,
  SuccessMessage,
  UnsubscribeResult,
} from '../protocol/messages.js';
import { events } from './events.js';
import { schemaOf } from './schemas.js';
import { count, errorBody, jobId, position, taskId, taskRow, time, userId } from './values.js';

/** A number that is exact, from `min`. */
const integer = (min: number) => z.int().min(min);

const snapshotRequest = z.strictObject({
  parts: z.boolean().optional(),
  limit: integer(1).optional(),
  before: integer(1).optional(),
});

const roomFields = {
  room: z.string().meta({ description: '`job:{job_id}`, `task:{task_id}` or `user:{user_id}`.' }),
  since: integer(0).optional(),
  epoch: z.string().max(64).optional(),
  snapshot: z.union([z.boolean(), snapshotRequest]).optional(),
};

schemaOf<SubscribeRequest>()(z.strictObject(roomFields));

const sameId = z
  .unknown()
  .optional()
  .meta({ description: 'May stand beside `room` of its kind, and must then say the same.' });

/** One room, as SUBSCRIBE and UNSUBSCRIBE take it. */
const roomRequest = z
  .strictObject({ ...roomFields, job_id: sameId, task_id: sameId, user_id: sameId })
  .refine((request) => idsAgree(request), { message: 'wants the same id as the room' });

/** Whether an id beside a room says the same. A number above 2^53 may have been rounded on the way: then almost. */
function idsAgree(request: Readonly<Record<string, unknown>>): boolean {
  const room = String(request['room']);
  const [kind = ''] = room.split(':', 1);
  const beside = ['job', 'task', 'user'].includes(kind) && room !== kind ? request[`${kind}_id`] : undefined;
  const id = room.slice(kind.length + 1);
  switch (typeof beside) {
    case 'undefined':
      return true;
    case 'number':
      return Number.isSafeInteger(beside) ? String(beside) === id : Number(id) === beside;
    default:
      return beside === id;
  }
}

/** The data of a SUBSCRIBE, and of an UNSUBSCRIBE: one room, or several. */
export const subscribeData = z.union([
  roomRequest,
  z.strictObject({ rooms: z.array(z.union([z.string(), roomRequest])).min(1) }),
]);

const credential = z.string().min(1).optional();
export const authData = z
  .strictObject({ token: credential, api_key: credential })
  .refine(({ token, api_key }) => token !== undefined || api_key !== undefined, { message: 'wants token or api_key' });

const noData = z.strictObject({}).nullish();

/** The data of each message of a client: on Socket.IO, the argument of the event. */
export const clientData = {
  SUBSCRIBE: subscribeData,
  UNSUBSCRIBE: subscribeData,
  PING: noData,
  AUTH: authData,
} satisfies Record<ClientMessageType, z.ZodType>;

const requestId = schemaOf<RequestId>()(z.union([z.string(), z.number(), z.boolean()]));

const clientMessage = <Type extends ClientMessageType>(type: Type) =>
  z.strictObject({
    type: z.literal(type),
    data: clientData[type],
    request_id: z
      .union([z.string().max(128), z.number(), z.boolean()])
      .nullish()
      .meta({ description: 'Comes back with the answer, as it was written.' }),
    timestamp: z.unknown().optional().meta({ description: 'Not read.' }),
  });

/** The messages of a client over the plain wire, by type. */
export const clientMessages = {
  SUBSCRIBE: clientMessage('SUBSCRIBE'),
  UNSUBSCRIBE: clientMessage('UNSUBSCRIBE'),
  PING: clientMessage('PING'),
  AUTH: clientMessage('AUTH'),
} satisfies Record<ClientMessageType, z.ZodType>;

const refusal = schemaOf<RoomRefusal>()(z.strictObject({ room: z.string(), error: errorBody }));
const failed = count.optional().meta({ description: 'How many of them were refused; absent when none was.' });

const subscribeResult = schemaOf<SubscribeResult>()(
  z.strictObject({ room: z.string(), recovered: z.boolean(), replayed: count, ...position }),
);
const subscribeResults = schemaOf<SubscribeResults>()(
  z.strictObject({ rooms: z.array(z.union([subscribeResult, refusal])).readonly(), failed }),
);
const unsubscribeResult = schemaOf<UnsubscribeResult>()(
  z.union([
    z.strictObject({ room: z.string() }),
    z.strictObject({ rooms: z.array(z.union([z.string(), refusal])).readonly(), failed }),
  ]),
);
const authResult = schemaOf<AuthResult>()(z.strictObject({ user: z.string(), expires_at: time.nullable() }));
const positions = schemaOf<Positions>()(
  z.strictObject({ positions: z.array(z.strictObject({ room: z.string(), ...position })).readonly() }),
);

/** What acknowledges each message of a client on Socket.IO; instead of it may come `acknowledgedError`. */
export const acknowledgements = {
  SUBSCRIBE: z.union([subscribeResult, subscribeResults]),
  UNSUBSCRIBE: unsubscribeResult,
  PING: positions,
  AUTH: authResult,
} satisfies Record<ClientMessageType, z.ZodType>;

export const acknowledgedError = z.strictObject({ error: errorBody });

const answered = { timestamp: time, request_id: requestId.optional() };

const success = schemaOf<SuccessMessage>()(
  z.strictObject({
    type: z.literal('SUCCESS'),
    data: z.strictObject({
      message: z.string(),
      data: z.union([subscribeResult, subscribeResults, unsubscribeResult, authResult]),
    }),
    ...answered,
  }),
);
const error = schemaOf<ErrorMessage>()(z.strictObject({ type: z.literal('ERROR'), data: errorBody, ...answered }));

const told = <Type extends PositionsMessage['type']>(type: z.ZodType<Type>) =>
  z.strictObject({ type, data: positions, ...answered });
schemaOf<PositionsMessage>()(told(z.enum(['PONG', 'POSITION'])));

const snapshot = <Type extends SnapshotMessage['type']>(type: z.ZodType<Type>) =>
  z.strictObject({
    type,
    ...position,
    data: z.strictObject({
      user_id: userId,
      job_id: jobId.optional(),
      task_id: taskId.optional(),
      tasks: z.array(taskRow).readonly(),
      truncated: z.literal(true).optional(),
      before: taskId.optional().meta({ description: 'The lowest task id in it; the rest has lower ones.' }),
      parts: z.literal(true).optional().meta({ description: 'The rest follows.' }),
    }),
    timestamp: time,
  });
schemaOf<SnapshotMessage>()(snapshot(z.enum(['JOB_TASKS_SNAPSHOT', 'TASK_SNAPSHOT', 'USER_TASKS_SNAPSHOT'])));

const snapshotPart = schemaOf<SnapshotPartMessage>()(
  z.strictObject({
    type: z.literal('SNAPSHOT_PART'),
    ...position,
    data: z.strictObject({
      room: z.string(),
      user_id: userId,
      job_id: jobId.optional(),
      tasks: z.array(taskRow).readonly(),
      before: taskId.optional(),
      parts: z.literal(true).optional(),
      complete: z.literal(true).optional(),
    }),
    timestamp: time,
  }),
);

/** Whatever the server sends, by type. */
export const serverMessages = {
  ...events,
  JOB_TASKS_SNAPSHOT: snapshot(z.literal('JOB_TASKS_SNAPSHOT')),
  TASK_SNAPSHOT: snapshot(z.literal('TASK_SNAPSHOT')),
  USER_TASKS_SNAPSHOT: snapshot(z.literal('USER_TASKS_SNAPSHOT')),
  SNAPSHOT_PART: snapshotPart,
  SUCCESS: success,
  ERROR: error,
  PONG: told(z.literal('PONG')),
  POSITION: told(z.literal('POSITION')),
} satisfies Record<EventType | ControlType, z.ZodType>;

/** The schemas that have a name of their own in the document. */
export const PARTS = {
  Task: taskRow,
  ErrorBody: errorBody,
  SubscribeResult: subscribeResult,
  RoomRefusal: refusal,
  Positions: positions,
} as const satisfies Record<string, z.ZodType>;
