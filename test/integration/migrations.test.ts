import { expect } from 'chai';
import type { Knex } from 'knex';
import pg from 'pg';
import { connectDatabase } from '../../src/database/connect-database.js';
import { migrate } from '../../src/schema/migrate.js';
import { migrationSource } from '../../src/schema/migrations.js';
import { eventually } from '../support/eventually.js';
import { POSTGRES_PROGRAMS, type PostgresServer, startPostgres } from '../support/postgres.js';
import { describeWith } from '../support/programs.js';
import { random } from '../support/writers.js';

const BOOKS = { migrationSource, tableName: 'taskwire_migrations' };
/** The last step before other writers were heard. */
const BEFORE_CAPTURE = '0005_lives_of_keys';
const ROUNDS = 2;
const TASKS = 20;

describeWith(POSTGRES_PROGRAMS, 'migrations', function () {
  this.timeout(120_000);
  let server: PostgresServer;
  let db: Knex;
  let url: string;

  before(async () => {
    server = await startPostgres({ deadlock_timeout: '1s' });
    url = await server.createDatabase();
    db = connectDatabase({ url, pool: 2 });
    await db.raw(`INSERT INTO users SELECT 'user_' || n FROM generate_series(1, 3) n`);
    await db.raw(`INSERT INTO jobs SELECT n, 'user_' || n FROM generate_series(1, 3) n`);
    await db.raw(
      `INSERT INTO tasks (task_id, job_id, user_id, task_definition_id, is_imua, task_status, created_at)
       SELECT n, n % 3 + 1, 'user_' || n % 3 + 1, 1, false, 'pending', now() FROM generate_series(1, ${TASKS}) n`,
    );
    await db.raw('ALTER TABLE tasks ALTER COLUMN task_id RESTART WITH 1000');
  });

  after(async () => {
    await db?.destroy();
    await server?.stop();
  });

  it('go on while others write, who notice nothing but a moment of waiting', async () => {
    const errors: string[] = [];
    let writing = true;
    /** Resolves when writers may go on. */
    let allowed = Promise.resolve();
    let busy = 0;
    let writes = 0;
    /** Statements in any order of tables, alone and in transactions. */
    async function write(seed: number): Promise<void> {
      const next = random(seed);
      const client = new pg.Client({ connectionString: url });
      await client.connect();
      const one = (): number => 1 + Math.floor(next() * TASKS);
      const statements = [
        () => client.query('UPDATE tasks SET task_status = $1 WHERE task_id = $2', [`${writes}`, one()]),
        () => client.query('SELECT count(*) FROM jobs JOIN users USING (user_id)'),
        () => client.query(`INSERT INTO users VALUES ('user_' || gen_random_uuid())`),
        () => client.query('INSERT INTO jobs VALUES ($1, $2)', [Math.floor(next() * 1e15), 'user_1']),
        () =>
          client.query(
            `WITH made AS (
               INSERT INTO tasks (job_id, user_id, task_definition_id, is_imua, task_status, created_at)
               SELECT job_id, user_id, 1, false, 'made', now() FROM jobs WHERE job_id = 1 RETURNING task_id
             ) SELECT * FROM made`,
          ),
        () =>
          client.query(`DELETE FROM tasks WHERE task_status = 'made' AND task_id % 7 = $1`, [Math.floor(next() * 7)]),
      ];
      while (writing) {
        await allowed;
        busy += 1;
        try {
          const whole = next() < 0.5;
          if (whole) {
            await client.query('BEGIN');
          }
          // Rows in one order, tables in any.
          for (let count = whole ? 3 : 1; count > 0; count -= 1) {
            const statement = whole && count > 1 ? 1 + Math.floor(next() * 4) : Math.floor(next() * statements.length);
            await statements[statement]!();
          }
          if (whole) {
            await client.query('COMMIT');
          }
          writes += 1;
        } catch (error) {
          const { code, detail } = error as { code?: string; detail?: string };
          errors.push(`${code} ${error} ${detail}`);
          await client.query('ROLLBACK');
        }
        busy -= 1;
      }
      await client.end();
    }
    const writers = Array.from({ length: 6 }, (_, seed) => write(seed));
    const steps = (await migrationSource.getMigrations([])).map((step) => migrationSource.getMigrationName(step));
    const later = steps.slice(steps.indexOf(BEFORE_CAPTURE) + 1);
    for (let round = 0; round < ROUNDS; round += 1) {
      // Back to what an older version has left, while nobody writes.
      let goOn = (): void => {};
      allowed = new Promise((resolve) => {
        goOn = resolve;
      });
      await eventually(() => expect(busy).to.equal(0));
      for (const _ of later) {
        await db.migrate.down({ ...BOOKS, disableTransactions: true });
      }
      goOn();
      const before = writes;
      expect(await migrate(db, { capture: 'on' })).to.deep.equal(later);
      expect(writes).to.be.at.least(before);
    }
    writing = false;
    await Promise.all(writers);
    expect(errors).to.deep.equal([]);
    expect(writes).to.be.greaterThan(100);
  });
});
