import { createRequire } from 'node:module';
import { Ajv } from 'ajv';
import { expect } from 'chai';
import fc from 'fast-check';
import { documents } from '../../src/contract/documents.js';
import { authData, clientMessages, subscribeData } from '../../src/contract/messages.js';
import { parseSubscription, parseUnsubscription } from '../../src/hub/requests.js';
import { parseAuth } from '../../src/protocol/auth.js';
import { readClientMessage } from '../../src/protocol/client-message.js';
import { ERRORS, type ErrorCode, errorEntry } from '../../src/protocol/errors.js';
import { EVENT_TYPES } from '../../src/protocol/events.js';
import { CLIENT_MESSAGE_TYPES, CONTROL_TYPES } from '../../src/protocol/messages.js';

// biome-ignore lint/suspicious/noExplicitAny: the test looks into all of the document
type Any = any;

const load = createRequire(import.meta.url);

describe('the AsyncAPI document', () => {
  const text = JSON.stringify(documents.asyncapi());
  const document: Any = JSON.parse(text);

  it('passes the official schema', () => {
    const ajv = new Ajv({ strict: false, validateFormats: false });
    const valid = ajv.compile(load('@asyncapi/specs/schemas/3.0.0-without-$id.json') as object);
    expect(valid(document), JSON.stringify(valid.errors?.slice(0, 5))).to.equal(true);
    expect(document.asyncapi).to.equal('3.0.0');
  });

  it('has the messages of the program on both wires, and no others', () => {
    const server = [...EVENT_TYPES, ...CONTROL_TYPES];
    const named = (wire: string, ending: string) =>
      Object.keys(document.channels[wire].messages)
        .filter((name) => name.endsWith(ending))
        .map((name) => name.slice(0, name.length - ending.length))
        .sort();
    expect(named('plain', '')).to.deep.equal([...CLIENT_MESSAGE_TYPES, ...server].sort());
    expect(named('socketio', '_data')).to.deep.equal([...CLIENT_MESSAGE_TYPES].sort());
    expect(named('socketio', '_ack')).to.deep.equal([...CLIENT_MESSAGE_TYPES, 'ERROR'].sort());
    const rest = named('socketio', '').filter((name) => !/_(?:data|ack)$/.test(name));
    expect(rest).to.deep.equal([...server].sort());
    for (const wire of ['plain', 'socketio']) {
      const sent = document.operations[`${wire}_send`].messages.map(({ $ref }: Any) => $ref.split('/').at(-1));
      expect(sent.sort()).to.deep.equal([...server].sort());
    }
  });

  it('has the errors of the program, and no others, with their close codes', () => {
    const codes = Object.keys(ERRORS) as ErrorCode[];
    expect(document.components.schemas.ErrorBody.properties.code.enum).to.deep.equal(codes);
    const closing = codes.flatMap((code) => {
      const { close, retry } = errorEntry(code);
      return close === undefined ? [] : [[code, { close, retry }]];
    });
    expect(document.channels.plain['x-close-codes']).to.deep.equal(Object.fromEntries(closing));
  });

  it('has no reference that leads nowhere', () => {
    const refs = [...text.matchAll(/"\$ref":"([^"]+)"/g)].map(([, ref]) => ref!);
    expect(refs.length).to.be.greaterThan(50);
    for (const ref of refs) {
      const found = ref
        .slice(2)
        .split('/')
        .reduce((value: Any, name) => value?.[name], document);
      expect(found, ref).to.be.an('object');
    }
  });
});

describe('the parsers of messages and the schemas of the document', () => {
  const takes = (read: () => unknown): boolean => {
    try {
      read();
      return true;
    } catch {
      return false;
    }
  };

  const id = fc.oneof(fc.constantFrom<unknown>('1', 1, '01', 2, 'alice', 1.5, null, 2 ** 60), fc.jsonValue());
  const number = fc.oneof(fc.integer({ min: -2, max: 3 }), fc.double(), fc.constant(2 ** 53));
  const odd = fc.constantFrom<unknown>(null, '', [], {}, true, 'x'.repeat(65), Number.NaN);
  const snapshot = fc.record(
    { parts: fc.oneof(fc.boolean(), odd), limit: fc.oneof(number, odd), before: number, part: fc.boolean() },
    { requiredKeys: [] },
  );
  const room = fc.constantFrom('job:1', 'task:1', 'user:alice', 'job:', 'job', 'user', `job:${2 ** 60}`, 'other:1', '');
  /** Requests near to those that are taken: some fields, most of them right. */
  const request = fc.record(
    {
      room: fc.oneof({ weight: 9, arbitrary: room }, odd),
      since: fc.oneof({ weight: 5, arbitrary: fc.nat() }, number, odd),
      epoch: fc.oneof({ weight: 5, arbitrary: fc.string({ maxLength: 70 }) }, odd),
      snapshot: fc.oneof({ weight: 3, arbitrary: fc.boolean() }, snapshot, odd),
      job_id: id,
      task_id: id,
      user_id: id,
    },
    { requiredKeys: ['room'] },
  );
  const some = fc.oneof(
    { weight: 4, arbitrary: request },
    { weight: 3, arbitrary: fc.record({ rooms: fc.oneof(fc.array(fc.oneof(room, request), { maxLength: 3 }), odd) }) },
    {
      weight: 1,
      arbitrary: fc
        .tuple(request, fc.dictionary(fc.string(), fc.jsonValue(), { maxKeys: 1 }))
        .map(([a, b]) => ({ ...a, ...b })),
    },
    fc.jsonValue() as fc.Arbitrary<unknown>,
  );
  /** As JSON brings it. */
  const data = some.map((value) => JSON.parse(JSON.stringify(value)) as unknown);

  it('take the same SUBSCRIBE', () => {
    const counts = { taken: 0, refused: 0 };
    fc.assert(
      fc.property(data, (value) => {
        const taken = takes(() => parseSubscription(value, 1_000));
        counts[taken ? 'taken' : 'refused'] += 1;
        expect(subscribeData.safeParse(value).success).to.equal(taken);
      }),
      { numRuns: 3_000 },
    );
    expect(Math.min(counts.taken, counts.refused)).to.be.greaterThan(300);
  });

  it('take the same UNSUBSCRIBE, each room of a list by itself', () => {
    fc.assert(
      fc.property(data, (value) => {
        const taken = takes(() => {
          const refused = parseUnsubscription(value, 1_000).requests.find((request) => 'error' in request);
          if (refused !== undefined) {
            throw refused;
          }
        });
        expect(subscribeData.safeParse(value).success).to.equal(taken);
      }),
      { numRuns: 1_000 },
    );
  });

  it('take the same AUTH', () => {
    const text = fc.oneof(fc.string(), fc.constantFrom<unknown>(undefined, '', null, 42, true, ['x'], { x: 1 }));
    const auth = fc.oneof(
      fc.record({ token: text, api_key: text }, { requiredKeys: [] }),
      fc.record({ token: text, tokn: text }, { requiredKeys: [] }),
      fc.constantFrom<unknown>(null, 'token', [], undefined, {}),
    );
    const asJson = auth.map((value) => (value === undefined ? value : (JSON.parse(JSON.stringify(value)) as unknown)));
    fc.assert(
      fc.property(asJson, (value) => {
        expect(authData.safeParse(value).success).to.equal(takes(() => parseAuth(value)));
      }),
    );
  });

  it('take the same envelope of a message', () => {
    const { PING } = clientMessages;
    const message = fc.record(
      {
        type: fc.constant('PING'),
        data: fc.constantFrom(null, {}),
        request_id: fc.oneof(
          fc.constantFrom<unknown>(null, true, 7, 1e300, '', 'x'.repeat(128), 'x'.repeat(129), [], {}, '7'),
          fc.integer(),
        ),
        timestamp: fc.jsonValue(),
        reqest_id: fc.constant(1),
        room: fc.constant('job:1'),
      },
      { requiredKeys: ['type'] },
    );
    fc.assert(
      fc.property(message, (value) => {
        const read = readClientMessage(JSON.stringify(value));
        expect(PING.safeParse(JSON.parse(JSON.stringify(value))).success, JSON.stringify(value)).to.equal(
          read.error === undefined,
        );
      }),
      { numRuns: 1_000 },
    );
  });
});
