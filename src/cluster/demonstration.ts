import { ApiKeyRepository } from '../repository/api-key-repository.js';
import { connectDatabase } from '../repository/connect-database.js';
import { JobRepository } from '../repository/job-repository.js';

/** Keys to try things with, on an embedded database that has none. */
interface Demonstration {
  readonly userKey: string;
  readonly serviceKey: string;
  readonly jobId: string;
}

const USER = 'demo';
const JOB_ID = '1';
/** Enough for somebody who tries out what a script can do. */
const RATE_LIMIT = 6_000;

/** Prints where the service is; on a new embedded database also how to try it. */
export async function welcome(options: { databaseUrl: string; embedded: boolean; url: string }): Promise<void> {
  const { databaseUrl, embedded, url } = options;
  const demonstration = embedded ? await makeDemonstration(databaseUrl) : undefined;
  process.stdout.write(
    demonstration === undefined
      ? `taskwire listens on ${url}\nA key: npx taskwire keys create --owner ID\n`
      : greeting(url, demonstration),
  );
}

/** @returns undefined when there are keys already: they were shown when they were made */
async function makeDemonstration(databaseUrl: string): Promise<Demonstration | undefined> {
  const db = connectDatabase({ url: databaseUrl, pool: 1 });
  try {
    const keys = new ApiKeyRepository(db);
    if ((await keys.count()) > 0) {
      return undefined;
    }
    const jobs = new JobRepository(db);
    if ((await jobs.get(JOB_ID)) === undefined) {
      await jobs.create({ job_id: JOB_ID, user_id: USER });
    }
    const user = await keys.create({ owner: USER, name: 'demonstration', rate_limit: RATE_LIMIT });
    const service = await keys.create({
      owner: `${USER}-service`,
      role: 'service',
      name: 'demonstration',
      rate_limit: RATE_LIMIT,
    });
    return { userKey: user.key, serviceKey: service.key, jobId: JOB_ID };
  } finally {
    await db.destroy();
  }
}

/** What a newcomer reads: where it is, and three lines to paste into another terminal in this folder. */
function greeting(url: string, { userKey, serviceKey, jobId }: Demonstration): string {
  const script =
    `const ws = new (require("ws"))("${url.replace(/^http/, 'ws')}/api/ws/tasks?api_key=${userKey}"); ` +
    `ws.on("open", () => ws.send(JSON.stringify({ type: "SUBSCRIBE", data: { room: "job:${jobId}" } }))); ` +
    `ws.on("message", (text) => console.log(String(text)))`;
  return `
taskwire listens on ${url}

  user key     ${userKey}
  service key  ${serviceKey}

They are shown this once. Paste these lines into another terminal, in this folder:

1. see the events of job ${jobId}, over a plain WebSocket

node -e '${script}'

2. write a task

curl -X POST ${url}/api/tasks -H 'X-Api-Key: ${serviceKey}' -H 'Content-Type: application/json' -d '{"job_id":"${jobId}","task_definition_id":7,"is_imua":false}'

3. see the statistics

curl ${url}/api/ws/stats
`;
}
