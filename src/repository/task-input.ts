import { z } from 'zod';
import { TaskwireError } from '../protocol/errors.js';
import { nearestField } from '../protocol/fields.js';
import { meant } from '../protocol/nearest.js';
import { ID_PATTERNS, isJobId, isUserId } from '../protocol/rooms.js';

// biome-ignore lint/suspicious/noControlCharactersInRegex: NUL is what is looked for
const STORABLE = /^[^\u0000\uD800-\uDFFF]*$/u;

/** Text that Postgres can keep, as text and within JSON: without NUL and without half of a surrogate pair. */
const text = (max: number) =>
  z.string().max(max).regex(STORABLE, 'Invalid string: must not contain NUL or half of a surrogate pair');

/** Nesting and text of a JSON value that is kept as it is. */
const MAX_JSON_DEPTH = 32;
const MAX_JSON_LENGTH = 65_536;

function isStorableJson(value: unknown, depth = 0): boolean {
  if (typeof value === 'string') {
    return STORABLE.test(value);
  }
  if (typeof value !== 'object' || value === null) {
    return value === null || typeof value === 'boolean' || Number.isFinite(value);
  }
  if (depth >= MAX_JSON_DEPTH) {
    return false;
  }
  return Array.isArray(value)
    ? value.every((item) => isStorableJson(item, depth + 1))
    : Object.entries(value).every(([key, item]) => STORABLE.test(key) && isStorableJson(item, depth + 1));
}

/** Characters of a number as Postgres prints it within JSON: with all of its digits. */
function printedLength(value: number): number {
  const [digits = '', exponent = '0'] = String(value).split('e');
  return digits.length + Math.abs(Number(exponent));
}

/** Characters by which a JSON value is longer in Postgres than here: `1e308` is five here and 309 there. */
function expansion(value: unknown): number {
  if (typeof value === 'number') {
    return printedLength(value) - String(value).length;
  }
  if (typeof value !== 'object' || value === null) {
    return 0;
  }
  return Object.values(value).reduce<number>((sum, item) => sum + expansion(item), 0);
}

const json = z.custom<unknown>(
  (value) => isStorableJson(value) && JSON.stringify(value).length + expansion(value) <= MAX_JSON_LENGTH,
  `wants JSON of up to ${MAX_JSON_LENGTH} characters, with all digits of its numbers, nested up to ${MAX_JSON_DEPTH} deep`,
);

const integer = z.number().int().nonnegative().max(Number.MAX_SAFE_INTEGER);

/** A job id: decimal text of up to 78 digits, or a number that is exact. */
export const jobIdInput = z
  .union([
    z.string().max(78).meta({ pattern: ID_PATTERNS.job }),
    integer,
    z.bigint().meta({ type: 'integer', minimum: 0, description: 'Read to its last digit, whatever its size.' }),
  ])
  .transform(String)
  .refine(isJobId, { message: 'wants an unsigned integer of up to 78 digits' });

export const taskIdInput = z.number().int().positive().max(Number.MAX_SAFE_INTEGER);

export const userIdInput = z
  .string()
  .refine(isUserId, { message: 'wants 1 to 128 printable characters' })
  .meta({ pattern: ID_PATTERNS.user });

const status = z.string().regex(/^[A-Za-z0-9_-]{1,32}$/, 'wants 1 to 32 letters, digits, - or _');
const hash = text(256);
const fee = z.number().finite().nonnegative();
/** In events as it will be read back: in UTC, with milliseconds. */
const rfc3339 = z.iso
  .datetime({ offset: true, message: 'wants an RFC 3339 date and time' })
  .refine((value) => new Date(value).getTime() >= 0, { message: 'wants a time from 1970 on' })
  .transform((value) => new Date(value).toISOString());

/** Most items of one batch. */
export const MAX_BATCH = 500;

/** Optional fields of both updates. */
const outcome = {
  task_status: status.optional(),
  task_error: text(4_096).nullable().optional(),
  tx_url: text(2_048).nullable().optional(),
};

export const jobInput = z.strictObject({ job_id: jobIdInput, user_id: userIdInput });

export const createTaskInput = z.strictObject({
  job_id: jobIdInput,
  task_definition_id: integer,
  is_imua: z.boolean().default(false),
});

export const executionInput = z.strictObject({
  task_performer_id: integer.optional(),
  execution_timestamp: rfc3339.optional(),
  execution_tx_hash: hash.optional(),
  proof_of_task: text(65_536).optional(),
  task_opx_cost: fee.optional(),
  converted_arguments: json.optional(),
  ...outcome,
});

export const attestationInput = z.strictObject({
  task_number: integer.optional(),
  task_attester_ids: z.array(integer).max(1_000).optional(),
  tp_signature: text(4_096).optional(),
  ta_signature: text(4_096).optional(),
  task_submission_tx_hash: hash.optional(),
  is_successful: z.boolean().optional(),
  ...outcome,
});

export const feeInput = z.strictObject({ fee });

export const statusInput = z.strictObject({
  task_number: integer.nullish(),
  task_status: status,
  task_submission_tx_hash: hash.nullish(),
});

/**
 * Checks a value against a schema.
 * @param name of the value, where it is no object: the field that is wrong
 * @throws TaskwireError INVALID_REQUEST, with the fields that are wrong in `details` and in the message
 */
export function parseInput<Schema extends z.ZodType>(schema: Schema, value: unknown, name?: string): z.output<Schema> {
  const result = schema.safeParse(value);
  if (!result.success) {
    throw invalidFields(
      result.error.issues.flatMap((issue) => {
        const path = [...(name === undefined ? [] : [name]), ...issue.path].join('.');
        const { code, message } = issue;
        return code === 'unrecognized_keys'
          ? issue.keys.map((key) => ({
              field: path === '' ? key : `${path}.${key}`,
              message: `is no field of this${meant(nearestField(key, path === '' ? fieldsOf(schema) : []))}`,
            }))
          : [{ field: path, message }];
      }),
    );
  }
  return result.data;
}

/** The fields of a schema that is an object. */
const fieldsOf = (schema: z.ZodType): string[] => (schema instanceof z.ZodObject ? Object.keys(schema.shape) : []);

/** Fields that the message names; `details` has all. */
const SAID_FIELDS = 3;

/** INVALID_REQUEST that says which fields are wrong. */
export function invalidFields(
  details: ReadonlyArray<{ readonly field: string; readonly message: string }>,
): TaskwireError {
  const said = details
    .slice(0, SAID_FIELDS)
    .map(({ field, message }) => (field === '' ? message : `${field}: ${message}`));
  return new TaskwireError('INVALID_REQUEST', { message: `Invalid request: ${said.join('; ')}`, details });
}
