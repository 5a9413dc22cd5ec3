/** A scheduler as somebody else would write one. It ends by itself when it has closed what it opened. */
export const SCHEDULER = `
import { connectDatabase, connectTransport, JobRepository, migrate, Publisher, TaskRepository } from 'taskwire';

const { DATABASE, REDIS, JOB } = process.env;
const db = connectDatabase({ url: DATABASE, pool: 2 });
await migrate(db);
const transport = REDIS === undefined ? undefined : await connectTransport({ url: REDIS, prefix: 'other' });
const publisher = new Publisher(transport);
await new JobRepository(db).create({ job_id: JOB, user_id: 'alice' });
const tasks = new TaskRepository(db, publisher);
const made = await tasks.createTaskData({ job_id: BigInt(JOB), task_definition_id: 1 });
const last = await tasks.updateTaskFee(made.task_id, 2.5);
await transport?.close();
await db.destroy();
console.log(JSON.stringify({ ...last, published: publisher.published, failed: publisher.failed }));
`;
