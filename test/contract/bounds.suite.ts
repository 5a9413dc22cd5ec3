import { expect } from 'chai';
import type { Knex } from 'knex';
import { connectDatabase } from '../../src/database/connect-database.js';
import { envelopeText, type TaskEvent } from '../../src/protocol/events.js';
import { isUserId } from '../../src/protocol/rooms.js';
import { EventLog } from '../../src/repository/event-log.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { migrate } from '../../src/schema/migrate.js';
import type { SuiteDatabase } from './repository.suite.js';

/** What other programs cannot write, because nobody could be told of it; and what they may that looks like it. */
export function boundsSuite(open: () => Promise<SuiteDatabase>): void {
  let database: SuiteDatabase;
  let db: Knex;
  let log: EventLog;
  let tasks: TaskRepository;
  let users = 0;
  let user: string;
  let job: string;

  before(async function () {
    this.timeout(60_000);
    database = await open();
    db = connectDatabase({ url: database.url, pool: 2 });
    log = new EventLog(db);
    tasks = new TaskRepository(db);
  });

  after(async () => {
    await db?.destroy();
    await database?.stop();
  });

  beforeEach(async () => {
    users += 1;
    user = `bounded_${users}`;
    job = String(users);
    await new JobRepository(db).create({ job_id: job, user_id: user });
  });

  const sql = (text: string, ...bindings: readonly Knex.RawBinding[]): Promise<unknown> => db.raw(text, bindings);
  const task = async (): Promise<number> =>
    (await tasks.createTaskData({ job_id: job, task_definition_id: 1 })).task_id;
  const events = async (owner = user): Promise<readonly TaskEvent[]> =>
    (await log.read({ userId: owner, rooms: [{ kind: 'user', id: owner, after: 0 }], limit: 100 })).events;
  const refusal = async (work: Promise<unknown>): Promise<{ code?: string; message: string; hint?: string }> =>
    work.then(
      () => expect.fail('it was taken'),
      (error: Error & { code?: string; hint?: string }) => error,
    );

  it('refuse a transaction with an event that is too large, as a whole, and say of which task', async () => {
    const [small, large] = [await task(), await task()];
    const before = await events();
    const { code, message, hint } = await refusal(
      db.transaction(async (trx) => {
        await trx.raw(`UPDATE tasks SET task_status = 'also' WHERE task_id = ?`, [small]);
        await trx.raw(`UPDATE tasks SET proof_of_task = repeat('x', 1000000) WHERE task_id = ?`, [large]);
      }),
    );
    expect(code).to.equal('54000');
    expect(message).to.match(new RegExp(`the event of task ${large} would have 10000\\d\\d bytes`));
    expect(hint).to.include('taskwire.max_event_bytes').and.include('1000000');
    expect(await events()).to.deep.equal(before);
    expect((await tasks.getTask(small))!.task_status).to.equal('pending');
    // Numbers grow when they are printed.
    const numbers = `UPDATE tasks SET converted_arguments = '[1e131071, 1e131071, 1e131071, 1e131071, 1e131071, 1e131071, 1e131071,
      1e131071]' WHERE task_id = ?`;
    expect((await refusal(sql(numbers, large))).code).to.equal('54000');
    await sql(`UPDATE tasks SET proof_of_task = repeat('x', 990000) WHERE task_id = ?`, large);
    expect(await events()).to.have.length(before.length + 1);
  });

  it('may be wider for who asks for it, and a row that is large already may be changed', async () => {
    const id = await task();
    await db.transaction(async (trx) => {
      await trx.raw(`SET LOCAL taskwire.max_event_bytes = '5000000'`);
      await trx.raw(`UPDATE tasks SET tx_url = repeat('ü', 2000000) WHERE task_id = ?`, [id]);
    });
    expect((await events()).at(-1)!.changes.length).to.be.greaterThan(2_000_000);
    await db.transaction(async (trx) => {
      await trx.raw(`SET LOCAL taskwire.capture = 'off'`);
      await trx.raw(`UPDATE tasks SET proof_of_task = repeat('x', 2000000) WHERE task_id = ?`, [id]);
    });
    await sql(`UPDATE tasks SET task_status = 'changed' WHERE task_id = ?`, id);
    await tasks.updateTaskFee(id, 1);
    // To show it whole elsewhere would take an event that is too large.
    await sql('INSERT INTO jobs (job_id, user_id) VALUES (?, ?)', `${job}000`, user);
    expect((await refusal(sql('UPDATE tasks SET job_id = ? WHERE task_id = ?', `${job}000`, id))).code).to.equal(
      '54000',
    );
    await sql('DELETE FROM tasks WHERE task_id = ?', id);
    expect((await events()).map(({ type }) => type).slice(-3)).to.deep.equal([
      'TASK_STATUS_CHANGED',
      'TASK_FEE_UPDATED',
      'TASK_DELETED',
    ]);
  });

  it('leave room for all that REST takes for one task', async () => {
    const id = await task();
    const text = (length: number): string => '\u0001'.repeat(length);
    const whole = {
      task_error: text(4_096),
      tx_url: text(2_048),
      execution_tx_hash: text(256),
      proof_of_task: text(65_536),
      converted_arguments: ['ﷺ'.repeat(65_532)],
      task_performer_id: Number.MAX_SAFE_INTEGER,
    };
    await tasks.updateTaskExecutionData(id, whole);
    await tasks.updateTaskAttestationData(id, {
      task_attester_ids: Array(1_000).fill(Number.MAX_SAFE_INTEGER),
      tp_signature: text(4_096),
      ta_signature: text(4_096),
      task_submission_tx_hash: text(256),
    });
    // An event with the whole row.
    await sql('INSERT INTO jobs (job_id, user_id) VALUES (?, ?)', `${job}000`, user);
    await sql('UPDATE tasks SET job_id = ? WHERE task_id = ?', `${job}000`, id);
    expect((await events()).at(-1)).to.include({ type: 'TASK_CREATED', taskId: id });
  });

  it('refuse ids that no room can be named for', async () => {
    const names = ['', 'two words', 'a"b', 'a\\b', 'a\nb', '<a>', 'ü', '\u0001', 'x'.repeat(129), '\u007f', 'ab\t'];
    for (const name of names) {
      expect(isUserId(name), JSON.stringify(name)).to.equal(false);
      expect((await refusal(sql('INSERT INTO users (user_id) VALUES (?)', name))).code, JSON.stringify(name)).to.equal(
        '23514',
      );
    }
    // Every character that a user id may have.
    const all = Array.from({ length: 95 }, (_, n) => String.fromCharCode(32 + n))
      .filter(isUserId)
      .join('');
    expect(all).to.have.length(90);
    await db.transaction(async (trx) => {
      await trx.raw('SET LOCAL standard_conforming_strings = off');
      await trx.raw(`SET LOCAL search_path = pg_catalog`);
      await trx.raw('INSERT INTO public.users (user_id) VALUES (?) ON CONFLICT DO NOTHING', [all]);
    });
    const insert = `INSERT INTO tasks (task_id, job_id, user_id, task_definition_id, is_imua, task_status, created_at)
      VALUES (?, ?::numeric, ?, 1, true, 'new', now())`;
    for (const id of ['0', '-1', '9007199254740992', '9223372036854775807']) {
      const { code, message } = await refusal(sql(insert, id, job, user));
      expect({ code, message }).to.deep.include({ code: '23514' });
      expect(message).to.include(`task ${id}`);
    }
    await sql(insert, '9007199254740991', job, user);
    await sql('DELETE FROM tasks WHERE task_id = 9007199254740991');
    await sql(`INSERT INTO jobs (job_id, user_id) VALUES ('NaN', ?) ON CONFLICT DO NOTHING`, user);
    const { message } = await refusal(sql(insert, '77', 'NaN', user));
    expect(message).to.include('job NaN');
  });

  it('do not let a text break an envelope, nor the name of a user who was there before they were', async () => {
    const strange = `"${user}"\\ \n\r\u2028</script>`;
    await db.raw('ALTER TABLE users DISABLE TRIGGER taskwire_made');
    await sql('INSERT INTO users (user_id) VALUES (?)', strange);
    await sql(`INSERT INTO event_streams (user_id, epoch) VALUES (?, 'e')`, strange);
    await db.raw('ALTER TABLE users ENABLE TRIGGER taskwire_made');
    await sql('INSERT INTO jobs (job_id, user_id) VALUES (?, ?)', `${job}000`, strange);
    const id = await task();
    const text = '"},"seq":1,"x":{"\\u0000\\ud800 \n\r\n\ndata: {}\u2028\u0001';
    await sql(
      'UPDATE tasks SET task_error = ?, job_id = ?, user_id = ? WHERE task_id = ?',
      text,
      `${job}000`,
      strange,
      id,
    );
    await sql(
      'UPDATE tasks SET task_status = ?, converted_arguments = ? WHERE task_id = ?',
      text,
      JSON.stringify([text]),
      id,
    );
    const plain = new TaskRepository(db, { publish: (made) => published.push(...made) });
    const published: TaskEvent[] = [];
    await plain.updateTaskFee(id, 1);
    const logged = await events(strange);
    expect(logged).to.have.length(3);
    expect(published.map(envelopeText)).to.deep.equal([envelopeText(logged[2]!)]);
    for (const event of logged) {
      const line = envelopeText(event);
      expect(line).to.not.match(/[\n\r\0]/);
      const { data, seq } = JSON.parse(line);
      expect([data.user_id, data.changes.user_id, seq]).to.deep.equal([strange, strange, event.seq]);
    }
    expect(JSON.parse(logged[0]!.changes).task_error).to.equal(text);
    expect(JSON.parse(logged[1]!.changes)).to.deep.include({ task_status: text, converted_arguments: [text] });
    // NUL and half of a surrogate pair are nothing that Postgres keeps.
    for (const value of ['["\\u0000"]', '["\\ud800"]', '["\\udc00x"]']) {
      await refusal(sql('UPDATE tasks SET converted_arguments = ?::jsonb WHERE task_id = ?', value, id));
    }
  });

  it('tell a TRUNCATE by a new epoch of every stream', async () => {
    const id = await task();
    const before = await log.state(user);
    await db
      .transaction(async (trx) => {
        await trx.raw('TRUNCATE tasks');
        throw new Error('rolled back');
      })
      .catch(() => {});
    expect(await log.state(user)).to.deep.equal(before);
    await db.transaction(async (trx) => {
      await trx.raw(`UPDATE tasks SET task_status = 'last' WHERE task_id = ?`, [id]);
      await trx.raw('TRUNCATE tasks');
    });
    const after = await log.state(user);
    expect(after!.epoch).to.not.equal(before!.epoch);
    expect((await events()).at(-1)).to.include({ type: 'TASK_DELETED', taskId: id });
    const snapshot = await log.snapshot({ kind: 'user', id: user, name: `user:${user}` }, 10);
    expect([snapshot!.tasks, snapshot!.epoch]).to.deep.equal(['[]', after!.epoch]);
    await db.transaction(async (trx) => {
      await trx.raw(`SET LOCAL taskwire.capture = 'off'`);
      await trx.raw('TRUNCATE tasks');
    });
    expect((await log.state(user))!.epoch).to.equal(after!.epoch);
    await migrate(db, { capture: 'off' });
    await sql('TRUNCATE tasks');
    await migrate(db, { capture: 'on' });
    expect((await log.state(user))!.epoch).to.equal(after!.epoch);
  });
}
