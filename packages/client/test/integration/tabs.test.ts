import { createTaskwire, type Taskwire, websocket } from '@taskwire/client';
import { tabs } from '@taskwire/client/tabs';
import { expect } from 'chai';
import WebSocket from 'ws';
import { eventually } from '../../../../dist/test/support/eventually.js';
import { RestWrites, Scene } from '../../../../dist/test/support/scene.js';
import { embeddedForTest, InProcessServer } from '../../../../dist/test/support/task-server.js';
import { FakeLocks } from '../support/locks.js';

const TABS = 6;

describe('the client in several tabs', function () {
  this.timeout(60_000);
  let database: Awaited<ReturnType<typeof embeddedForTest>>;
  let scene: Scene;
  let server: InProcessServer;
  let writes: RestWrites;
  let task: number;
  let clients: Taskwire[];

  before(async () => {
    database = await embeddedForTest();
    scene = await Scene.make(database.url, { users: 1, jobsPerUser: 1 });
    server = new InProcessServer(database.url);
    await server.start();
    writes = new RestWrites(() => [server.url], scene.serviceKey);
    task = (await writes.createTaskData({ job_id: '1001', task_definition_id: 1, is_imua: false })).task_id;
    const locks = new FakeLocks();
    clients = Array.from({ length: TABS }, () =>
      createTaskwire({
        url: server.url,
        apiKey: scene.keys.get('user_1')!,
        transport: tabs({ transport: websocket({ WebSocket }), name: 'user_1', locks }),
        lingerMs: 0,
        backoff: { baseMs: 100 },
      }),
    );
  });

  after(async () => {
    for (const client of clients ?? []) {
      client.close();
    }
    await server?.stop();
    await scene?.close();
    await database?.stop();
  });

  const connections = async (): Promise<number> => {
    const answer = await fetch(`${server.url}/api/ws/stats`, { headers: { 'x-api-key': scene.serviceKey } });
    return ((await answer.json()) as { data: { total_clients: number } }).data.total_clients;
  };

  it('has one connection, and another tab leads when the first one goes', async () => {
    const told: unknown[][] = clients.map(() => []);
    const rooms = clients.map((client, index) => {
      const room = index % 2 === 0 ? client.task(task) : client.job('1001');
      room.subscribe(() => {});
      void (async () => {
        for await (const item of room.events()) {
          told[index]!.push(item.type === 'RESYNC' ? item.type : item.data.changes.task_opx_cost);
        }
      })().catch(() => {
        // It was closed.
      });
      return room;
    });
    const shows = (from: number, fee: number): Promise<void> =>
      eventually(() => {
        for (const room of rooms.slice(from)) {
          const { status, tasks } = room.getSnapshot();
          expect({ status, fee: tasks[0]?.task_opx_cost }).to.deep.equal({ status: 'live', fee });
        }
      });
    await eventually(() =>
      expect(rooms.map((room) => room.getSnapshot().status)).to.deep.equal(Array(TABS).fill('live')),
    );
    expect(await connections()).to.equal(1);
    await writes.updateTaskFee(task, 1);
    await shows(0, 1);
    await eventually(() => expect(told).to.deep.equal(Array.from({ length: TABS }, () => [1])));

    clients[0]!.close();
    await writes.updateTaskFee(task, 2);
    await shows(1, 2);
    expect(await connections()).to.equal(1);
    // The new one has the rows of the server, not the events in between, and says so; or it had the event itself.
    await eventually(() => {
      for (const items of told.slice(1)) {
        expect(items.length).to.be.above(1);
      }
    });
    const { seq, epoch } = await writes.updateTaskFee(task, 3);
    await clients[1]!.caughtUp({ seq: seq!, epoch: epoch! });
    expect(rooms[1]!.getSnapshot().tasks[0]?.task_opx_cost).to.equal(3);

    for (const client of clients) {
      client.close();
    }
    await eventually(async () => expect(await connections()).to.equal(0));
  });
});
