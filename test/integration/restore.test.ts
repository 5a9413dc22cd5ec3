import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import type { Knex } from 'knex';
import { connectDatabase } from '../../src/database/connect-database.js';
import { ApiKeyRepository } from '../../src/repository/api-key-repository.js';
import { EventLog } from '../../src/repository/event-log.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { eventually } from '../support/eventually.js';
import { Subscriber, type Wire } from '../support/subscriber.js';
import { embeddedForTest, InProcessServer } from '../support/task-server.js';

const MAIN = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));
const JOB = 'job:1';
const WIRES: readonly Wire[] = ['socket.io', 'websocket'];

describe('a database from a backup', function () {
  this.timeout(60_000);
  let database: Awaited<ReturnType<typeof embeddedForTest>>;
  let db: Knex;
  let tasks: TaskRepository;
  let log: EventLog;
  let key: string;

  before(async () => {
    database = await embeddedForTest();
    db = connectDatabase({ url: database.url, pool: 2 });
    tasks = new TaskRepository(db, { publish() {} });
    log = new EventLog(db);
    await new JobRepository(db).create({ job_id: 1, user_id: 'alice' });
    key = (await new ApiKeyRepository(db).create({ owner: 'alice', rate_limit: 10_000 })).key;
  });

  after(async () => {
    await db?.destroy();
    await database?.stop();
  });

  /** What the database was when its first event was the last one. */
  async function restore(): Promise<void> {
    await db.raw('DELETE FROM task_events WHERE seq > 1');
    await db.raw('UPDATE tasks SET task_opx_cost = NULL');
    await db.raw('UPDATE event_streams SET seq = 1');
  }

  async function renewEpochs(): Promise<string> {
    const command = spawn(process.execPath, [MAIN, 'renew-epochs'], {
      env: { PATH: process.env['PATH'], DATABASE_URL: database.url },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let out = '';
    command.stdout.setEncoding('utf8').on('data', (text: string) => {
      out += text;
    });
    expect(await once(command, 'close')).to.deep.equal([0, null]);
    return out;
  }

  it('answers positions of before with snapshots', async () => {
    const { task_id } = await tasks.createTaskData({ job_id: 1, task_definition_id: 1 });
    const { seq: position } = await tasks.updateTaskFee(task_id, 5);
    const { epoch } = (await log.state('alice'))!;
    await restore();
    expect(await renewEpochs()).to.equal('New epochs: 1.\n');
    // The number that a client has already seen, for another event.
    expect((await tasks.updateTaskFee(task_id, 7)).seq).to.equal(position);

    const server = new InProcessServer(database.url);
    const subscribers: Subscriber[] = [];
    try {
      await server.start();
      for (const wire of WIRES) {
        const subscriber = new Subscriber(wire, server.url, key, [JOB]);
        subscribers.push(subscriber);
        const history = subscriber.rooms.get(JOB)!;
        Object.assign(history, { base: 0, position, epoch });
        await eventually(() => expect(subscriber.live, wire).to.equal(true));
        expect(subscriber.unrecovered, wire).to.equal(1);
        expect(subscriber.state.get(task_id), wire).to.include({ task_opx_cost: 7 });
        expect(history.epoch).to.equal((await log.state('alice'))!.epoch);
      }
    } finally {
      for (const subscriber of subscribers) {
        subscriber.close();
      }
      await server.stop();
    }
  });
});
