import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { build } from 'esbuild';
import { SNIPPETS, writeSnippets } from './snippets.js';

const HTML = '<!doctype html><title>tasks</title><div id="root"></div><script src="/app.js"></script>';

/** What a newcomer has: the page of the quick start of docs/client.md, and a server of his own with a route for tokens. */
export class PageServer {
  /** How long the tokens live, in seconds. */
  tokenSeconds = 900;
  private server: Server | undefined;

  /** @param parts `url`: what the page connects to; `api`: where its server gets tokens; `transport`: source of another transport */
  constructor(
    private readonly parts: {
      url: string;
      api: () => string;
      key: string;
      user: string;
      job: string;
      transport?: string;
    },
  ) {}

  get url(): string {
    return `http://127.0.0.1:${(this.server!.address() as AddressInfo).port}`;
  }

  async start(): Promise<void> {
    writeSnippets();
    const script = await this.bundle();
    this.server = createServer((request, response) => {
      if (request.url === '/app.js') {
        response.setHeader('content-type', 'text/javascript').end(script);
      } else if (request.url === '/tw-token') {
        this.token().then(
          (token) => response.end(token),
          () => response.writeHead(503).end(),
        );
      } else {
        response.setHeader('content-type', 'text/html').end(request.url === '/' ? HTML : '<!doctype html>elsewhere');
      }
    });
    this.server.listen(0, '127.0.0.1');
    await once(this.server, 'listening');
  }

  stop(): void {
    this.server?.closeAllConnections();
    this.server?.close();
  }

  private async token(): Promise<string> {
    const answer = await fetch(`${this.parts.api()}/api/tokens`, {
      method: 'POST',
      headers: { 'x-api-key': this.parts.key, 'content-type': 'application/json' },
      body: JSON.stringify({ user: this.parts.user, expires_in: this.tokenSeconds }),
    });
    if (!answer.ok) {
      throw new Error(String(answer.status));
    }
    return ((await answer.json()) as { token: string }).token;
  }

  private async bundle(): Promise<string> {
    const { url, job, transport } = this.parts;
    const { outputFiles } = await build({
      stdin: {
        contents: `
          import { createElement } from 'react';
          import { createRoot } from 'react-dom/client';
          import { App } from './newcomer.tsx';
          createRoot(document.getElementById('root')).render(createElement(App, { id: ${JSON.stringify(job)} }));`,
        resolveDir: SNIPPETS,
      },
      bundle: true,
      write: false,
      minify: true,
      jsx: 'automatic',
      define: { 'process.env.NODE_ENV': '"production"' },
      logLevel: 'error',
      plugins: [
        {
          name: 'address',
          setup: ({ onLoad }) =>
            onLoad({ filter: /newcomer\.tsx$/ }, async ({ path }) => {
              const { readFile } = await import('node:fs/promises');
              // The page as it is in the document, but for the address, and the transport where another one is tried.
              let contents = (await readFile(path, 'utf8')).replace('http://localhost:9002', url);
              if (transport !== undefined) {
                const [imports, value] = transport.split('\n') as [string, string];
                contents = `${imports}\n${contents.replace("url: '", `transport: ${value}, url: '`)}`;
              }
              return { contents, loader: 'tsx' };
            }),
        },
      ],
    });
    return outputFiles[0]!.text;
  }
}
