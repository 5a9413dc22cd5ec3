import { expect } from 'chai';
import { EventLog } from '../../src/repository/event-log.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { Account } from '../support/account.js';
import { eventually } from '../support/eventually.js';
import { POSTGRES_PROGRAMS, sharedPostgres } from '../support/postgres.js';
import { describeWith } from '../support/programs.js';
import { Scene } from '../support/scene.js';
import { Subscriber } from '../support/subscriber.js';
import { InProcessServer } from '../support/task-server.js';

describeWith(POSTGRES_PROGRAMS, 'changes that no trigger sees', function () {
  this.timeout(60_000);
  let scene: Scene;
  let server: InProcessServer;
  let subscribers: Subscriber[];
  let tasks: TaskRepository;

  before(async () => {
    const url = await (await sharedPostgres()).createDatabase();
    scene = await Scene.make(url, { users: 1, jobsPerUser: 1 });
    server = new InProcessServer(url, { RECONCILE_MS: '50', RECONCILE_IDLE_MS: '50' });
    await server.start();
    tasks = new TaskRepository(scene.db);
  });

  after(async () => {
    await server?.stop();
    await scene?.close();
  });

  beforeEach(async () => {
    const { jobId } = scene.jobs[0]!;
    for (let made = 0; made < 5; made += 1) {
      await tasks.createTaskData({ job_id: jobId, task_definition_id: made });
    }
    subscribers = (['websocket', 'socket.io', 'sse'] as const).map(
      (wire) => new Subscriber(wire, server.url, scene.keys.get('user_1')!, [`job:${jobId}`]),
    );
    await eventually(() => expect(subscribers.every(({ live }) => live)).to.equal(true));
  });

  afterEach(() => {
    for (const subscriber of subscribers) {
      subscriber.close();
    }
  });

  /** Whether all of them have the tasks as they are. */
  const areRight = async (): Promise<void> => {
    const account = new Account(scene.db);
    for (const subscriber of subscribers) {
      expect(subscriber.live).to.equal(true);
      await account.compareState(subscriber);
    }
  };
  const rows = async (): Promise<number> => Number((await scene.db('tasks').count())[0]!['count']);
  const newest = async (): Promise<number> => Number((await scene.db('tasks').max('task_id'))[0]!['max']);

  it('are put right by renew-epochs, while everything runs', async () => {
    const id = await newest();
    await scene.db.transaction(async (trx) => {
      await trx.raw(`SET LOCAL session_replication_role = 'replica'`);
      await trx.raw(`UPDATE tasks SET task_status = 'replicated' WHERE task_id = ?`, [id]);
    });
    await scene.db.transaction(async (trx) => {
      await trx.raw('ALTER TABLE tasks DISABLE TRIGGER USER');
      await trx.raw('DELETE FROM tasks WHERE task_id = ?', [id - 1]);
      await trx.raw('ALTER TABLE tasks ENABLE TRIGGER USER');
    });
    const { seq } = await tasks.updateTaskFee(id - 2, 1);
    await eventually(() => {
      for (const { rooms } of subscribers) {
        expect([...rooms.values()][0]!.position).to.be.at.least(seq!);
      }
    });
    // They have heard of everything that there was to be heard, and do not know it.
    expect(subscribers.map(({ state }) => state.get(id)!['task_status'])).to.deep.equal(Array(3).fill('pending'));
    expect(subscribers.every(({ state }) => state.has(id - 1))).to.equal(true);

    await new EventLog(scene.db).renewEpochs();
    await eventually(areRight);
    await tasks.updateTaskFee(id, 2);
    await eventually(() =>
      expect(subscribers.map(({ state }) => state.get(id)!['task_opx_cost'])).to.deep.equal([2, 2, 2]),
    );
  });

  it('of a TRUNCATE are told as a new beginning', async () => {
    expect(await rows()).to.be.greaterThan(3);
    await scene.db.raw('TRUNCATE tasks');
    await eventually(async () => {
      expect(subscribers.map(({ state, live }) => [state.size, live])).to.deep.equal(Array(3).fill([0, true]));
      await areRight();
    });
    const { jobId } = scene.jobs[0]!;
    const { task_id } = await tasks.createTaskData({ job_id: jobId, task_definition_id: 9 });
    await eventually(() =>
      expect(subscribers.map(({ state }) => [...state.keys()])).to.deep.equal(Array(3).fill([task_id])),
    );
    expect(subscribers.flatMap(({ violations }) => violations)).to.deep.equal([]);
  });
});
