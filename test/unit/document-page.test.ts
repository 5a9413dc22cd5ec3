import { expect } from 'chai';
import { documents } from '../../src/contract/documents.js';
import { documentPage } from '../../src/contract/page.js';
import { schemaHtml } from '../../src/contract/schema-html.js';

// biome-ignore lint/suspicious/noExplicitAny: documents are looked into
type Any = any;

describe('the page of the documents', () => {
  const page = documents.page();
  const openapi = documents.openapi() as Any;
  const asyncapi = documents.asyncapi() as Any;

  it('shows every operation, parameter, status, message and field of both', () => {
    const shown = page.replace(/<[^>]+>/g, ' ').replace(/\s+/g, ' ');
    for (const [path, methods] of Object.entries<Any>(openapi.paths)) {
      for (const [method, operation] of Object.entries<Any>(methods)) {
        expect(shown).to.contain(`${method.toUpperCase()} ${path} ${operation.summary}`);
        const own = page.slice(page.indexOf(`id="rest-${operation.operationId}"`)).split('</details>')[0]!;
        for (const name of [
          ...operation.parameters.map(({ name }: Any) => name),
          ...Object.keys(operation.responses),
        ]) {
          expect(own).to.contain(`<code>${name}</code>`);
        }
      }
    }
    for (const [name, operation] of Object.entries<Any>(asyncapi.operations)) {
      expect(page).to.contain(`id="live-${name}"`);
      expect(shown).to.contain(operation.summary);
    }
    for (const [prefix, { components }] of [
      ['openapi', openapi],
      ['asyncapi', asyncapi],
    ] as const) {
      for (const [name, schema] of Object.entries<Any>(components.schemas)) {
        const own = page.slice(page.indexOf(`id="${prefix}-${name}"`)).split('</details>')[0]!;
        expect(own).to.match(/^id=/);
        for (const field of Object.keys(schema.properties ?? {})) {
          expect(own, name).to.contain(`<code>${field}</code>`);
        }
      }
    }
    expect(page).not.to.contain('undefined');
    expect(page).not.to.contain('[object');
  });

  it('has no script, takes nothing from elsewhere, and its links lead somewhere', () => {
    expect(page).not.to.match(/<script|<link|<img|\ssrc=|\son\w+=|@import|url\(/i);
    const ids = new Set([...page.matchAll(/\sid="([^"]+)"/g)].map(([, id]) => id));
    const targets = [...page.matchAll(/href="([^"]+)"/g)].map(([, target]) => target!);
    expect(targets.filter((target) => !(target.startsWith('#') && ids.has(target.slice(1))))).to.deep.equal([
      'openapi.json',
      'asyncapi.json',
    ]);
    expect(ids.size).to.equal([...page.matchAll(/\sid="/g)].length);
  });

  it('shows what a document says as text, whatever it says', () => {
    const odd = { ...openapi, info: { ...openapi.info, description: '<script>"&' } };
    expect(documentPage(odd, asyncapi)).to.contain('<p>&lt;script&gt;&quot;&amp;</p>');
    expect(schemaHtml({ const: '<b>' }, 'x')).to.contain('&quot;&lt;b&gt;&quot;');
    expect(schemaHtml({ type: ['string', 'null'], maxLength: 4 }, 'x')).to.match(/string \| null.*maxLength.*4/);
    expect(schemaHtml({ type: 'array', items: { $ref: '#/components/schemas/One' } }, 'x')).to.contain('href="#x-One"');
    expect(schemaHtml({ allOf: [{ enum: [1, 2] }, { anyOf: [{ type: 'null' }, true] }] }, 'x')).to.contain('any');
  });
});
