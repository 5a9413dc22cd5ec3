import { expect } from 'chai';
import type { Page } from 'playwright-core';
import { eventually } from '../../../../dist/test/support/eventually.js';
import { PATIENCE, type Stage } from './stage.js';

/** Rows that are written while something is away. */
const MEANWHILE = 40;

/** What happens to a stage. It resolves when everything is there again; the pages need not have noticed yet. */
type Fault = (stage: Stage) => Promise<void>;

/** What happens to the service and to what it stands on. */
export const SERVICE_FAULTS: Readonly<Record<string, Fault>> = {
  'a worker was killed': async ({ instance }) => {
    await eventually(() => expect(instance.killWorker()).not.to.equal(undefined), PATIENCE);
  },
  'the whole service was killed and restarted': (stage) => stage.restartService(),
  'Redis was restarted': ({ redis }) => redis.restart(),
  'Postgres was restarted': ({ postgres }) => postgres.restart(),
  'a deploy rolled': async ({ instance }) => {
    const before = [...instance.workers];
    instance.signal('SIGHUP');
    await eventually(() => {
      expect([...instance.workers].filter((pid) => before.includes(pid))).to.deep.equal([]);
      expect(instance.workers.size).to.be.at.least(before.length);
    }, PATIENCE);
  },
};

const lifecycle = async (tab: Page, state: 'frozen' | 'active'): Promise<void> => {
  const session = await tab.context().newCDPSession(tab);
  await session.send('Page.setWebLifecycleState', { state });
  await session.detach();
};

/** What happens to the pages. */
export const PAGE_FAULTS: Readonly<Record<string, Fault>> = {
  'it was hidden': async ({ context, tabs, load }) => {
    const cover = await context.newPage();
    await cover.bringToFront();
    for (const tab of tabs) {
      expect(await tab.evaluate(() => document.visibilityState)).to.equal('hidden');
    }
    await load.more(MEANWHILE);
    await cover.close();
    await tabs[0]!.bringToFront();
  },
  'it was frozen': async ({ tabs, load }) => {
    for (const tab of tabs) {
      await lifecycle(tab, 'frozen');
    }
    await load.more(MEANWHILE);
    for (const tab of tabs) {
      await lifecycle(tab, 'active');
    }
  },
  'it was offline, on a link that says nothing': async (stage) => {
    stage.network('blackhole');
    await stage.context.setOffline(true);
    await stage.load.more(MEANWHILE);
    await stage.context.setOffline(false);
    stage.network('pass');
  },
  'its links were cut': async (stage) => stage.network('cut'),
  'it came back out of the back-forward cache': async ({ sites, load }) => {
    for (const { tabs, pages } of sites) {
      await tabs[0]!.evaluate(() => Object.assign(globalThis, { mark: 'kept' }));
      await tabs[0]!.goto(`${pages.url}/elsewhere`);
    }
    await load.more(MEANWHILE);
    for (const { tabs } of sites) {
      await tabs[0]!.goBack({ waitUntil: 'commit' });
      // It is the same page, out of the back-forward cache.
      expect(await tabs[0]!.evaluate(() => Reflect.get(globalThis, 'mark'))).to.equal('kept');
    }
  },
  'its tokens ended': async (stage) => {
    stage.tokenSeconds = 2;
    for (const tab of stage.tabs) {
      await tab.reload({ waitUntil: 'commit' });
    }
    await stage.load.more(4 * MEANWHILE);
    stage.tokenSeconds = 900;
  },
  'a tab was closed and another one opened': async (stage) => {
    for (const site of stage.sites) {
      await site.tabs.shift()!.close();
      await stage.openTab(site);
    }
  },
};
