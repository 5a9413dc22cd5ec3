import { expect } from 'chai';
import type { Knex } from 'knex';
import { connectDatabase } from '../../src/database/connect-database.js';
import { ApiKeyRepository } from '../../src/repository/api-key-repository.js';
import { EventLog } from '../../src/repository/event-log.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { eventually } from '../support/eventually.js';
import { STANDBY_PROGRAMS } from '../support/postgres.js';
import { PostgresPair } from '../support/postgres-pair.js';
import { describeWith } from '../support/programs.js';

/** Connections for writes. */
const POOL = 4;
/** Each writes to a stream of its own: otherwise they would wait for each other, and not for the standby. */
const USERS = 12;

describeWith(STANDBY_PROGRAMS, 'writes that wait for a synchronous standby that is away', function () {
  this.timeout(120_000);
  let pair: PostgresPair;
  let writes: Knex;
  let reads: Knex;

  before(async () => {
    pair = await PostgresPair.start();
    const url = await pair.primary.createDatabase();
    writes = connectDatabase({ url, pool: POOL, applicationName: 'taskwire writes', statementMs: 1_000 });
    reads = connectDatabase({ url, pool: 2, applicationName: 'taskwire reads' });
  });
  after(async () => {
    await writes?.destroy();
    await reads?.destroy();
    await pair?.stop();
  });

  /** Sessions at the server that were made for writes. */
  const sessions = async (): Promise<number> => {
    const { rows } = await reads.raw(
      `SELECT count(*)::int AS n FROM pg_stat_activity WHERE application_name = 'taskwire writes'`,
    );
    return rows[0].n;
  };

  it('take no more sessions than their pool has places, and go on when it is back', async () => {
    const tasks = new TaskRepository(writes);
    const users = Array.from({ length: USERS }, (_, n) => ({ user: `user_${n}`, job_id: String(n + 1) }));
    const ids: number[] = [];
    for (const { user, job_id } of users) {
      await new JobRepository(writes).create({ job_id, user_id: user });
      ids.push((await tasks.createTaskData({ job_id, task_definition_id: 1 })).task_id);
    }
    const keys = new ApiKeyRepository(reads);
    const { record } = await keys.create({ owner: 'someone' });
    await pair.standby.halt('immediate');

    let back = false;
    const refused = new Set<string>();
    /** Fees whose writes were answered well. */
    const answered = new Map<string, number[]>();
    const writers = users.map(async ({ user }, n) => {
      for (let fee = 1; ; fee += 1) {
        try {
          await tasks.updateTaskFee(ids[n]!, fee);
          answered.set(user, [...(answered.get(user) ?? []), fee]);
          if (back) {
            return;
          }
        } catch (error) {
          const { code, cause } = error as { code: string; cause: Error };
          expect(code).to.equal('DATABASE_UNAVAILABLE');
          if (/the server does not end their sessions/.test(cause.message)) {
            refused.add(user);
          }
          // As clients do that are told to come later.
          await new Promise((resolve) => setTimeout(resolve, 100));
        }
      }
    });
    // All places are taken, and every writer has been told why.
    let most = 0;
    await eventually(
      async () => {
        most = Math.max(most, await sessions());
        expect(refused.size).to.equal(USERS);
      },
      { timeoutMs: 60_000, intervalMs: 50 },
    );
    expect(most).to.equal(POOL);
    // That a key was used is not worth waiting for.
    await keys.touch(new Map([[record.key_id, new Date()]]));
    expect(await keys.list())
      .to.have.nested.property('[0].last_used_at')
      .that.is.a('string');
    expect([...answered.values()].flat()).to.deep.equal([]);
    await pair.standby.start();
    back = true;
    await Promise.all(writers);
    expect(await sessions()).to.be.at.most(POOL);

    const log = new EventLog(reads);
    for (const [n, { user, job_id }] of users.entries()) {
      const room = { kind: 'job', id: job_id, name: `job:${job_id}` } as const;
      const { events, seq } = await log.read({ userId: user, rooms: [{ ...room, after: 0 }], limit: 1_000 });
      expect(events.map((event) => event.seq)).to.deep.equal(Array.from({ length: seq }, (_, place) => place + 1));
      const fees = events.slice(1).map(({ changes }) => JSON.parse(changes).task_opx_cost as number);
      // One that was given up may be there. None is there twice, and those that were answered are there.
      expect(new Set(fees).size).to.equal(fees.length);
      expect(fees).to.include.members(answered.get(user)!);
      const { rows } = await reads.raw('SELECT task_opx_cost::int AS fee FROM tasks WHERE task_id = ?', [ids[n]!]);
      expect(rows).to.deep.equal([{ fee: fees.at(-1) }]);
    }
  });
});
