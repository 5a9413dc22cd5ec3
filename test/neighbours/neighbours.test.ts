import { existsSync } from 'node:fs';
import { expect } from 'chai';
import { POSTGRES_PROGRAMS } from '../support/postgres.js';
import { describeWith } from '../support/programs.js';
import { REDIS_PROGRAMS } from '../support/redis.js';
import { type Attack, attackNames, KINDS, loadAttack } from './attack.js';
import { type RunningAttack, Stage } from './stage.js';

/** What a process of the service may have at most, in MB, whatever is done to it. */
const MOST_MB = 700;

const all = await Promise.all(attackNames().map(async (name) => ({ name, attack: await loadAttack(name) })));
const attacks = all.filter(({ attack }) => attack.long !== true);

describeWith([...POSTGRES_PROGRAMS, ...REDIS_PROGRAMS], 'neighbours', function () {
  this.timeout(240_000);
  let stage: Stage;

  before(async function () {
    // Other systems have one address for this machine.
    if (!existsSync('/proc/self/stat')) {
      this.skip();
    }
    stage = await Stage.make();
    await stage.startVictim();
  });

  after(() => stage?.stop());

  for (const kind of KINDS.filter((each) => attacks.some(({ attack }) => attack.kind === each))) {
    describe(`beside attacks by ${kind}`, () => {
      let workers: number[];
      const running: RunningAttack[] = [];
      const defeats = new Map<Attack, Promise<void>>();

      before(async () => {
        workers = [...stage.instance.workers];
        await stage.report();
        // All of them at once: what one does to the other is a part of it.
        await Promise.all(
          attacks
            .filter(({ attack }) => attack.kind === kind)
            .map(async ({ name, attack }) => {
              const each = await stage.attack(name);
              running.push(each);
              // It ends when it is defeated, and leaves the processor to the others.
              const defeat = each.defeated().finally(() => each.stop());
              defeat.catch(() => {});
              defeats.set(attack, defeat);
            }),
        );
      });

      after(async () => {
        await Promise.all(running.map((each) => each.stop()));
      });

      for (const { attack } of attacks.filter((each) => each.attack.kind === kind)) {
        it(`slow down or close: ${attack.title}`, () => defeats.get(attack));
      }

      it('are served as ever', async () => {
        const { failures, closed, times } = await stage.report();
        expect(failures).to.deep.equal([]);
        expect(closed).to.deep.equal([]);
        for (const [what, taken] of Object.entries(times)) {
          expect(taken.length, what).to.be.above(0);
        }
        expect([...stage.instance.workers]).to.deep.equal(workers);
        expect(stage.peakMb()).to.be.below(MOST_MB);
      });
    });
  }
});
