import type { z } from 'zod';
import { ERRORS, type ErrorCode, errorEntry } from '../protocol/errors.js';
import { CLIENT_MESSAGE_TYPES, type ClientMessageType } from '../protocol/messages.js';
import { ENGINE_PATH, NAMESPACE } from '../protocol/paths.js';
import { acknowledgedError, acknowledgements, clientData, clientMessages, PARTS, serverMessages } from './messages.js';
import { type JsonSchema, namedSchemas, refOf } from './schemas.js';

const INPUT = { io: 'input', target: 'draft-07' } as const;
const OUTPUT = { io: 'output', target: 'draft-07' } as const;

type Wire = 'plain' | 'socketio';
type Schemas = Readonly<Record<string, z.ZodType>>;

/** The schemas of `schemas` under names that end with `suffix`. */
const suffixed = (schemas: Schemas, suffix: string): Schemas =>
  Object.fromEntries(Object.entries(schemas).map(([name, schema]) => [`${name}${suffix}`, schema]));

const DATA = '_data';
const ACK = '_ack';
const ACK_ERROR = `ERROR${ACK}`;

const SUMMARIES: Readonly<Record<ClientMessageType, string>> = {
  SUBSCRIBE: 'Joins rooms, from a position or a snapshot on.',
  UNSUBSCRIBE: 'Leaves rooms.',
  PING: 'Asks where the connection stands in its rooms.',
  AUTH: 'Brings credentials, or new ones.',
};

/** What answers a message of a client over the plain wire. */
const ANSWER: Readonly<Record<ClientMessageType, keyof typeof serverMessages>> = {
  SUBSCRIBE: 'SUCCESS',
  UNSUBSCRIBE: 'SUCCESS',
  PING: 'PONG',
  AUTH: 'SUCCESS',
};

const SERVER_TYPES = Object.keys(serverMessages);

/**
 * Both wires as an AsyncAPI 3 document. The channel `plain` has whole messages in both directions. The channel `socketio`
 * has the same messages: their type is the event; a client sends the data alone, and is answered by the acknowledgement.
 */
export function asyncApi(version: string): JsonSchema {
  return {
    asyncapi: '3.0.0',
    info: {
      title: 'taskwire',
      version,
      description:
        'Tasks as live messages. /api/openapi.json describes REST, and the streams over HTTP that carry the same messages.',
      license: { name: 'MIT' },
    },
    defaultContentType: 'application/json',
    servers: {
      plain: {
        host: 'localhost:9002',
        protocol: 'ws',
        description: 'A plain WebSocket.',
        security: ['apiKey', 'apiKeyInQuery', 'token', 'tokenInQuery'].map(securityRef),
      },
      socketio: {
        host: 'localhost:9002',
        pathname: ENGINE_PATH,
        protocol: 'socketio',
        description: `Socket.IO 4: io("http://localhost:9002${NAMESPACE}", { auth: { token } }), or { api_key }.`,
        security: ['apiKey', 'apiKeyInQuery', 'token', 'tokenInQuery'].map(securityRef),
      },
    },
    channels: { plain: channel('plain'), socketio: channel('socketio') },
    operations: { ...operations('plain'), ...operations('socketio') },
    components: {
      schemas: {
        ...namedSchemas({ ...clientMessages, ...suffixed(clientData, DATA) }, INPUT),
        ...namedSchemas(
          { ...PARTS, ...serverMessages, ...suffixed(acknowledgements, ACK), [ACK_ERROR]: acknowledgedError },
          OUTPUT,
        ),
      },
      messages: messages(),
      securitySchemes: {
        apiKey: { type: 'httpApiKey', name: 'X-Api-Key', in: 'header' },
        apiKeyInQuery: { type: 'httpApiKey', name: 'api_key', in: 'query' },
        token: { type: 'http', scheme: 'bearer' },
        tokenInQuery: { type: 'httpApiKey', name: 'token', in: 'query' },
      },
    },
  };
}

const securityRef = (name: string): JsonSchema => ({ $ref: `#/components/securitySchemes/${name}` });

/** Names of the messages of each wire. A server's message is the same on both. */
const namesOf = (wire: Wire): string[] =>
  wire === 'plain'
    ? [...CLIENT_MESSAGE_TYPES, ...SERVER_TYPES]
    : [
        ...CLIENT_MESSAGE_TYPES.map((type) => `${type}${DATA}`),
        ...CLIENT_MESSAGE_TYPES.map((type) => `${type}${ACK}`),
        ACK_ERROR,
        ...SERVER_TYPES,
      ];

function messages(): Record<string, JsonSchema> {
  const names = new Set([...namesOf('plain'), ...namesOf('socketio')]);
  return Object.fromEntries(
    [...names].map((name) => {
      const event = name.replace(/_(?:data|ack)$/, '');
      const summary = SUMMARIES[event as ClientMessageType];
      return [
        name,
        {
          name: event,
          title: titleOf(name, event),
          ...(summary === undefined || name.endsWith(ACK) ? {} : { summary }),
          payload: refOf(name),
        },
      ];
    }),
  );
}

function titleOf(name: string, event: string): string {
  if (name.endsWith(ACK)) {
    return name === ACK_ERROR ? 'The acknowledgement of a message that is refused' : `The acknowledgement of ${event}`;
  }
  return name.endsWith(DATA) ? `The argument of ${event}` : event;
}

function channel(wire: Wire): JsonSchema {
  return {
    address: NAMESPACE,
    title: wire === 'plain' ? 'Plain WebSocket' : 'Socket.IO namespace',
    description:
      wire === 'plain'
        ? 'Each message is the text of one JSON object.'
        : 'The name of a message is the event. What the server sends has the whole message as its argument. A message without a callback is answered by the event SUCCESS, PONG or ERROR.',
    servers: [{ $ref: `#/servers/${wire}` }],
    messages: Object.fromEntries(namesOf(wire).map((name) => [name, { $ref: `#/components/messages/${name}` }])),
    'x-close-codes': closeCodes(),
  };
}

/** How a connection ends, by error: the close code, and whether a client comes back by itself. */
const closeCodes = (): Record<string, { close: number; retry: string }> =>
  Object.fromEntries(
    (Object.keys(ERRORS) as ErrorCode[]).flatMap((code) => {
      const { close, retry } = errorEntry(code);
      return close === undefined ? [] : [[code, { close, retry }]];
    }),
  );

function operations(wire: Wire): Record<string, JsonSchema> {
  const at = { $ref: `#/channels/${wire}` };
  const message = (name: string) => ({ $ref: `#/channels/${wire}/messages/${name}` });
  const requests = CLIENT_MESSAGE_TYPES.map((type): [string, JsonSchema] => [
    `${wire}_${type}`,
    {
      action: 'receive',
      channel: at,
      summary: SUMMARIES[type],
      messages: [message(wire === 'plain' ? type : `${type}${DATA}`)],
      reply: {
        channel: at,
        messages: (wire === 'plain' ? [ANSWER[type], 'ERROR'] : [`${type}${ACK}`, ACK_ERROR]).map(message),
      },
    },
  ]);
  return {
    ...Object.fromEntries(requests),
    [`${wire}_send`]: {
      action: 'send',
      channel: at,
      summary: 'Whatever the server sends, asked or unasked.',
      messages: SERVER_TYPES.map(message),
    },
  };
}
