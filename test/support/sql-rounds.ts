import type pg from 'pg';
import type { SharedTasks } from './shared-tasks.js';

/** A statement or some, as somebody writes them who does not know of us. @param n no other round has it */
export type SqlRound = (client: pg.Client, tasks: SharedTasks, n: number) => Promise<void>;

/** What is written where it must never be seen. */
export const NEVER = 'never seen';

/** Tables beside ours, by which tasks are changed without being named. */
export const STRANGERS_TABLES = [
  'CREATE TABLE batches (id bigint PRIMARY KEY)',
  'ALTER TABLE tasks ADD COLUMN batch_id bigint REFERENCES batches ON DELETE CASCADE ON UPDATE CASCADE',
  'CREATE TABLE notes (task_id bigint NOT NULL, note text NOT NULL)',
  `CREATE FUNCTION note_task() RETURNS trigger LANGUAGE plpgsql AS $$
   BEGIN
     UPDATE tasks SET task_error = NEW.note WHERE task_id = NEW.task_id;
     RETURN NEW;
   END $$`,
  'CREATE TRIGGER noted BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION note_task()',
];

const COLUMNS = 'job_id, user_id, task_definition_id, is_imua, task_status, created_at';

/** Locks tasks in their order, as whoever writes several has to. @returns those that are there; only they may be written to */
async function locked(client: pg.Client, ids: readonly number[]): Promise<number[]> {
  const { rows } = await client.query('SELECT task_id FROM tasks WHERE task_id = ANY($1) ORDER BY task_id FOR UPDATE', [
    ids,
  ]);
  return rows.map(({ task_id }) => Number(task_id));
}

/** Begins, and sometimes rolls back: then nothing of it may be seen. */
async function transaction(
  client: pg.Client,
  tasks: SharedTasks,
  work: (seen: boolean) => Promise<void>,
): Promise<void> {
  const seen = tasks.next() > 0.2;
  await client.query('BEGIN');
  await work(seen);
  await client.query(seen ? 'COMMIT' : 'ROLLBACK');
}

/** Adds what a statement that was committed has made. */
function addAll(tasks: SharedTasks, rows: ReadonlyArray<{ task_id: string; job_id: string; user_id: string }>): void {
  for (const { task_id, job_id, user_id } of rows) {
    tasks.add(Number(task_id), { jobId: job_id, userId: user_id });
  }
}

const manyRows: SqlRound = (client, tasks, n) =>
  transaction(client, tasks, async (seen) => {
    const ids = await locked(client, tasks.some());
    await client.query('UPDATE tasks SET task_status = $1, task_opx_cost = $2 WHERE task_id = ANY($3)', [
      seen ? tasks.pick(['x', 'y', 'z']) : NEVER,
      n + 0.5,
      ids,
    ]);
    await client.query('SAVEPOINT one');
    const kept = tasks.next() < 0.5;
    await client.query('UPDATE tasks SET tx_url = $1, is_successful = $2 WHERE task_id = ANY($3)', [
      seen && kept ? `https://example.com/${n}` : NEVER,
      tasks.next() < 0.5,
      ids.slice(1),
    ]);
    await client.query(kept ? 'RELEASE SAVEPOINT one' : 'ROLLBACK TO SAVEPOINT one');
    await client.query('UPDATE tasks SET proof_of_task = $1 WHERE task_id = ANY($2)', [
      seen ? `proof ${n}` : NEVER,
      ids.slice(-2),
    ]);
  });

const oneRow: SqlRound = async (client, tasks, n) => {
  await client.query('UPDATE tasks SET task_status = $1, task_number = $2 WHERE task_id = $3', [
    tasks.pick(['one', 'two']),
    n,
    tasks.one(),
  ]);
};

const nothing: SqlRound = (client, tasks) =>
  transaction(client, tasks, async () => {
    const ids = await locked(client, tasks.some(0.1));
    await client.query('UPDATE tasks SET task_status = task_status WHERE task_id = ANY($1)', [ids]);
    await client.query('UPDATE tasks SET tx_url = $2, task_error = coalesce(task_error, $2) WHERE task_id = ANY($1)', [
      ids.slice(0, 1),
      'https://example.com/same',
    ]);
    await client.query('UPDATE tasks SET task_opx_cost = task_opx_cost + 1 WHERE task_id = ANY($1)', [ids]);
    await client.query('UPDATE tasks SET task_opx_cost = task_opx_cost - 1 WHERE task_id = ANY($1)', [ids]);
  });

const upserts: SqlRound = async (client, tasks, n) => {
  const [{ jobId, userId }, old] = [tasks.job(), tasks.one()];
  const insert = `INSERT INTO tasks (${COLUMNS}) SELECT $1::numeric, $2, m, true, 'pending', now()
    FROM generate_series(1, 3) m RETURNING task_id, job_id::text, user_id`;
  const { rows } = await client.query(insert, [jobId, userId]);
  addAll(tasks, rows.slice(0, tasks.few ? 3 : 0));
  await client.query('DELETE FROM tasks WHERE task_id = ANY($1)', [
    rows.slice(tasks.few ? 3 : 0).map(({ task_id }) => task_id),
  ]);
  await client.query(
    `INSERT INTO tasks (task_id, ${COLUMNS}) SELECT task_id, job_id, user_id, 9, false, 'pending', now()
     FROM tasks WHERE task_id = $1
     ON CONFLICT (task_id) DO UPDATE SET task_error = $2, converted_arguments = '[1e300, null, {"a": "\\u2028"}]'`,
    [old, `error ${n}`],
  );
  await client.query(
    `INSERT INTO tasks (task_id, ${COLUMNS}) SELECT task_id, job_id, user_id, 9, false, 'pending', now()
     FROM tasks WHERE task_id = $1 ON CONFLICT DO NOTHING`,
    [old],
  );
};

const deletions: SqlRound = (client, tasks, n) =>
  transaction(client, tasks, async (seen) => {
    const ids = await locked(client, tasks.some(0.05));
    await client.query('UPDATE tasks SET task_error = $2 WHERE task_id = ANY($1)', [ids, seen ? `last ${n}` : NEVER]);
    await client.query('DELETE FROM tasks WHERE task_id = ANY($1)', [ids]);
    if (seen) {
      for (const id of ids) {
        tasks.gone(id);
      }
    }
  });

/** Since Postgres 15. */
const merge: SqlRound = (client, tasks, n) =>
  transaction(client, tasks, async (seen) => {
    const { jobId, userId } = tasks.job();
    const ids = await locked(client, tasks.some(0.1));
    await client.query(
      `MERGE INTO tasks t USING (SELECT * FROM unnest($1::bigint[]) id UNION ALL SELECT -1) wanted ON t.task_id = wanted.id
       WHEN MATCHED AND t.task_id % 17 = 0 THEN DELETE
       WHEN MATCHED THEN UPDATE SET task_performer_id = $2, ta_signature = $3
       WHEN NOT MATCHED AND wanted.id < 0 THEN INSERT (${COLUMNS}) VALUES ($4, $5, 3, false, $3, now())`,
      [ids, n, seen ? `merged ${n}` : NEVER, jobId, userId],
    );
  });

const copies: SqlRound = async (client, tasks) => {
  const { jobId, userId } = tasks.job();
  const line = `${jobId},${userId},77,f,copied,2024-01-01T00:00:00Z`;
  await client.query(`COPY tasks (${COLUMNS}) FROM PROGRAM 'printf "${line}\\n${line}\\n"' WITH (FORMAT csv)`);
  const { rows } = await client.query(
    `SELECT task_id, job_id::text, user_id FROM tasks WHERE job_id = $1 AND task_status = 'copied' ORDER BY task_id LIMIT 4`,
    [jobId],
  );
  if (tasks.few) {
    addAll(tasks, rows);
    return;
  }
  await transaction(client, tasks, async () => {
    const ids = await locked(
      client,
      rows.map(({ task_id }) => Number(task_id)),
    );
    await client.query('DELETE FROM tasks WHERE task_id = ANY($1)', [ids]);
  });
};

const cascades: SqlRound = async (client, tasks, n) => {
  const { jobId, userId } = tasks.job();
  await client.query('INSERT INTO batches VALUES ($1)', [n]);
  await client.query(
    `INSERT INTO tasks (${COLUMNS}, batch_id) SELECT $1::numeric, $2, m, true, 'batched', now(), $3::bigint
     FROM generate_series(1, 3) m`,
    [jobId, userId, n],
  );
  // The key of a batch is no column that anybody sees: no event.
  await client.query('UPDATE batches SET id = -id WHERE id = $1', [n]);
  await transaction(client, tasks, async (seen) => {
    await client.query('UPDATE tasks SET task_status = $2 WHERE batch_id = $1', [-n, seen ? 'going' : NEVER]);
    await client.query('DELETE FROM batches WHERE id = $1', [-n]);
  });
  await client.query('DELETE FROM batches WHERE id = $1', [-n]);
};

const byTrigger: SqlRound = async (client, tasks, n) => {
  await client.query('INSERT INTO notes VALUES ($1, $2)', [tasks.one(), `note ${n} "\\\n\u{1F600}`]);
};

const moves: SqlRound = async (client, tasks, n) => {
  const [id, { jobId, userId }] = [tasks.one(), tasks.job()];
  await transaction(client, tasks, async (seen) => {
    await locked(client, [id]);
    await client.query('UPDATE tasks SET job_id = $1, user_id = $2, task_error = $3 WHERE task_id = $4', [
      jobId,
      userId,
      seen ? `moved ${n}` : NEVER,
      id,
    ]);
    if (seen) {
      tasks.add(id, { jobId, userId });
    }
  });
  if (tasks.next() < 0.3) {
    // One that nobody else has locked by its old id: orders of locks would differ.
    const { rows } = await client.query(
      `INSERT INTO tasks (${COLUMNS}) VALUES ($1, $2, 8, true, 'to be renamed', now()) RETURNING task_id`,
      [jobId, userId],
    );
    const renamed = await client.query(
      'UPDATE tasks SET task_id = $1 WHERE task_id = $2 RETURNING task_id, job_id::text, user_id',
      [1_000_000_000 + n, rows[0].task_id],
    );
    addAll(tasks, renamed.rows);
  }
};

/** Each kind about as often as another; `merge` where the server has it. */
export const sqlRounds = (serverVersion: number): readonly SqlRound[] => [
  manyRows,
  manyRows,
  oneRow,
  nothing,
  upserts,
  deletions,
  copies,
  cascades,
  byTrigger,
  moves,
  ...(serverVersion >= 150_000 ? [merge] : []),
];
