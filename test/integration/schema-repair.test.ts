import { expect } from 'chai';
import type { Knex } from 'knex';
import { connectDatabase } from '../../src/database/connect-database.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { migrate } from '../../src/schema/migrate.js';
import { Instance } from '../support/instance.js';
import { POSTGRES_PROGRAMS, type PostgresServer, startPostgres } from '../support/postgres.js';
import { describeWith } from '../support/programs.js';

const NEWER = `INSERT INTO taskwire_migrations (name, batch, migration_time) VALUES ('9999_future', 9, now())`;

describeWith(POSTGRES_PROGRAMS, 'a schema that is not as it was left', function () {
  this.timeout(120_000);
  let server: PostgresServer;
  let url: string;
  let db: Knex;
  let warnings: string[];
  const open: Knex[] = [];

  const connect = (address: string): Knex => {
    const opened = connectDatabase({ url: address, pool: 2 });
    open.push(opened);
    return opened;
  };
  const mend = (capture?: 'on' | 'off', as = db): Promise<string[]> =>
    migrate(as, { ...(capture === undefined ? {} : { capture }), onWarning: (message) => warnings.push(message) });
  /** Triggers that are there, and how they run. */
  const triggers = async (): Promise<Record<string, string>> => {
    const { rows } = await db.raw(`SELECT tgname, tgenabled FROM pg_trigger WHERE tgname LIKE 'taskwire\\_%'`);
    return Object.fromEntries(
      (rows as Array<{ tgname: string; tgenabled: string }>).map(({ tgname, tgenabled }) => [tgname, tgenabled]),
    );
  };
  const functions = async (): Promise<unknown[]> =>
    (
      await db.raw(
        `SELECT proname, prosecdef, proconfig, md5(pg_get_functiondef(oid)) FROM pg_proc
         WHERE proname LIKE 'taskwire\\_%' AND pronamespace = 'public'::regnamespace ORDER BY proname`,
      )
    ).rows;
  const ALL = {
    taskwire_deleted: 'O',
    taskwire_inserted: 'O',
    taskwire_made: 'O',
    taskwire_tell: 'O',
    taskwire_truncated: 'O',
    taskwire_updated: 'O',
  };
  /** Another program creates a user, a job and a task, and changes the task. */
  const isHeard = async (): Promise<void> => {
    await db.raw(`INSERT INTO users VALUES ('sql') ON CONFLICT DO NOTHING`);
    await db.raw(`INSERT INTO jobs VALUES (7, 'sql') ON CONFLICT DO NOTHING`);
    const { rows } = await db.raw(
      `INSERT INTO tasks (job_id, user_id, task_definition_id, is_imua, task_status, created_at)
       VALUES (7, 'sql', 1, false, 'pending', now()) RETURNING task_id`,
    );
    await db.raw(`UPDATE tasks SET task_status = 'done' WHERE task_id = ?`, [rows[0].task_id]);
    const events = await db.raw('SELECT type FROM task_events WHERE task_id = ? ORDER BY seq', [rows[0].task_id]);
    expect((events.rows as Array<{ type: string }>).map(({ type }) => type)).to.deep.equal([
      'TASK_CREATED',
      'TASK_STATUS_CHANGED',
    ]);
  };

  before(async () => {
    server = await startPostgres();
  });
  beforeEach(async () => {
    url = await server.createDatabase();
    db = connect(url);
    warnings = [];
  });
  afterEach(() => Promise.all(open.splice(0).map((opened) => opened.destroy())));
  after(() => server?.stop());

  it('is left alone where nothing is wrong', async () => {
    expect(await mend('on')).to.deep.equal([]);
    expect(await triggers()).to.deep.equal(ALL);
    expect(warnings).to.deep.equal([]);
    await isHeard();
  });

  for (const drop of [
    'DROP TRIGGER taskwire_updated ON tasks',
    'DROP TRIGGER taskwire_tell ON task_changes',
    'DROP TRIGGER taskwire_made ON users',
    'DROP FUNCTION taskwire_note_change() CASCADE',
    'DROP FUNCTION taskwire_make_stream() CASCADE',
    'DROP FUNCTION taskwire_tell_changes()',
    'DROP FUNCTION taskwire_has_triggers(integer), taskwire_rows_are_ours(integer)',
    'DROP FUNCTION taskwire_row(tasks), taskwire_unheard(bigint, numeric)',
  ]) {
    for (const capture of ['on', undefined] as const) {
      it(`has what somebody dropped again, and capture is ${capture ?? 'as it was'}: ${drop}`, async () => {
        const before = await functions();
        await db.raw(drop);
        await mend(capture);
        expect(await triggers()).to.deep.equal(ALL);
        expect(await functions()).to.deep.equal(before);
        expect(warnings).to.have.length(1);
        expect(warnings[0]).to.match(/^taskwire_.* had been dropped and was made again: run taskwire renew-epochs/);
        await isHeard();
        await mend(capture);
        expect(warnings).to.have.length(1);
      });
    }
  }

  for (const how of ['DISABLE', 'ENABLE REPLICA'] as const) {
    it(`has triggers that run again with capture: ${how}`, async () => {
      await db.raw(`ALTER TABLE tasks ${how} TRIGGER taskwire_updated`);
      await db.raw(`ALTER TABLE task_changes ${how} TRIGGER taskwire_tell`);
      await db.raw(`ALTER TABLE users ${how} TRIGGER taskwire_made`);
      await mend();
      expect(Object.values(await triggers()).filter((state) => state !== 'O')).to.have.length(3);
      await mend('on');
      expect(await triggers()).to.deep.equal(ALL);
      await isHeard();
    });
  }

  it('keeps triggers that were set to run always', async () => {
    await db.raw('ALTER TABLE tasks ENABLE ALWAYS TRIGGER taskwire_updated');
    await mend('on');
    expect(await triggers()).to.deep.equal({ ...ALL, taskwire_updated: 'A' });
  });

  it('does not get triggers of tasks where capture is meant to be off', async () => {
    const off = { ...ALL, taskwire_deleted: 'D', taskwire_inserted: 'D', taskwire_truncated: 'D' };
    await db.raw('DROP TRIGGER taskwire_updated ON tasks');
    await mend('off');
    await mend();
    const { taskwire_updated: _, ...rest } = off;
    expect(await triggers()).to.deep.equal(rest);
    expect(warnings).to.deep.equal([]);
    await mend('on');
    expect(await triggers()).to.deep.equal(ALL);
  });

  it('is used as it is by somebody who may not mend it, and who is told what to do', async () => {
    await db.raw('CREATE ROLE app LOGIN');
    await db.raw('GRANT ALL ON ALL TABLES IN SCHEMA public TO app');
    await db.raw('DROP TRIGGER taskwire_updated ON tasks');
    await db.raw('ALTER TABLE users DISABLE TRIGGER taskwire_made');
    const app = connect(url.replace('postgres@', 'app@'));
    expect(await mend('on', app)).to.deep.equal([]);
    expect(warnings).to.deep.equal([
      'what other programs write is not heard, and this user may not mend it; as the owner of the tables: ' +
        'run taskwire migrate (taskwire_updated is not there); ALTER TABLE users ENABLE TRIGGER taskwire_made',
    ]);
    await new JobRepository(app).create({ job_id: '1', user_id: 'alice' });
    await new TaskRepository(app).createTaskData({ job_id: '1', task_definition_id: 1, is_imua: false });
    await db.raw('DROP OWNED BY app');
    await db.raw('DROP ROLE app');
  });

  it('says which table is not there', async () => {
    await db.raw('DROP TABLE leases, task_changes');
    await mend('on');
    expect(warnings).to.deep.equal(['leases, task_changes of the schema is not there: restore it from a backup']);
  });

  it('is left as it is where a newer version has brought it further', async () => {
    await db.raw(NEWER);
    await db.raw('DROP TRIGGER taskwire_updated ON tasks');
    const before = await triggers();
    // Several start at once.
    const several = await Promise.all([mend('on'), mend('off'), mend('on', connect(url))]);
    expect(several).to.deep.equal([[], [], []]);
    expect(await triggers()).to.deep.equal(before);
    expect(warnings).to.deep.equal(
      Array(3).fill('the schema is of a newer version (9999_future): it is used as it is; update this instance'),
    );
  });

  it('of a newer version serves an instance that is started again', async () => {
    await db.raw(NEWER);
    const instance = await Instance.start({ workers: 1, env: { DATABASE_URL: url } });
    try {
      expect((await instance.get('/api/ws/health')).body).to.include({ status: 'healthy' });
      const warned = instance.log.filter(({ level }) => level === 'warn').map(({ message }) => message);
      expect(warned).to.deep.equal([
        'the schema is of a newer version (9999_future): it is used as it is; update this instance',
      ]);
    } finally {
      await instance.stop();
    }
  });

  it('of two versions that went different ways is refused', async () => {
    await db.raw(NEWER);
    await db.raw(`DELETE FROM taskwire_migrations WHERE name = '0008_write_keys'`);
    const reason = await mend('on').catch((error: Error) => error.message);
    expect(reason).to.match(
      /steps of another version \(9999_future\) and lacks 0008_write_keys: run the newest version/,
    );
  });

  it('wants a schema of the search path', async () => {
    const nowhere = connect(`${url}?options=-csearch_path%3Dnope`);
    const reason = await mend('on', nowhere).catch((error: Error) => error.message);
    expect(reason).to.match(/^There is no schema of this search_path: make one, or name one in DATABASE_URL/);
  });

  it('is not taken for whole when another schema has the functions', async () => {
    const { rows } = await db.raw(`SELECT pg_get_functiondef('taskwire_channel()'::regprocedure) AS text`);
    await db.raw('CREATE SCHEMA other');
    await db.raw(rows[0].text.replace('public.', 'other.'));
    await db.raw('DROP FUNCTION public.taskwire_channel()');
    await mend('on', connect(`${url}?options=-csearch_path%3Dpublic,other`));
    expect(warnings[0]).to.match(/^taskwire_channel\(\) had been dropped and was made again/);
  });

  it('does not take the place of tables of another program', async () => {
    const other = connect(server.url);
    await other.raw('CREATE TABLE users (id int)');
    await other.raw('CREATE VIEW tasks AS SELECT 1 AS id');
    const reason = await mend('on', other).catch((error: Error) => error.message);
    expect(reason).to.equal(
      'Another program has tasks, users in schema public: make a schema for taskwire, and name it in DATABASE_URL with ' +
        'options=-csearch_path%3DNAME',
    );
    await other.raw('CREATE SCHEMA mine');
    const own = connect(`${server.url}?options=-csearch_path%3Dmine`);
    expect(await mend('on', own)).to.include('0001_initial');
    expect(await mend('on', own)).to.deep.equal([]);
  });
});
