import { validate } from '@readme/openapi-parser';
import { expect } from 'chai';
import { z } from 'zod';
import { ANSWERS } from '../../src/contract/answers.js';
import { documents } from '../../src/contract/documents.js';
import { openApiPath } from '../../src/contract/openapi.js';
import { BODIES, OPERATIONS } from '../../src/contract/operations.js';
import { schemaOf } from '../../src/contract/schemas.js';
import { ERRORS, type ErrorCode, errorEntry } from '../../src/protocol/errors.js';
import { servedRoutes } from '../support/routes.js';

// biome-ignore lint/suspicious/noExplicitAny: the test looks into all of the document
type Any = any;

/** Every `$ref` of a document. */
const refsOf = (text: string): string[] => [...text.matchAll(/"\$ref":"([^"]+)"/g)].map(([, ref]) => ref!);

describe('the OpenAPI document', () => {
  const text = JSON.stringify(documents.openapi());
  const document: Any = JSON.parse(text);

  it('passes the official schema', async () => {
    const result = await validate(JSON.parse(text));
    expect(result.valid, JSON.stringify(result)).to.equal(true);
    expect(document.openapi).to.match(/^3\.1\./);
  });

  it('has the routes of the program, and no others', () => {
    const served = servedRoutes().flatMap(({ path, methods }) =>
      methods.map((method) => `${method} ${openApiPath(path)}`),
    );
    const described = Object.entries<Any>(document.paths).flatMap(([path, item]) =>
      Object.keys(item).map((method) => `${method.toUpperCase()} ${path}`),
    );
    expect(described.sort()).to.deep.equal(served.sort());
    expect(served).to.have.length(Object.keys(OPERATIONS).length);
  });

  it('has the errors of the program, and no others, at their status', () => {
    const described = Object.entries<Any>(document.components.responses).flatMap(([name, response]) =>
      response.content['application/json'].schema.allOf[1].properties.error.properties.code.enum.map((code: string) => [
        code,
        name,
      ]),
    );
    const codes = Object.keys(ERRORS) as ErrorCode[];
    expect(Object.fromEntries(described)).to.deep.equal(
      Object.fromEntries(codes.map((code) => [code, `Status${errorEntry(code).status}`])),
    );
    expect(document.components.schemas.ErrorBody.properties.code.enum).to.deep.equal(codes);
  });

  it('has no reference that leads nowhere, and no schema that nothing refers to', () => {
    const refs = new Set(refsOf(text));
    for (const ref of refs) {
      const found = ref
        .slice(2)
        .split('/')
        .reduce((value: Any, name) => value?.[name], document);
      expect(found, ref).to.be.an('object');
    }
    const named = [...Object.keys(ANSWERS), ...Object.keys(BODIES)];
    expect(Object.keys(document.components.schemas).sort()).to.deep.equal(named.sort());
    expect(named.filter((name) => !refs.has(`#/components/schemas/${name}`))).to.deep.equal([]);
  });

  it('has different names for its operations', () => {
    const ids = Object.values(OPERATIONS).map(({ id }) => id);
    expect(new Set(ids).size).to.equal(ids.length);
  });

  it('names the ids of paths and the limits of queries', () => {
    const { parameters } = document.paths['/api/tasks/job/{job_id}'].get;
    expect(
      parameters.map(({ name, required, schema }: Any) => [name, required, schema.type, schema.maximum]),
    ).to.deep.equal([
      ['job_id', true, 'string', undefined],
      ['limit', false, 'integer', 1_000],
      ['after', false, 'integer', Number.MAX_SAFE_INTEGER],
    ]);
  });
});

describe('a schema of a type', () => {
  interface Thing {
    readonly name: string;
    readonly size?: number;
  }

  it('compiles only while it has the fields of the type', () => {
    const right = schemaOf<Thing>()(z.object({ name: z.string(), size: z.number().optional() }));
    expect(right.parse({ name: 'a' })).to.deep.equal({ name: 'a' });
    // @ts-expect-error a field is missing
    schemaOf<Thing>()(z.object({ name: z.string() }));
    // @ts-expect-error a field is not of the type
    schemaOf<Thing>()(z.object({ name: z.string(), size: z.number().optional(), colour: z.string().optional() }));
    // @ts-expect-error a field may not be absent in the type
    schemaOf<Thing>()(z.object({ name: z.string().optional(), size: z.number().optional() }));
    // @ts-expect-error a field is of another type
    schemaOf<Thing>()(z.object({ name: z.string().nullable(), size: z.number().optional() }));
  });
});
