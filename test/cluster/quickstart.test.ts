import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect } from 'chai';
import { chromium } from 'playwright-core';
import WebSocket from 'ws';
import { eventually } from '../support/eventually.js';
import { Instance } from '../support/instance.js';
import { describeWith, findProgram, freePort } from '../support/programs.js';

// biome-ignore lint/suspicious/noExplicitAny: tests look into messages of every form
type Any = any;

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const run = promisify(execFile);
const TIMEOUT = { timeoutMs: 60_000 };

describeWith(['bash', 'curl', 'psql'], 'docs/quickstart.md', function () {
  this.timeout(240_000);
  const text = readFileSync(join(ROOT, 'docs/quickstart.md'), 'utf8');
  const script = join(ROOT, 'quickstart-life.mjs');
  let dir: string;
  let instance: Instance;
  let pagePort: number;
  const ended: Array<() => void> = [];

  before(async () => {
    dir = mkdtempSync(join(tmpdir(), 'taskwire-quickstart-'));
    instance = await Instance.start({ env: { DATA_DIR: dir } });
    pagePort = await freePort();
  });
  after(async () => {
    for (const end of ended) {
      end();
    }
    await instance?.kill();
    rmSync(script, { force: true });
    rmSync(dir, { recursive: true, force: true });
  });

  /** What stands in the document, for the service of this test. */
  const here = (snippet: string): string =>
    snippet
      .replaceAll('http://localhost:9002', instance.url)
      .replaceAll('ws://localhost:9002', instance.url.replace('http', 'ws'))
      .replaceAll('$PWD/.taskwire', dir)
      .replaceAll('.taskwire/', `${dir}/`)
      .replaceAll('npx taskwire', `node ${join(ROOT, 'dist/src/cli/main.js')}`)
      .replaceAll('life.mjs', 'quickstart-life.mjs')
      .replaceAll(/\bpage\.(tsx|js)\b/g, 'quickstart-page.$1')
      .replaceAll('page-server.mjs', 'quickstart-page-server.mjs')
      .replaceAll('8080', String(pagePort));
  const blocks = (language: string): string[] =>
    [...text.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\``, 'gms'))].map(([, block]) => here(block!));

  it('says the truth in every snippet', async () => {
    const [, keys, watch, rest, sql, code, token] = blocks('sh') as [
      string,
      string,
      string,
      string,
      string,
      string,
      string,
    ];
    const env = { ...process.env, DATA_DIR: dir };
    const shell = async (snippet: string, given: Record<string, string> = {}): Promise<string> =>
      (await run('bash', ['-euc', snippet], { cwd: ROOT, env: { ...env, ...given } })).stdout;

    const printed = await shell(`${keys}\necho "$URL $USER_KEY $SERVICE_KEY"`);
    const [URL, USER_KEY, SERVICE_KEY] = printed.trim().split(' ') as [string, string, string];
    const given = { URL, USER_KEY, SERVICE_KEY };

    const watcher = spawn('bash', ['-c', `exec ${watch}`], { cwd: ROOT, env: { ...env, ...given } });
    ended.push(() => watcher.kill());
    let lines = '';
    watcher.stdout.on('data', (chunk) => {
      lines += String(chunk);
    });
    const messages = (): Any[] =>
      lines
        .split('\n')
        .slice(0, -1)
        .map((line) => JSON.parse(line));
    await eventually(() => expect(messages().at(-1)?.type).to.equal('SUCCESS'), TIMEOUT);

    // The page of a browser, but for the list that it shows.
    const [page] = blocks('html') as [string];
    const made = (await shell(token, given)).trim();
    const shown = { innerHTML: '' };
    const body = /<script type="module">(.*)<\/script>/s.exec(page)![1]!.replace('TOKEN', made);
    class Browser extends WebSocket {
      constructor(url: string, protocols: string[]) {
        super(url, protocols);
        ended.push(() => this.terminate());
      }
    }
    new Function('WebSocket', 'document', 'console', body)(Browser, { getElementById: () => shown }, { log() {} });

    const types = (): string[] =>
      messages()
        .map(({ type }) => type)
        .filter((type) => /^TASK_/.test(type));
    await shell(rest, given);
    const table = [...text.matchAll(/^\| `(TASK_\w+)` \|/gm)].map(([, type]) => type);
    await eventually(() => expect(types()).to.deep.equal(table), TIMEOUT);
    await shell(sql);
    await eventually(
      () => expect(types().slice(table.length)).to.deep.equal(['TASK_CREATED', 'TASK_UPDATED']),
      TIMEOUT,
    );
    writeFileSync(script, blocks('js')[0]!);
    await shell(code);
    await eventually(
      () => expect(types().slice(table.length + 2)).to.deep.equal(['TASK_CREATED', 'TASK_STATUS_CHANGED']),
      TIMEOUT,
    );
    await eventually(() => {
      expect([...shown.innerHTML.matchAll(/task \d+: (\w+)/g)].map(([, status]) => status)).to.deep.equal([
        'completed',
        'failed',
        'completed',
      ]);
    }, TIMEOUT);
  });

  describeWith(['chromium'], 'and its page', () => {
    it('shows the life of a task in a browser, also after the service was away', async () => {
      const [, keys, , rest, , , , page] = blocks('sh') as string[];
      const env = { ...process.env, DATA_DIR: dir };
      const shell = async (snippet: string): Promise<string> =>
        (await run('bash', ['-euc', `${keys}\n${snippet}`], { cwd: ROOT, env })).stdout;
      const files = {
        'quickstart-page.tsx': blocks('tsx')[0]!,
        'quickstart-page-server.mjs': blocks('js')[1]!,
      };
      for (const [name, text] of Object.entries(files)) {
        writeFileSync(join(ROOT, name), text);
        ended.push(() => rmSync(join(ROOT, name), { force: true }));
      }
      ended.push(() => rmSync(join(ROOT, 'quickstart-page.js'), { force: true }));
      const [, bundle, serve] = page!.trim().split('\n') as [string, string, string];
      await shell(bundle);
      const pages = spawn('bash', ['-euc', `${keys}\nexec ${serve}`], { cwd: ROOT, env });
      ended.push(() => pages.kill());
      const [address] = (await once(pages.stdout, 'data')) as [Buffer];

      const browser = await chromium.launch({ executablePath: findProgram('chromium')!, args: ['--no-sandbox'] });
      ended.push(() => void browser.close());
      const tab = await browser.newPage();
      await tab.goto(String(address).trim());
      const last = (): Promise<string | null> => tab.locator('tr').last().textContent({ timeout: 1_000 });
      const lives = async (): Promise<void> => {
        const rows = await tab.locator('tr').count();
        await shell(rest!);
        await eventually(async () => expect(await tab.locator('tr').count()).to.equal(rows + 1), TIMEOUT);
        await eventually(async () => expect(await last()).to.match(/^\d+completed0\.5$/), TIMEOUT);
      };
      await eventually(async () => expect(await last()).to.contain('completed'), TIMEOUT);
      await lives();
      const { port } = instance;
      await instance.stop();
      instance = await Instance.start({ env: { DATA_DIR: dir }, port });
      await lives();
      await browser.close();
    });
  });
});
