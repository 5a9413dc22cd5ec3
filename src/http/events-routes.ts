import type { Request, Response, Router } from 'express';
import { z } from 'zod';
import { queryOf } from '../door/credentials.js';
import type { RoomAccess } from '../door/room-access.js';
import { positionOfEventId, type StreamFormat, type StreamRequest } from '../protocol/event-stream.js';
import { EVENT_TYPES, envelopeText } from '../protocol/events.js';
import type { Room } from '../protocol/rooms.js';
import type { EventHistory } from '../repository/event-history.js';
import { parseInput } from '../repository/task-input.js';
import type { Endpoint } from './endpoint.js';
import { digits, jobRoomOf, queryFields, taskRoomOf, userRoomOf } from './input.js';
import { resource } from './resource.js';

/**
 * Answers a request with a stream of messages. It authenticates the request itself.
 * @throws TaskwireError when nothing has been answered
 */
export type OpenStream = (request: Request, response: Response, wanted: StreamRequest) => Promise<void>;

export interface EventRoutePorts {
  readonly history: Pick<EventHistory, 'page'>;
  readonly access: Pick<RoomAccess, 'resolve'>;
  readonly openStream: OpenStream;
}

/** Default and highest limit of a page. */
const PAGE = 100;
const MAX_PAGE = 1_000;
const MAX_EPOCH_LENGTH = 64;

/** Formats of the answer; the first is the default. */
const FORMATS: ReadonlyMap<string, StreamFormat | 'json'> = new Map([
  ['application/json', 'json'],
  ['text/event-stream', 'sse'],
  ['application/x-ndjson', 'ndjson'],
  ['application/ndjson', 'ndjson'],
]);

/** Fields of the query. `snapshot` concerns only streams, which share their address with the pages. */
const FIELDS = ['since', 'epoch', 'types', 'limit', 'snapshot'];
/** Further fields of a stream. The door reads the token, and refuses a key here. */
const STREAM_FIELDS = [...FIELDS, 'lastEventId', 'token', 'api_key'];

const flag = z.enum(['true', 'false']).transform((text) => text === 'true');

const eventsInput = z.object({
  since: digits(0, Number.MAX_SAFE_INTEGER).optional(),
  epoch: z.string().min(1).max(MAX_EPOCH_LENGTH).optional(),
  types: z.array(z.enum(EVENT_TYPES)).optional(),
});
export const historyInput = eventsInput.extend({ limit: digits(1, MAX_PAGE).default(PAGE) });
export const streamInput = eventsInput.extend({
  limit: digits(1, Number.MAX_SAFE_INTEGER).optional(),
  snapshot: flag.optional(),
});

/** What happened in a job, to a task, to the tasks of a user: page by page as JSON, or as a stream that goes on live. */
export function eventRoutes(router: Router, endpoint: Endpoint, ports: EventRoutePorts): void {
  const { history, access, openStream } = ports;
  const serve = (path: string, roomOf: (params: Readonly<Record<string, string>>) => Room): void => {
    const page = endpoint(async ({ identity, params, query }) => {
      const room = roomOf(params);
      const input = parseInput(historyInput, fieldsOf(query, FIELDS));
      const { userId } = await access.resolve(identity, room);
      const { events, seq, epoch, recovered, more } = await history.page({ userId, room, ...input });
      const rest = JSON.stringify({ seq, epoch, recovered, next: more ? seq : null });
      const body = `{"events":[${events.map(envelopeText).join(',')}],${rest.slice(1)}`;
      return { body, position: { seq, epoch } };
    });
    resource(router, path, {
      get: async (request, response, next) => {
        response.vary('Accept');
        const format = FORMATS.get(request.accepts([...FORMATS.keys()]) || 'application/json')!;
        if (format === 'json' || request.method === 'HEAD') {
          return page(request, response, next);
        }
        const { name } = roomOf(request.params as Record<string, string>);
        const query = queryOf(request);
        const input = parseInput(streamInput, fieldsOf(query, STREAM_FIELDS));
        // A browser that comes back uses the same address, and says in the header where it stopped. Polyfills of EventSource
        // say it in the query, since an own header would need a preflight request.
        const lastId = request.get('Last-Event-ID') ?? query.get('lastEventId') ?? '';
        const { seq: since = input.since, epoch = input.epoch } = positionOfEventId(lastId) ?? {};
        await openStream(request, response, { ...input, format, room: name, since, epoch });
      },
    });
  };

  serve('/api/jobs/:job_id/events', (params) => jobRoomOf(params['job_id']));
  serve('/api/tasks/:id/events', (params) => taskRoomOf(params['id']));
  serve('/api/users/:user_id/events', (params) => userRoomOf(params['user_id']));
}

/**
 * The fields of a query that say which events are wanted, unchecked.
 * @throws TaskwireError INVALID_REQUEST when there are others
 */
function fieldsOf(query: URLSearchParams, known: readonly string[]): Record<string, string | string[] | undefined> {
  const { since, epoch, limit, snapshot } = queryFields(query, known);
  // `types=A,B` and `types=A&types=B` say the same.
  const types = query.has('types') ? query.getAll('types').flatMap((text) => text.split(',')) : undefined;
  return { since, epoch, limit, snapshot, types };
}
