import { expect } from 'chai';
import type { Knex } from 'knex';
import { connectDatabase } from '../../src/database/connect-database.js';
import type { TaskEvent } from '../../src/protocol/events.js';
import { jobRoom, parseRoom, type Room, taskRoom, userRoom } from '../../src/protocol/rooms.js';
import { EventLog } from '../../src/repository/event-log.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import type { Snapshot } from '../../src/repository/log.js';
import type { TaskUpdate } from '../../src/repository/task-patch.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { changed, type Row } from '../support/rows.js';
import type { SuiteDatabase } from './repository.suite.js';

const OWNER = 'owner';
const JOBS = ['1', '2'];
const WRITERS = 5;
const READERS = 3;
/** Positions at which the rooms are looked at before the writers stop. */
const POSITIONS = 60;

/** Rows of all tasks of the stream as its events up to `seq` say. */
function rowsAt(events: readonly TaskEvent[], seq: number): Row[] {
  const rows = new Map<number, Row>();
  for (const event of events.slice(0, seq)) {
    rows.set(event.taskId, changed(rows.get(event.taskId), JSON.parse(event.changes) as Row));
  }
  return [...rows.values()].sort((a, b) => Number(a['task_id']) - Number(b['task_id']));
}

/** Snapshots that are taken while others write, on whatever database. */
export function snapshotSuite(open: () => Promise<SuiteDatabase>): void {
  let database: SuiteDatabase;
  let db: Knex;

  before(async function () {
    this.timeout(60_000);
    database = await open();
    db = connectDatabase({ url: database.url, pool: WRITERS + READERS });
  });

  after(async () => {
    await db?.destroy();
    await database?.stop();
  });

  it('are what the events up to their position add up to, and nothing else', async function () {
    this.timeout(60_000);
    const log = new EventLog(db);
    const tasks = new TaskRepository(db, { publish() {} });
    const ids: number[] = [];
    for (const job_id of JOBS) {
      await new JobRepository(db).create({ job_id, user_id: OWNER });
      ids.push((await tasks.createTaskData({ job_id, task_definition_id: 1 })).task_id);
    }
    const rooms = [userRoom(OWNER), ...JOBS.map(jobRoom), ...ids.map(taskRoom)].map(parseRoom);
    const taken: Array<{ room: Room; limit: number; snapshot: Snapshot }> = [];
    const positions = new Set<number>();

    const write = async (n: number): Promise<unknown> => {
      const task_id = ids[n % ids.length]!;
      switch (n % 7) {
        case 0:
          return tasks.createTaskData({ job_id: JOBS[n % JOBS.length]!, task_definition_id: n });
        case 1:
          return tasks.updateTaskFee(task_id, n / 8);
        case 2:
          return tasks.updateTaskNumberAndStatus(task_id, n, `status_${n}`, `0x${n}`);
        case 3:
          return tasks.updateTaskAttestationData(task_id, { task_attester_ids: [n, 1], is_successful: n % 2 === 0 });
        case 4:
          return tasks.updateTaskExecutionData(task_id, { proof_of_task: `ü"${n}`, converted_arguments: { n: [n] } });
        default:
          // All of it or nothing: a batch is one commit.
          return tasks.updateManyTaskData(
            OWNER,
            ids.map((task_id): TaskUpdate => ({ kind: 'execution', task_id, task_performer_id: n, tx_url: null })),
          );
      }
    };
    let writes = 0;
    const writer = async (): Promise<void> => {
      while (positions.size < POSITIONS) {
        writes += 1;
        await write(writes);
      }
    };
    const reader = async (first: number): Promise<void> => {
      for (let turn = first; positions.size < POSITIONS; turn += 1) {
        const room = rooms[turn % rooms.length]!;
        const limit = turn % 2 === 0 ? 1_000 : 3;
        const snapshot = (await log.snapshot(room, limit))!;
        positions.add(snapshot.seq);
        taken.push({ room, limit, snapshot });
      }
    };
    await Promise.all([
      ...Array.from({ length: WRITERS }, writer),
      ...Array.from({ length: READERS }, (_, n) => reader(n)),
    ]);

    const page = await log.read({ userId: OWNER, rooms: [{ kind: 'user', id: OWNER, after: 0 }], limit: 100_000 });
    expect(page.events.map(({ seq }) => seq)).to.deep.equal(Array.from({ length: page.seq }, (_, n) => n + 1));
    for (const { room, limit, snapshot } of taken) {
      const rows = rowsAt(page.events, snapshot.seq).filter((row) => String(row[`${room.kind}_id`]) === room.id);
      expect(snapshot, room.name).to.include({ userId: OWNER, epoch: page.epoch, truncated: rows.length > limit });
      expect(JSON.parse(snapshot.tasks), `${room.name} at ${snapshot.seq}`).to.deep.equal(rows.slice(-limit));
    }
  });
}
