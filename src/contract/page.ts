import { schemaHtml, escapeHtml as text } from './schema-html.js';
import type { JsonSchema } from './schemas.js';

/** Part of a document. What the page does not find there it leaves out. */
// biome-ignore lint/suspicious/noExplicitAny: a document has whatever form its specification gives it
type Part = any;

const STYLE = `
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { margin: 0 auto; max-width: 64rem; padding: 1rem 1.5rem 6rem; }
code, pre { font-family: ui-monospace, monospace; font-size: .9em; }
h1 { margin-bottom: 0; } h2 { border-bottom: 1px solid #8886; margin-top: 3rem; } h3 { margin-top: 2rem; }
nav { columns: 3 16rem; } nav a { display: block; overflow-wrap: anywhere; }
details { border: 1px solid #8886; border-radius: 6px; margin: .5rem 0; padding: .4rem .8rem; }
summary { cursor: pointer; overflow-wrap: anywhere; }
summary code { font-weight: 600; }
ul.fields { border-left: 2px solid #8883; list-style: none; margin: .2rem 0; padding-left: .9rem; }
.type { color: #0969da; } .must { color: #cf222e; } .note { opacity: .75; }
@media (prefers-color-scheme: dark) { .type { color: #79b8ff; } .must { color: #ff7b72; } }
`;

/**
 * Both documents as one page of plain HTML: no script, nothing from elsewhere.
 * @param openapi an OpenAPI 3.1 document
 * @param asyncapi an AsyncAPI 3 document
 */
export function documentPage(openapi: JsonSchema, asyncapi: JsonSchema): string {
  const [rest, live] = [new Rest(openapi), new Live(asyncapi)];
  const { title, version } = (openapi as Part).info;
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>${text(title)} ${text(version)}</title>
<style>${STYLE}</style>
</head>
<body>
<h1>${text(title)} <small>${text(version)}</small></h1>
<p class="note">For machines: <a href="openapi.json">openapi.json</a>, <a href="asyncapi.json">asyncapi.json</a></p>
<nav>${rest.links()}${live.links()}</nav>
<h2 id="rest">REST</h2>
${rest.html()}
<h2 id="live">Live</h2>
${live.html()}
</body>
</html>
`;
}

const link = (id: string, label: string): string => `<a href="#${text(id)}">${text(label)}</a>`;

const section = (id: string, head: string, body: string): string =>
  `<details id="${text(id)}"><summary>${head}</summary>${body}</details>`;

const paragraph = (words: string | undefined): string => (words === undefined ? '' : `<p>${text(words)}</p>`);

/** What a reference within a document points to. */
const follow = (document: JsonSchema, part: Part): Part =>
  typeof part?.$ref === 'string'
    ? part.$ref
        .slice(2)
        .split('/')
        .reduce((at: Part, name: string) => at[name.replaceAll('~1', '/').replaceAll('~0', '~')], document)
    : part;

const schemas = (document: JsonSchema, prefix: string): string =>
  Object.entries<JsonSchema>((document as Part).components.schemas)
    .map(([name, schema]) => section(`${prefix}-${name}`, `<code>${text(name)}</code>`, schemaHtml(schema, prefix)))
    .join('');

class Rest {
  private readonly operations: ReadonlyArray<{ id: string; method: string; path: string; operation: Part }>;

  constructor(private readonly document: JsonSchema) {
    this.operations = Object.entries<Part>((document as Part).paths).flatMap(([path, methods]) =>
      Object.entries<Part>(methods).map(([method, operation]) => ({
        id: `rest-${operation.operationId}`,
        method: method.toUpperCase(),
        path,
        operation,
      })),
    );
  }

  links(): string {
    return this.operations.map(({ id, method, path }) => link(id, `${method} ${path}`)).join('');
  }

  html(): string {
    const { info, tags } = this.document as Part;
    const groups = tags.map(({ name }: Part) => {
      const own = this.operations.filter(({ operation }) => operation.tags.includes(name));
      return `<h3>${text(name)}</h3>${own.map((one) => this.operation(one)).join('')}`;
    });
    return `${paragraph(info.description)}${groups.join('')}<h3>Bodies</h3>${schemas(this.document, 'openapi')}`;
  }

  private operation({ id, method, path, operation }: Rest['operations'][number]): string {
    const { summary, security, parameters, requestBody, responses } = operation;
    const credentials = security.map((one: Part) => Object.keys(one).join(' and ') || 'none').join(', or ');
    const fields = parameters.map(
      (one: Part) =>
        `<li><code>${text(one.name)}</code> <span class="note">${text(one.in)}</span>
        ${one.required ? '<span class="must">required</span>' : ''} ${schemaHtml(one.schema, 'openapi')} ${text(one.description ?? '')}</li>`,
    );
    const body = requestBody === undefined ? '' : `<h4>Body</h4>${this.content(requestBody.content)}`;
    const answers = Object.entries<Part>(responses).map(([status, reference]) => {
      const answer = follow(this.document, reference);
      return `<li><code>${status}</code> ${text(answer.description)}${this.content(answer.content)}</li>`;
    });
    return section(
      id,
      `<code>${method} ${text(path)}</code> ${text(summary)}`,
      `<p class="note">Credentials: ${text(credentials)}</p>
      ${fields.length === 0 ? '' : `<h4>Parameters</h4><ul class="fields">${fields.join('')}</ul>`}${body}
      <h4>Answers</h4><ul class="fields">${answers.join('')}</ul>`,
    );
  }

  private content(content: Part): string {
    return Object.entries<Part>(content ?? {})
      .map(([type, { schema }]) => `<div><code>${text(type)}</code> ${schemaHtml(schema, 'openapi')}</div>`)
      .join('');
  }
}

class Live {
  constructor(private readonly document: JsonSchema) {}

  links(): string {
    return this.operations()
      .map(({ id, name }) => link(id, name))
      .join('');
  }

  html(): string {
    const { info, servers, channels } = this.document as Part;
    const groups = Object.entries<Part>(channels).map(([name, channel]) => {
      const own = this.operations().filter(({ channelName }) => channelName === name);
      const closes = Object.entries<Part>(channel['x-close-codes']).map(
        ([code, { close, retry }]) => `<li><code>${close} ${text(code)}</code> come back: ${text(retry)}</li>`,
      );
      return `<h3>${text(channel.title)}</h3>${paragraph(servers[name]?.description)}${paragraph(channel.description)}
        <p class="note">Address: <code>${text(channel.address)}</code></p>
        ${own.map((one) => this.operation(one)).join('')}
        ${section(`live-${name}-close`, 'Close codes', `<ul class="fields">${closes.join('')}</ul>`)}`;
    });
    return `${paragraph(info.description)}${groups.join('')}<h3>Messages</h3>${schemas(this.document, 'asyncapi')}`;
  }

  private operations(): Array<{ id: string; name: string; channelName: string; operation: Part }> {
    return Object.entries<Part>((this.document as Part).operations).map(([name, operation]) => ({
      id: `live-${name}`,
      name: name.replace('_', ' '),
      channelName: operation.channel.$ref.split('/').at(-1),
      operation,
    }));
  }

  private operation({ id, name, operation }: ReturnType<Live['operations']>[number]): string {
    const { action, summary, messages, reply } = operation;
    const word = action === 'receive' ? 'A client sends' : 'The server sends';
    const answers = reply === undefined ? '' : `<h4>Answered by</h4>${this.messages(reply.messages)}`;
    return section(
      id,
      `<code>${text(name)}</code> ${text(summary)}`,
      `<h4>${word}</h4>${this.messages(messages)}${answers}`,
    );
  }

  private messages(references: Part): string {
    const items = references.map((reference: Part) => {
      const message = follow(this.document, follow(this.document, reference));
      return `<li>${text(message.title)} ${schemaHtml(message.payload, 'asyncapi')}</li>`;
    });
    return `<ul class="fields">${items.join('')}</ul>`;
  }
}
