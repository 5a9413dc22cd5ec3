import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { type Browser, type BrowserContext, chromium, type Page } from 'playwright-core';
import { eventually } from '../../../../dist/test/support/eventually.js';
import { Instance } from '../../../../dist/test/support/instance.js';
import { POSTGRES_PROGRAMS, sharedPostgres } from '../../../../dist/test/support/postgres.js';
import { describeWith, findProgram } from '../../../../dist/test/support/programs.js';
import { REDIS_PROGRAMS, startRedis } from '../../../../dist/test/support/redis.js';
import { RestWrites, Scene } from '../../../../dist/test/support/scene.js';
import { TcpProxy } from '../../../../dist/test/support/tcp-proxy.js';
import { random, Writer } from '../../../../dist/test/support/writers.js';
import { PageServer } from '../support/page-server.js';

const TRANSPORTS: Readonly<Record<string, string | undefined>> = {
  'a plain WebSocket': undefined,
  'Socket.IO': `import { socketio } from '@taskwire/client/socketio'; import { io } from 'socket.io-client';\nsocketio(io)`,
  // A browser opens six streams to a host over HTTP/1.1: twelve tabs share what one has.
  'Server-Sent Events, one stream for all tabs': `import { sse } from '@taskwire/client/sse'; import { tabs } from '@taskwire/client/tabs';\ntabs({ transport: sse(), name: 'user_1' })`,
};
const PATIENCE = { timeoutMs: 90_000, intervalMs: 200 };

for (const [title, transport] of Object.entries(TRANSPORTS)) {
  describeWith(
    ['chromium', ...POSTGRES_PROGRAMS, ...REDIS_PROGRAMS],
    `the page of the newcomer in Chromium over ${title}`,
    function () {
      this.timeout(300_000);
      let env: Record<string, string>;
      let redis: Awaited<ReturnType<typeof startRedis>>;
      let scene: Scene;
      let instance: Instance;
      let proxy: TcpProxy;
      let pages: PageServer;
      let browser: Browser;
      let context: BrowserContext;
      let page: Page;
      let writing = true;
      let paused = false;
      let written = 0;
      let work: Promise<void> = Promise.resolve();
      let inFlight: Promise<unknown> = Promise.resolve();

      before(async () => {
        const databaseUrl = await (await sharedPostgres()).createDatabase();
        redis = await startRedis();
        scene = await Scene.make(databaseUrl, { users: 1, jobsPerUser: 1 });
        env = {
          DATABASE_URL: databaseUrl,
          REDIS_URL: redis.url,
          TOKEN_SECRET: 'of a test and long enough for a secret',
        };
        instance = await Instance.start({ env });
        proxy = new TcpProxy({ port: instance.port });
        await proxy.start();
        const key = scene.keys.get('user_1')!;
        pages = new PageServer({
          url: `http://127.0.0.1:${proxy.port}`,
          api: () => instance.url,
          key,
          user: 'user_1',
          job: '1001',
          ...(transport === undefined ? {} : { transport }),
        });
        await pages.start();
        browser = await chromium.launch({
          executablePath: findProgram('chromium')!,
          args: ['--no-sandbox'],
          ignoreDefaultArgs: ['--disable-back-forward-cache'],
        });
        context = await browser.newContext();
        page = await context.newPage();
        await page.goto(pages.url);
        const writer = new Writer(new RestWrites(() => [instance.url], scene.serviceKey), scene.jobs, random(11));
        work = (async () => {
          while (writing) {
            if (!paused) {
              inFlight = writer.write().then(
                () => {
                  written += 1;
                },
                () => {},
              );
              await inFlight;
            }
            await sleep(20);
          }
        })();
      });

      after(async () => {
        writing = false;
        await work;
        await browser?.close();
        pages?.stop();
        await proxy?.stop();
        await instance?.stop();
        await scene?.close();
        await redis?.stop();
      });

      const shown = (of: Page): Promise<string[]> =>
        of.evaluate(() =>
          [...document.querySelectorAll('tr')].map((row) => [...row.cells].map((cell) => cell.textContent).join(' ')),
        );

      /** Writes go on for a while; then the table that is drawn is that of the database. */
      const isRight = async (...tabs: Page[]): Promise<void> => {
        const goal = written + 20;
        await eventually(() => expect(written).to.be.at.least(goal), PATIENCE);
        paused = true;
        await inFlight;
        try {
          await eventually(async () => {
            const answer = await fetch(`${instance.url}/api/tasks/job/1001?limit=1000`, {
              headers: { 'x-api-key': scene.serviceKey },
            });
            expect(answer.status).to.equal(200);
            const { tasks } = (await answer.json()) as {
              tasks: Array<{ task_id: number; task_status: string; task_opx_cost: number | null }>;
            };
            const due = tasks.map((task) => `${task.task_id} ${task.task_status} ${task.task_opx_cost ?? ''}`);
            for (const tab of tabs) {
              expect(await tab.locator('table').getAttribute('data-status')).to.equal('live');
              expect(await shown(tab)).to.deep.equal(due);
            }
          }, PATIENCE);
        } finally {
          paused = false;
        }
      };

      const lifecycle = async (state: 'frozen' | 'active'): Promise<void> => {
        const session = await context.newCDPSession(page);
        await session.send('Page.setWebLifecycleState', { state });
        await session.detach();
      };

      it('is right from the start', () => isRight(page));

      it('is right after a worker was killed', async () => {
        await eventually(() => expect(instance.killWorker()).not.to.equal(undefined), PATIENCE);
        await isRight(page);
      });

      it('is right after the whole service was killed and restarted', async () => {
        const { port } = instance;
        await instance.kill();
        await eventually(
          async () => expect(await page.locator('table').getAttribute('data-status')).to.equal('stale'),
          PATIENCE,
        );
        instance = await Instance.start({ env, port });
        await isRight(page);
      });

      it('is right after it was offline, on a link that says nothing', async () => {
        proxy.setMode('blackhole');
        await context.setOffline(true);
        const goal = written + 10;
        await eventually(() => expect(written).to.be.at.least(goal), PATIENCE);
        await context.setOffline(false);
        await eventually(
          async () => expect(await page.locator('table').getAttribute('data-status')).to.equal('stale'),
          PATIENCE,
        );
        proxy.setMode('pass');
        await isRight(page);
      });

      it('is right after it was frozen', async () => {
        await lifecycle('frozen');
        const goal = written + 10;
        await eventually(() => expect(written).to.be.at.least(goal), PATIENCE);
        await lifecycle('active');
        await isRight(page);
      });

      it('is right when it comes back out of the back-forward cache', async () => {
        await page.evaluate(() => Object.assign(globalThis, { mark: 'kept' }));
        await page.goto(`${pages.url}/elsewhere`);
        const goal = written + 10;
        await eventually(() => expect(written).to.be.at.least(goal), PATIENCE);
        await page.goBack({ waitUntil: 'commit' });
        await isRight(page);
        // It was the same page, out of the back-forward cache.
        expect(await page.evaluate(() => Reflect.get(globalThis, 'mark'))).to.equal('kept');
      });

      it('is right while its tokens end', async () => {
        pages.tokenSeconds = 2;
        await page.reload();
        await isRight(page);
        await isRight(page);
        pages.tokenSeconds = 900;
      });

      it('is right in twelve tabs, after a kill too', async () => {
        const tabs = [page];
        while (tabs.length < 12) {
          const tab = await context.newPage();
          await tab.goto(pages.url);
          tabs.push(tab);
        }
        await isRight(...tabs);
        await eventually(() => expect(instance.killWorker()).not.to.equal(undefined), PATIENCE);
        await isRight(...tabs);
      });
    },
  );
}
