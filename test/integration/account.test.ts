import { expect } from 'chai';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { Account } from '../support/account.js';
import { eventually } from '../support/eventually.js';
import { Scene } from '../support/scene.js';
import { Subscriber } from '../support/subscriber.js';
import { embeddedForTest, InProcessServer } from '../support/task-server.js';

describe('the account of what subscribers derived', function () {
  this.timeout(60_000);

  it('notices each field that is wrong or missing, in rooms of all kinds', async () => {
    const database = await embeddedForTest();
    const scene = await Scene.make(database.url, { users: 1, jobsPerUser: 1 });
    const server = new InProcessServer(database.url, { RECONCILE_IDLE_MS: '50' });
    const subscribers: Subscriber[] = [];
    try {
      await server.start();
      const tasks = new TaskRepository(scene.db, { publish() {} });
      const [{ jobId, userId }] = scene.jobs as [{ jobId: string; userId: string }];
      const make = async () => (await tasks.createTaskData({ job_id: jobId, task_definition_id: 1 })).task_id;
      const old = await make();
      await tasks.updateTaskExecutionData(old, { tx_url: 'https://example.com', converted_arguments: { a: [1] } });
      const rooms = { job: `job:${jobId}`, user: `user:${userId}`, task: `task:${old}` };
      const [inJob, inUser, inTask] = Object.values(rooms).map(
        (room) => new Subscriber('websocket', server.url, scene.keys.get(userId)!, [room]),
      ) as [Subscriber, Subscriber, Subscriber];
      subscribers.push(inJob, inUser, inTask);
      await eventually(() => expect(subscribers.every(({ live }) => live)).to.equal(true));
      const young = await make();
      await tasks.updateTaskAttestationData(old, { task_attester_ids: [1, 2], task_error: null, tp_signature: '' });
      await tasks.updateTaskFee(young, 0);

      const account = new Account(scene.db);
      for (const subscriber of subscribers) {
        await account.settle(subscriber);
        await account.compareState(subscriber);
      }
      const notices = async (subscriber: Subscriber, id: number, field: string, value?: unknown): Promise<void> => {
        const row = subscriber.state.get(id)!;
        const { [field]: _, ...rest } = row;
        subscriber.state.set(id, value === undefined ? rest : { ...row, [field]: value });
        const noticed = await account.compareState(subscriber).catch((error: Error) => error.message);
        expect(noticed, `${field} of ${id}`).to.match(new RegExp(`task ${id} differs from the database in ${field}$`));
        subscriber.state.set(id, row);
      };
      // Had whole, by a snapshot.
      for (const field of ['tx_url', 'converted_arguments', 'task_attester_ids', 'task_opx_cost', 'created_at']) {
        await notices(inJob, old, field);
        await notices(inJob, old, field, 'wrong');
      }
      // Had whole, from its creation on.
      for (const subscriber of [inJob, inUser]) {
        for (const field of ['task_opx_cost', 'task_definition_id', 'is_imua', 'created_at']) {
          await notices(subscriber, young, field);
        }
        await notices(subscriber, young, 'task_error', 'wrong');
      }
      // Known in part.
      for (const subscriber of [inUser, inTask]) {
        for (const field of ['task_attester_ids', 'task_error', 'tp_signature']) {
          await notices(subscriber, old, field);
          await notices(subscriber, old, field, 'wrong');
        }
      }
    } finally {
      for (const subscriber of subscribers) {
        subscriber.close();
      }
      await server.stop();
      await scene.close();
      await database.stop();
    }
  });
});
