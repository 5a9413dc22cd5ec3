import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type BrowserContext, chromium } from 'playwright-core';
import { eventually } from '../../../../dist/test/support/eventually.js';
import { findProgram } from '../../../../dist/test/support/programs.js';

/**
 * Starts Chromium as a visitor has it: all tabs in one window, of which one is seen. The others are hidden and throttled. (What
 * Playwright starts by itself keeps all tabs visible.)
 */
export async function startChromium(): Promise<{ context: BrowserContext; stop(): Promise<void> }> {
  const dir = mkdtempSync(join(tmpdir(), 'taskwire-chromium-'));
  const args = ['--headless', '--no-sandbox', '--no-first-run', '--remote-debugging-port=0', `--user-data-dir=${dir}`];
  const child = spawn(findProgram('chromium')!, [...args, 'about:blank'], { stdio: ['ignore', 'ignore', 'pipe'] });
  const abandon = (): void => void child.kill('SIGKILL');
  process.once('exit', abandon);
  const exited = once(child, 'exit');
  const address = await new Promise<string>((resolve, reject) => {
    let said = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      said += text;
      const found = /ws:\/\/\S+/.exec(said);
      if (found !== null) {
        resolve(found[0]);
      }
    });
    child.once('exit', (code) => reject(new Error(`Chromium ended with ${code}: ${said}`)));
  });
  const browser = await chromium.connectOverCDP(address, { noDefaults: true });
  return {
    context: browser.contexts()[0]!,
    stop: async () => {
      const session = await browser.newBrowserCDPSession();
      await session.send('Browser.close').catch(() => {});
      const late = setTimeout(abandon, 5_000);
      await exited;
      clearTimeout(late);
      process.off('exit', abandon);
      // Its helpers may still write while they end.
      await eventually(() => rmSync(dir, { recursive: true, force: true }));
    },
  };
}
