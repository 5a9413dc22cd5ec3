import pg from 'pg';
import type { Target } from './attack.js';

/** Runs something over a connection to the database of one's own. */
export async function withClient<T>({ databaseUrl }: Target, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: databaseUrl });
  client.on('error', () => {});
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

/** Fills the attacker's first job with tasks that nobody is told of. @param bytes of each one's proof */
export async function fillJob(target: Target, { tasks, bytes }: { tasks: number; bytes: number }): Promise<void> {
  await withClient(target, async (client) => {
    await client.query('BEGIN');
    await client.query(`SET LOCAL taskwire.capture = 'off'`);
    await client.query(
      `INSERT INTO tasks (job_id, user_id, task_definition_id, is_imua, task_status, created_at, proof_of_task)
       SELECT $1, $2, 1, false, 'pending', now(), repeat('x', $4) FROM generate_series(1, $3::int)`,
      [target.jobs[0], target.owner, tasks, bytes],
    );
    await client.query('COMMIT');
  });
}

/** Changes the tasks of the attacker's first job, each of which makes an event. @returns how many */
export function changeJob(target: Target): Promise<number> {
  return withClient(target, async (client) => {
    const { rowCount } = await client.query('UPDATE tasks SET task_opx_cost = random() WHERE job_id = $1', [
      target.jobs[0],
    ]);
    return rowCount ?? 0;
  });
}
