import { z } from 'zod';

/** A type without `readonly`, in a form that can be compared. */
type Plain<Value> = Value extends object
  ? { -readonly [Field in keyof Value]: Plain<Exclude<Value[Field], undefined>> }
  : Value;
type Same<A, B> = (<X>() => X extends Plain<A> ? 1 : 2) extends <X>() => X extends Plain<B> ? 1 : 2 ? true : false;

/**
 * `schemaOf<TaskRow>()(schema)` is the schema, and compiles only while it has exactly the fields of `TaskRow`, with the
 * same types, and the same of them may be absent.
 */
export const schemaOf =
  <Type>() =>
  <Schema extends z.ZodType>(
    schema: Schema,
    ..._same: Same<z.output<Schema>, Type> extends true ? [] : [differs: 'the schema differs from its type']
  ): Schema =>
    schema;

export type JsonSchema = Readonly<Record<string, unknown>>;

export interface SchemaForm {
  /** `input`: what may be sent to the server. `output`: what it sends. */
  readonly io: 'input' | 'output';
  readonly target: 'draft-2020-12' | 'draft-07';
}

/** A reference to a schema of a document, by its name. OpenAPI and AsyncAPI keep them at the same place. */
export const refOf = (name: string): { readonly $ref: string } => ({ $ref: `#/components/schemas/${name}` });

/** JSON Schemas by name; a schema that stands in another one becomes a reference there. */
export function namedSchemas(
  schemas: Readonly<Record<string, z.ZodType>>,
  form: SchemaForm,
): Record<string, JsonSchema> {
  const registry = z.registry<{ id: string }>();
  for (const [id, schema] of Object.entries(schemas)) {
    registry.add(schema, { id });
  }
  const made = z.toJSONSchema(registry, { ...form, unrepresentable: 'any', uri: (id) => refOf(id).$ref });
  return Object.fromEntries(Object.entries(made.schemas).map(([id, schema]) => [id, bare(schema)]));
}

/** The JSON Schema of a schema that needs no name. */
export const inlineSchema = (schema: z.ZodType, form: SchemaForm): JsonSchema =>
  bare(z.toJSONSchema(schema, { ...form, unrepresentable: 'any' }));

/** A schema within a document: it has neither a dialect nor an address of its own. */
const bare = ({ $schema: _dialect, $id: _address, ...rest }: Readonly<Record<string, unknown>>): JsonSchema => rest;
