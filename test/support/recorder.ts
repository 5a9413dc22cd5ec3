import { Ajv, type ValidateFunction } from 'ajv';
import { Ajv2020 } from 'ajv/dist/2020.js';

// biome-ignore lint/suspicious/noExplicitAny: documents and messages of every form
type Any = any;

const OPTIONS = {
  strict: false,
  allErrors: true,
  formats: { 'date-time': /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)$/ },
} as const;

/** A request over REST, and what was answered. */
export interface Exchange {
  readonly method: string;
  /** With its query. */
  readonly path: string;
  readonly sent?: unknown;
  readonly status: number;
  readonly contentType: string;
  readonly headers: Headers;
  readonly answer: unknown;
}

/** Holds real traffic against the documents that the service itself serves. What differs stands in `problems`. */
export class Recorder {
  readonly problems: string[] = [];
  /** Operations that were called with success, by `operationId`. */
  readonly operations = new Set<string>();
  /** Names of the messages that went by, in the AsyncAPI document, after their wire. */
  readonly messages = new Set<string>();
  private readonly rest = new Ajv2020(OPTIONS);
  private readonly live = new Ajv(OPTIONS);
  private readonly compiled = new Map<string, ValidateFunction>();

  constructor(
    private readonly openapi: Any,
    private readonly asyncapi: Any,
  ) {}

  exchange({ method, path, sent, status, contentType, headers, answer }: Exchange): void {
    const operation = this.operationOf(method, path.split('?')[0]!);
    const where = `${method} ${path} ${status}`;
    if (operation === undefined) {
      if (status !== 404 && status !== 405) {
        this.problems.push(`${where}: there is no such operation`);
      }
      return;
    }
    const named = operation.responses[String(status)];
    if (named === undefined) {
      this.problems.push(`${where}: no such answer of ${operation.operationId}: ${JSON.stringify(answer)}`);
      return;
    }
    const response = named.$ref === undefined ? named : this.openapi.components.responses[named.$ref.split('/').at(-1)];
    const content = response.content?.[contentType.split(';')[0]!];
    if (content === undefined) {
      this.problems.push(`${where}: no such content: ${contentType}`);
    } else {
      this.check(this.rest, this.openapi, content.schema, answer, where);
    }
    for (const name of Object.keys(response.headers ?? {}).filter((name) => name.startsWith('X-Stream'))) {
      // The jobs of everybody have no one position.
      if (!headers.has(name) && (answer as Any).epoch !== undefined) {
        this.problems.push(`${where}: no header ${name}`);
      }
    }
    if (status < 300) {
      this.operations.add(operation.operationId);
      const schema = operation.requestBody?.content['application/json'].schema;
      if (sent !== undefined && status !== 207) {
        this.check(this.rest, this.openapi, schema ?? false, sent, `body of ${where}`);
      }
    }
  }

  /** A message on a wire, by its name in the document: what was sent, or received. */
  message(wire: 'plain' | 'socketio', name: string, payload: unknown): void {
    if (this.asyncapi.channels[wire].messages[name] === undefined) {
      this.problems.push(`${wire}: no message ${name}: ${JSON.stringify(payload)}`);
      return;
    }
    this.messages.add(`${wire} ${name}`);
    this.check(this.live, this.asyncapi, this.asyncapi.components.messages[name].payload, payload, `${wire} ${name}`);
  }

  private operationOf(method: string, path: string): Any {
    // A path without names in it goes before one with names, as in the route table.
    const paths = Object.keys(this.openapi.paths).sort((a, b) => a.split('{').length - b.split('{').length);
    const found = paths.find((template) => {
      const pattern = template.replace(/[.]/g, '\\.').replace(/\{\w+\}/g, '[^/]+');
      return new RegExp(`^${pattern}$`).test(path) && this.openapi.paths[template][method.toLowerCase()] !== undefined;
    });
    return found === undefined ? undefined : this.openapi.paths[found][method.toLowerCase()];
  }

  private check(ajv: Ajv, document: Any, schema: Any, value: unknown, where: string): void {
    const text = JSON.stringify(schema);
    const key = `${document.info.description} ${text}`;
    let valid = this.compiled.get(key);
    if (valid === undefined) {
      const local = (value: unknown) =>
        JSON.parse(JSON.stringify(value).replaceAll('#/components/schemas/', '#/$defs/'));
      valid = ajv.compile(schema === false ? false : { ...local(schema), $defs: local(document.components.schemas) });
      this.compiled.set(key, valid);
    }
    if (!valid(value)) {
      this.problems.push(`${where}: ${ajv.errorsText(valid.errors)}: ${JSON.stringify(value).slice(0, 1_000)}`);
    }
  }
}
