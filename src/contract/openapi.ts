import type { z } from 'zod';
import { POSITION_HEADERS } from '../http/endpoint.js';
import { ERRORS, type ErrorCode, errorEntry } from '../protocol/errors.js';
import { ID_PATTERNS } from '../protocol/rooms.js';
import { ANSWERS } from './answers.js';
import { BODIES, OPERATIONS, type Operation } from './operations.js';
import { inlineSchema, type JsonSchema, namedSchemas, refOf } from './schemas.js';

const INPUT = { io: 'input', target: 'draft-2020-12' } as const;
const OUTPUT = { io: 'output', target: 'draft-2020-12' } as const;

const CODES = Object.keys(ERRORS) as ErrorCode[];
const statusOf = (code: ErrorCode): number => errorEntry(code).status;
const STATUSES = [...new Set(CODES.map(statusOf))].sort((a, b) => a - b);

/** What a part of a path may be. */
const PARAMETERS: Readonly<Record<string, JsonSchema>> = {
  job_id: { type: 'string', pattern: ID_PATTERNS.job },
  id: { type: 'integer', minimum: 1, maximum: Number.MAX_SAFE_INTEGER },
  user_id: { type: 'string', pattern: ID_PATTERNS.user },
  key_id: { type: 'string' },
};

const ONCE: JsonSchema = {
  name: 'Idempotency-Key',
  in: 'header',
  description: 'The same key and the same write: the first answer again, and no second write.',
  schema: { type: 'string', pattern: '^[\\x21-\\x7e]{1,255}$' },
};

const KEY = { apiKey: [] };
const TOKEN = { token: [] };
const SECURITY: Readonly<Record<Operation['access'], ReadonlyArray<Readonly<Record<string, readonly string[]>>>>> = {
  key: [KEY],
  read: [KEY, TOKEN],
  stream: [KEY, TOKEN, { tokenInQuery: [] }],
  stats: [KEY, {}],
  open: [{}],
};

/** What any request with a key may get. */
const COMMON: readonly ErrorCode[] = [
  'INVALID_REQUEST',
  'INVALID_API_KEY',
  'ACCESS_DENIED',
  'NOT_FOUND',
  'PAYLOAD_TOO_LARGE',
  'UNSUPPORTED_MEDIA_TYPE',
  'RATE_LIMIT_EXCEEDED',
  'INTERNAL_ERROR',
  'DATABASE_UNAVAILABLE',
];
/** What everybody may get. */
const OPEN: readonly ErrorCode[] = ['ORIGIN_NOT_ALLOWED', 'INTERNAL_ERROR'];

/** A path of the route table as OpenAPI writes it. */
export const openApiPath = (path: string): string => path.replace(/:(\w+)/g, '{$1}');

/** The REST interface as an OpenAPI 3.1 document, made of the tables and schemas that the program itself uses. */
export function openApi(version: string): JsonSchema {
  const paths: Record<string, Record<string, JsonSchema>> = {};
  for (const [route, operation] of Object.entries(OPERATIONS)) {
    const [method, path] = route.split(' ') as [string, string];
    paths[openApiPath(path)] = {
      ...paths[openApiPath(path)],
      [method.toLowerCase()]: operationObject(path, operation),
    };
  }
  return {
    openapi: '3.1.0',
    info: {
      title: 'taskwire',
      version,
      description:
        'Tasks over HTTP. Live messages are described by /api/asyncapi.json. Every GET is answered to HEAD too; a method that a path does not have gets 405.',
      license: { name: 'MIT', identifier: 'MIT' },
    },
    servers: [{ url: '/' }],
    tags: [...new Set(Object.values(OPERATIONS).map(({ tag }) => tag))].map((name) => ({ name })),
    paths,
    components: {
      schemas: { ...namedSchemas(BODIES, INPUT), ...namedSchemas(ANSWERS, OUTPUT) },
      responses: Object.fromEntries(STATUSES.map((status) => [`Status${status}`, errorResponse(status)])),
      headers: {
        RequestId: { description: 'Yours, if you sent a usable one.', schema: { type: 'string' } },
        StreamSeq: { description: 'Position of the state that the answer shows.', schema: { type: 'integer' } },
        StreamEpoch: { description: 'The stream of that position.', schema: { type: 'string' } },
        RetryAfter: { description: 'Seconds.', schema: { type: 'integer' } },
      },
      securitySchemes: {
        apiKey: { type: 'apiKey', in: 'header', name: 'X-Api-Key' },
        token: { type: 'http', scheme: 'bearer', description: 'It reads what it names and nothing else.' },
        tokenInQuery: {
          type: 'apiKey',
          in: 'query',
          name: 'token',
          description: 'For EventSource, which has no headers.',
        },
      },
    },
  };
}

function operationObject(path: string, operation: Operation): JsonSchema {
  const { id, tag, summary, access, body, bodyOptional } = operation;
  return {
    operationId: id,
    tags: [tag],
    summary,
    security: SECURITY[access],
    parameters: [...pathParameters(path), ...queryParameters(operation.query), ...(operation.once ? [ONCE] : [])],
    ...(body === undefined
      ? {}
      : { requestBody: { required: bodyOptional !== true, content: { 'application/json': { schema: refOf(body) } } } }),
    responses: responses(operation),
  };
}

const pathParameters = (path: string): JsonSchema[] =>
  [...path.matchAll(/:(\w+)/g)].map(([, name]) => ({
    name,
    in: 'path',
    required: true,
    schema: PARAMETERS[name!],
  }));

const queryParameters = (query: z.ZodObject | undefined): JsonSchema[] =>
  Object.entries(query?.shape ?? {}).map(([name, field]) => {
    const schema = inlineSchema(field as z.ZodType, INPUT);
    return {
      name,
      in: 'query',
      required: !(field as z.ZodType).safeParse(undefined).success,
      schema,
      ...(schema['type'] === 'array' ? { style: 'form', explode: false } : {}),
    };
  });

function responses(operation: Operation): Record<string, JsonSchema> {
  const { access, answers, errors = [], positioned, alsoAs = {}, text } = operation;
  const codes = [...OPEN, ...(access === 'open' ? [] : COMMON), ...errors];
  const refused = Object.fromEntries(
    codes.map((code) => [statusOf(code), { $ref: `#/components/responses/Status${statusOf(code)}` }]),
  );
  const headers = {
    'X-Request-Id': { $ref: '#/components/headers/RequestId' },
    ...(positioned === undefined
      ? {}
      : {
          [POSITION_HEADERS.seq]: { $ref: '#/components/headers/StreamSeq' },
          [POSITION_HEADERS.epoch]: { $ref: '#/components/headers/StreamEpoch' },
        }),
  };
  const asText = Object.entries(text === undefined ? alsoAs : { [text]: '' }).map(([type, description]) => [
    type,
    { schema: { type: 'string', ...(description === '' ? {} : { description }) } },
  ]);
  const given = Object.entries(answers).map(([status, name]) => {
    const content = {
      ...(name === null ? {} : { 'application/json': { schema: refOf(name) } }),
      ...(Number(status) === 200 ? Object.fromEntries(asText) : {}),
    };
    return [
      status,
      {
        description: DESCRIPTIONS[status] ?? 'Done.',
        headers,
        ...(Object.keys(content).length === 0 ? {} : { content }),
      },
    ];
  });
  return { ...refused, ...Object.fromEntries(given) };
}

const DESCRIPTIONS: Readonly<Record<string, string>> = {
  101: 'The connection is a WebSocket now.',
  201: 'It is made, and committed.',
  207: 'Some items were refused; each has its own result.',
  503: 'This worker takes no new work.',
};

/** The answer with one status: the errors of the one table that have it. */
function errorResponse(status: number): JsonSchema {
  const codes = CODES.filter((code) => statusOf(code) === status);
  const list = codes.map((code) => `\`${code}\`: ${ERRORS[code].message}`).join('. ');
  const code = { properties: { code: { enum: codes } } };
  return {
    description: list,
    headers: {
      'X-Request-Id': { $ref: '#/components/headers/RequestId' },
      ...(status === 429 || status === 503 ? { 'Retry-After': { $ref: '#/components/headers/RetryAfter' } } : {}),
    },
    content: { 'application/json': { schema: { allOf: [refOf('Error'), { properties: { error: code } }] } } },
  };
}
