import { existsSync } from 'node:fs';
import { expect } from 'chai';
import { POSTGRES_PROGRAMS } from '../support/postgres.js';
import { describeWith } from '../support/programs.js';
import { REDIS_PROGRAMS } from '../support/redis.js';
import { attackNames, loadAttack } from './attack.js';
import { Stage } from './stage.js';

const attacks = await Promise.all(attackNames().map(async (name) => ({ name, attack: await loadAttack(name) })));

describeWith([...POSTGRES_PROGRAMS, ...REDIS_PROGRAMS], 'neighbours', function () {
  this.timeout(240_000);

  const settings = new Set(attacks.map(({ attack }) => JSON.stringify(attack.env ?? {})));
  for (const env of settings) {
    describe(env === '{}' ? 'with the defaults' : `with ${env}`, () => {
      let stage: Stage;

      before(async function () {
        // Other systems have one address for this machine.
        if (!existsSync('/proc/self/stat')) {
          this.skip();
        }
        stage = await Stage.make({ env: JSON.parse(env) as Record<string, string> });
        await stage.startVictim();
      });

      after(() => stage?.stop());

      for (const { name, attack } of attacks.filter((each) => JSON.stringify(each.attack.env ?? {}) === env)) {
        it(`are served as ever during: ${attack.title}`, async () => {
          const before = [...stage.instance.workers];
          await stage.report();
          const running = await stage.attack(name);
          try {
            await running.defeated();
          } finally {
            await running.stop();
          }
          const { failures, closed, times } = await stage.report();
          expect(failures).to.deep.equal([]);
          expect(closed).to.deep.equal([]);
          expect(times.ping.length, 'pings').to.be.above(0);
          expect([...stage.instance.workers]).to.deep.equal(before);
        });
      }
    });
  }
});
