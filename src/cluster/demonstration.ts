import { urlsAt } from '../base/port.js';
import { connectDatabase } from '../database/connect-database.js';
import { ApiKeyRepository } from '../repository/api-key-repository.js';
import { JobRepository } from '../repository/job-repository.js';

/** Keys for the lines to paste, or names of shell variables that hold them. */
interface Demonstration {
  readonly userKey: string;
  readonly serviceKey: string;
}

const USER = 'demo';
const SERVICE = `${USER}-service`;
const JOB_ID = '1';
/** Requests per minute: enough to try out a script. */
const RATE_LIMIT = 6_000;

/**
 * Prints where the service is, and on the embedded database also how to try it.
 * @param host the address that it listens on
 * @param url where this machine reaches it
 */
export async function welcome(options: {
  databaseUrl: string;
  embedded: boolean;
  host: string;
  url: string;
}): Promise<void> {
  const { databaseUrl, embedded, host, url } = options;
  const where = whereText(host, url);
  if (!embedded) {
    process.stdout.write(`${where}\nA key: npx taskwire keys create --owner ID\n`);
    return;
  }
  const made = await makeDemonstration(databaseUrl);
  process.stdout.write(
    `\n${where}\n\n${made === undefined ? KEYS_BY_HAND : keysText(made)}\n${linesText(url, made ?? BY_HAND)}`,
  );
}

/** Where the service is reached, and by whom. */
function whereText(host: string, url: string): string {
  const [, ...others] = urlsAt(host, Number(new URL(url).port));
  const only = /^(?:127\.|::1$|localhost$)/.test(host)
    ? '   (from this machine only; HOST=0.0.0.0 opens it to others)'
    : '';
  return [`taskwire listens on ${url}${only}`, ...others.map((other) => `                and ${other}`)].join('\n');
}

/**
 * Makes a job, and on a database without keys two of them.
 * @returns undefined when there are keys already: they were shown when they were made, and nobody can show them again
 */
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
      owner: SERVICE,
      role: 'service',
      name: 'demonstration',
      rate_limit: RATE_LIMIT,
    });
    return { userKey: user.key, serviceKey: service.key };
  } finally {
    await db.destroy();
  }
}

const keysText = ({ userKey, serviceKey }: Demonstration): string => `  user key     ${userKey}
  service key  ${serviceKey}

They are shown this once. Paste these lines into another terminal, in this folder:
`;

const BY_HAND: Demonstration = { userKey: '$USER_KEY', serviceKey: '$SERVICE_KEY' };
const KEYS_BY_HAND = `Keys are shown once, when they are made. Paste these lines into another terminal, in this folder:

0. make two new keys

USER_KEY=$(npx taskwire keys create --owner ${USER}) SERVICE_KEY=$(npx taskwire keys create --owner ${SERVICE} --role service)
`;

/** Three lines to paste. What has keys in it stands in double quotes, so that a shell replaces its variables. */
function linesText(url: string, { userKey, serviceKey }: Demonstration): string {
  const script =
    `const ws = new (require("ws"))(process.argv[1]); ` +
    `ws.on("open", () => ws.send(JSON.stringify({ type: "SUBSCRIBE", data: { room: "job:${JOB_ID}" } }))); ` +
    `ws.on("message", (text) => console.log(String(text)))`;
  return `1. see the events of job ${JOB_ID}, over a plain WebSocket

node -e '${script}' "${url.replace(/^http/, 'ws')}/api/ws/tasks?api_key=${userKey}"

2. write a task

curl -X POST ${url}/api/tasks -H "X-Api-Key: ${serviceKey}" -H 'Content-Type: application/json' -d '{"job_id":"${JOB_ID}","task_definition_id":7,"is_imua":false}'

3. see the statistics

curl ${url}/api/ws/stats

docs/quickstart.md goes on from here.
`;
}
