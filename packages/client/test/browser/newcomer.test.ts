import { expect } from 'chai';
import { eventually } from '../../../../dist/test/support/eventually.js';
import { POSTGRES_PROGRAMS } from '../../../../dist/test/support/postgres.js';
import { describeWith } from '../../../../dist/test/support/programs.js';
import { REDIS_PROGRAMS } from '../../../../dist/test/support/redis.js';
import { PAGE_FAULTS, SERVICE_FAULTS } from './faults.js';
import { PATIENCE, Stage } from './stage.js';

/** The short form: each fault once. `run.ts` is the long one. */
describeWith(
  ['chromium', ...POSTGRES_PROGRAMS, ...REDIS_PROGRAMS],
  'the page of the newcomer in Chromium, over each transport',
  function () {
    this.timeout(300_000);
    const stage = new Stage({ seed: 11, rate: 50 });

    before(async () => {
      await stage.start();
      await stage.openTabs(stage.sites.length);
    });

    after(() => stage.stop());

    /** Writes go on for a while; then each tab shows the table. */
    const isRight = async (): Promise<void> => {
      await stage.load.more(30);
      const { wrong, rows } = await stage.quietPoint();
      expect(wrong).to.deep.equal([]);
      expect(rows).to.be.at.least(stage.tabs.length);
    };

    it('is right from the start', isRight);

    for (const [title, fault] of Object.entries({ ...SERVICE_FAULTS, ...PAGE_FAULTS })) {
      it(`is right after ${title}`, async () => {
        await fault(stage);
        await isRight();
      });
    }

    it('says that its rows are old while the service is away', async () => {
      await stage.instance.kill();
      await eventually(async () => expect(new Set(await stage.statuses())).to.deep.equal(new Set(['stale'])), PATIENCE);
      await stage.restartService();
      await isRight();
    });

    it('is right in twelve tabs, after a kill too', async () => {
      await stage.openTabs(12);
      await isRight();
      await SERVICE_FAULTS['a worker was killed']!(stage);
      await isRight();
    });
  },
);
