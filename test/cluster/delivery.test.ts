import { expect } from 'chai';
import { Account } from '../support/account.js';
import { eventually } from '../support/eventually.js';
import { Instance } from '../support/instance.js';
import { POSTGRES_PROGRAMS, sharedPostgres } from '../support/postgres.js';
import { describeWith } from '../support/programs.js';
import { REDIS_PROGRAMS, startRedis } from '../support/redis.js';
import { RestWrites, Scene } from '../support/scene.js';
import { Subscriber, type Wire } from '../support/subscriber.js';
import { random, Writer, writeAll } from '../support/writers.js';

const USERS = 5;
const JOBS_PER_USER = 10;
const SUBSCRIBERS = 100;
const WRITERS = 8;
const WRITES = 5_000;

const DROPPING = new URL('../support/drop-messages.js', import.meta.url).href;

describeWith([...POSTGRES_PROGRAMS, ...REDIS_PROGRAMS], 'delivery by two instances of two workers', function () {
  this.timeout(180_000);

  for (const [title, preload] of [
    ['with a broker that works', undefined],
    ['while every third broker message is lost', DROPPING],
  ] as const) {
    it(`reaches every subscriber once, in order, ${title}`, async () => {
      const databaseUrl = await (await sharedPostgres()).createDatabase();
      const redis = await startRedis();
      const scene = await Scene.make(databaseUrl, { users: USERS, jobsPerUser: JOBS_PER_USER });
      const env = { DATABASE_URL: databaseUrl, REDIS_URL: redis.url };
      const options = { env, ...(preload === undefined ? {} : { preload }) };
      const instances = await Promise.all([Instance.start(options), Instance.start(options)]);
      const urls = instances.map(({ url }) => url);
      const subscribers: Subscriber[] = [];
      try {
        const next = random(7);
        for (let index = 0; index < SUBSCRIBERS; index += 1) {
          const wire: Wire = index % 2 === 0 ? 'websocket' : 'socket.io';
          const user = `user_${(index % USERS) + 1}`;
          const jobs = scene.jobs.filter(({ userId }) => userId === user);
          const rooms = Array.from({ length: 3 }, () => `job:${jobs[Math.floor(next() * jobs.length)]!.jobId}`);
          // Some sit in several rooms of one event.
          const all = index % 5 === 0 ? [...rooms, `user:${user}`] : rooms;
          const url = urls[Math.floor(index / 2) % urls.length]!;
          subscribers.push(new Subscriber(wire, url, scene.keys.get(user)!, [...new Set(all)]));
        }
        await eventually(() => expect(subscribers.filter(({ live }) => !live)).to.have.length(0), {
          timeoutMs: 30_000,
        });
        for (const instance of instances) {
          await eventually(async () => {
            const { body } = await instance.get('/api/ws/stats');
            expect(body.data.total_clients).to.equal(SUBSCRIBERS);
            expect(body.data.nodes).to.equal(4);
          });
        }

        const writes = new RestWrites(() => urls, scene.serviceKey);
        const writers = Array.from({ length: WRITERS }, (_, index) => new Writer(writes, scene.jobs, random(index)));
        const made = await writeAll(writers, WRITES);
        expect(made).to.have.length(WRITES);

        const account = new Account(scene.db);
        for (const subscriber of subscribers) {
          await account.settle(subscriber, 30_000);
          await account.compareState(subscriber);
          expect(subscriber.connections).to.equal(1);
          expect(subscriber.refusals).to.deep.equal([]);
        }
      } finally {
        for (const subscriber of subscribers) {
          subscriber.close();
        }
        await Promise.all(instances.map((instance) => instance.stop()));
        await scene.close();
        await redis.stop();
      }
    });
  }
});
