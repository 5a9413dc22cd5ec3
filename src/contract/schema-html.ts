import type { JsonSchema } from './schemas.js';

const ENTITIES: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };

/** Text as it may stand between tags and in attributes. */
export const escapeHtml = (value: unknown): string => String(value).replace(/[&<>"]/g, (sign) => ENTITIES[sign]!);

/** Keywords that bound a value, in the words of JSON Schema. */
const BOUNDS = [
  'format',
  'pattern',
  'minimum',
  'exclusiveMinimum',
  'maximum',
  'exclusiveMaximum',
  'minLength',
  'maxLength',
  'minItems',
  'maxItems',
  'default',
];

/**
 * A schema as HTML: its type, what bounds it, and a list of its fields.
 * @param prefix of the anchors of named schemas
 */
export function schemaHtml(schema: JsonSchema | boolean | undefined, prefix: string): string {
  if (typeof schema !== 'object') {
    return '<span class="type">any</span>';
  }
  const { description } = schema as { description?: string };
  const bounds = BOUNDS.filter((name) => schema[name] !== undefined).map(
    (name) => `${name} <code>${escapeHtml(JSON.stringify(schema[name]))}</code>`,
  );
  return [
    typeHtml(schema, prefix),
    bounds.length === 0 ? '' : `<span class="note">${bounds.join(', ')}</span>`,
    description === undefined ? '' : escapeHtml(description),
    fieldsHtml(schema, prefix),
  ].join(' ');
}

function typeHtml(schema: JsonSchema, prefix: string): string {
  const { $ref, type, items } = schema as { $ref?: string; type?: string | string[]; items?: JsonSchema };
  if ($ref !== undefined) {
    const name = $ref.split('/').at(-1)!;
    return `<a href="#${escapeHtml(`${prefix}-${name}`)}"><code>${escapeHtml(name)}</code></a>`;
  }
  if ('const' in schema) {
    return `<code>${escapeHtml(JSON.stringify(schema['const']))}</code>`;
  }
  if (Array.isArray(schema['enum'])) {
    return schema['enum'].map((value) => `<code>${escapeHtml(JSON.stringify(value))}</code>`).join(' | ');
  }
  for (const [keyword, sign] of [
    ['anyOf', ' | '],
    ['oneOf', ' | '],
    ['allOf', ' &amp; '],
  ] as const) {
    const among = schema[keyword];
    if (Array.isArray(among)) {
      return among.map((one: JsonSchema) => schemaHtml(one, prefix)).join(sign);
    }
  }
  if (items !== undefined) {
    return `<span class="type">list of</span> ${schemaHtml(items, prefix)}`;
  }
  return `<span class="type">${escapeHtml([type ?? 'any'].flat().join(' | '))}</span>`;
}

function fieldsHtml(schema: JsonSchema, prefix: string): string {
  const { properties = {}, required = [] } = schema as {
    properties?: Readonly<Record<string, JsonSchema>>;
    required?: readonly string[];
  };
  const fields = Object.entries(properties).map(
    ([name, field]) =>
      `<li><code>${escapeHtml(name)}</code>${required.includes(name) ? ' <span class="must">required</span>' : ''} ${schemaHtml(field, prefix)}</li>`,
  );
  return fields.length === 0 ? '' : `<ul class="fields">${fields.join('')}</ul>`;
}
