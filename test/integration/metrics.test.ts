import { expect } from 'chai';
import { eventually } from '../support/eventually.js';
import { freePort } from '../support/programs.js';
import { RestWrites, Scene } from '../support/scene.js';
import { Subscriber } from '../support/subscriber.js';
import { embeddedForTest, InProcessServer } from '../support/task-server.js';

describe('metrics of a service', function () {
  this.timeout(60_000);
  let database: Awaited<ReturnType<typeof embeddedForTest>>;
  let server: InProcessServer;
  let scene: Scene;
  let restUrl: string;

  before(async () => {
    database = await embeddedForTest();
    const restPort = await freePort();
    restUrl = `http://127.0.0.1:${restPort}`;
    server = new InProcessServer(database.url, { HOST: '127.0.0.1', REST_PORT: String(restPort) });
    await server.start();
    scene = await Scene.make(database.url, { users: 1, jobsPerUser: 1 });
  });

  after(async () => {
    await scene?.close();
    await server?.stop();
    await database?.stop();
  });

  it('count what it publishes and delivers, on both of its ports', async () => {
    const [{ jobId, userId }] = scene.jobs as [(typeof scene.jobs)[number]];
    const rooms = [`job:${jobId}`, `user:${userId}`];
    const subscribers = (['websocket', 'socket.io'] as const).map(
      (wire) => new Subscriber(wire, server.url, scene.keys.get(userId)!, rooms),
    );
    try {
      await eventually(() => expect(subscribers.every(({ live }) => live)).to.equal(true));
      const writes = new RestWrites(() => [server.url, restUrl], scene.serviceKey);
      for (let count = 0; count < 4; count += 1) {
        await writes.createTaskData({ job_id: jobId, task_definition_id: 1, is_imua: false });
      }
      for (const url of [server.url, restUrl]) {
        await eventually(async () => {
          const text = await (await fetch(`${url}/metrics`)).text();
          const value = (name: string): number =>
            Number(new RegExp(`^taskwire_${name}(?:\\{worker="n1"\\})? (\\d+)$`, 'm').exec(text)?.[1]);
          expect(['connections', 'rooms', 'workers'].map(value)).to.deep.equal([2, 2, 1]);
          expect(['events_total', 'published_total', 'publish_failures_total'].map(value)).to.deep.equal([4, 4, 0]);
          // Once a connection, though each is in two rooms of the event.
          expect(value('deliveries_total')).to.equal(8);
        });
      }
    } finally {
      for (const subscriber of subscribers) {
        subscriber.close();
      }
    }
  });
});
