import { mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type * as client from '@taskwire/client';
import type * as hooks from '@taskwire/client/react';
import { build } from 'esbuild';
import { Window } from 'happy-dom';
import type * as React from 'react';
import type * as dom from 'react-dom/client';
import type * as ssr from 'react-dom/server';

const HOME = fileURLToPath(new URL('../../', import.meta.url));

/** React, its renderers and the hooks, bundled together. */
export interface Bundle {
  readonly React: typeof React;
  readonly dom: typeof dom;
  readonly ssr: typeof ssr;
  readonly hooks: typeof hooks;
  readonly client: typeof client;
}

const ENTRY = `
export * as React from 'react';
export * as dom from 'react-dom/client';
export * as ssr from 'react-dom/server';
export * as hooks from '@taskwire/client/react';
export * as client from '@taskwire/client';
`;

/** Where React and its renderers are. */
function homeOf(version: 18 | 19): Record<string, string> {
  const home = version === 18 ? join(HOME, '../../test/react-18') : HOME;
  const require = createRequire(join(home, 'package.json'));
  return Object.fromEntries(
    ['react', 'react-dom'].map((name) => [name, dirname(require.resolve(`${name}/package.json`))]),
  );
}

/** @param version of React */
export async function bundleFor(version: 18 | 19): Promise<{ bundle: Bundle; remove(): void }> {
  const dir = mkdtempSync(join(tmpdir(), 'taskwire-react-'));
  const outfile = join(dir, 'bundle.cjs');
  await build({
    stdin: { contents: ENTRY, resolveDir: HOME },
    bundle: true,
    platform: 'node',
    format: 'cjs',
    outfile,
    alias: homeOf(version),
    define: { 'process.env.NODE_ENV': '"development"' },
    logLevel: 'error',
  });
  const bundle = createRequire(import.meta.url)(outfile) as Bundle;
  return { bundle, remove: () => rmSync(dir, { recursive: true, force: true }) };
}

/** What React's `act` uses of a MessageChannel, without keeping the process alive. */
class QuietChannel {
  readonly port1: { onmessage: (() => void) | null } = { onmessage: null };
  readonly port2 = { postMessage: () => setImmediate(() => this.port1.onmessage?.()) };
}

/** A document for the time of a test. @returns takes it away again */
export function openDocument(): () => void {
  const window = new Window({ url: 'http://localhost/' });
  const { MessageChannel } = globalThis;
  const globals: Record<string, unknown> = {
    MessageChannel: QuietChannel,
    window,
    document: window.document,
    navigator: window.navigator,
    IS_REACT_ACT_ENVIRONMENT: true,
  };
  Object.assign(globalThis, globals);
  return () => {
    for (const name of Object.keys(globals)) {
      Reflect.deleteProperty(globalThis, name);
    }
    Object.assign(globalThis, { MessageChannel });
    void window.happyDOM.close();
  };
}
