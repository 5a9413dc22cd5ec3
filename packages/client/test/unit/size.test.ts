import { readdirSync, readFileSync } from 'node:fs';
import { builtinModules } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { expect } from 'chai';
import { build } from 'esbuild';

const HOME = fileURLToPath(new URL('../../', import.meta.url));

/** Bytes of a page that imports this, minified and compressed. */
async function sizeOf(contents: string): Promise<number> {
  const { outputFiles } = await build({
    stdin: { contents, resolveDir: HOME },
    bundle: true,
    minify: true,
    write: false,
    format: 'esm',
    target: 'es2022',
    external: ['react'],
    logLevel: 'error',
  });
  return gzipSync(outputFiles[0]!.contents, { level: 9 }).length;
}

describe('the size of the client', () => {
  it('is at most 6,000 bytes with the plain WebSocket', async () => {
    const size = await sizeOf(`export { createTaskwire } from '@taskwire/client'`);
    expect(size).to.be.at.most(6_000);
    expect(size).to.be.at.least(3_000);
  });

  it('is nothing for what is not imported', async () => {
    expect(await sizeOf(`import '@taskwire/client'; import '@taskwire/client/protocol'`)).to.be.below(50);
    expect(await sizeOf(`export { comesBack } from '@taskwire/client/protocol'`)).to.be.below(150);
  });

  it('has nothing of Node.js in it, and no dependencies', () => {
    const sources = readdirSync(join(HOME, 'dist')).filter((name) => /\.c?js$/.test(name));
    expect(sources.length).to.be.above(10);
    for (const name of sources) {
      const text = readFileSync(join(HOME, 'dist', name), 'utf8');
      for (const [, target] of text.matchAll(/(?:\sfrom\s+|require\()['"]([^'".][^'"]*)['"]/g)) {
        expect(['react'], name).to.include(target);
        expect(builtinModules).not.to.include(target);
      }
      expect(text, name).not.to.match(/\b(?:process|Buffer|setImmediate|__dirname)\b[.(]/);
    }
    const manifest = JSON.parse(readFileSync(join(HOME, 'package.json'), 'utf8')) as Record<string, unknown>;
    expect(manifest).not.to.have.property('dependencies');
    expect(manifest['sideEffects']).to.equal(false);
  });
});
