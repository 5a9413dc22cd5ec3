import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { expect } from 'chai';
import type { Knex } from 'knex';
import WebSocket from 'ws';
import { silentLogger } from '../../src/base/logger.js';
import { loadConfig } from '../../src/config.js';
import { connectDatabase } from '../../src/database/connect-database.js';
import { Maintenance } from '../../src/door/key-watch.js';
import { errorEntry } from '../../src/protocol/errors.js';
import { ApiKeyRepository, hashApiKey } from '../../src/repository/api-key-repository.js';
import { EventLog } from '../../src/repository/event-log.js';
import { EventRetention } from '../../src/repository/event-retention.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { createServer } from '../../src/server.js';
import { closeTables, expireTables } from '../support/event-tables.js';
import { eventually } from '../support/eventually.js';
import { FakeBrokers } from '../support/fake-broker.js';
import { embeddedForTest } from '../support/task-server.js';

describe('maintenance of a worker', function () {
  this.timeout(60_000);
  let database: Awaited<ReturnType<typeof embeddedForTest>>;
  let db: Knex;
  let apiKeys: ApiKeyRepository;

  before(async () => {
    database = await embeddedForTest();
    db = connectDatabase({ url: database.url, pool: 2 });
    apiKeys = new ApiKeyRepository(db);
  });

  after(async () => {
    await db?.destroy();
    await database?.stop();
  });

  it('removes expired events and closes connections of disabled keys, by itself', async () => {
    const log = new EventLog(db);
    const tasks = new TaskRepository(db, { publish() {} });
    await new JobRepository(db).create({ job_id: 1, user_id: 'ada' });
    const { task_id } = await tasks.createTaskData({ job_id: 1, task_definition_id: 1 });
    await tasks.updateTaskFee(task_id, 1);
    await closeTables(db);
    await expireTables(db);
    await tasks.updateTaskFee(task_id, 2);
    const [good, bad] = await Promise.all(['ada', 'eve'].map((owner) => apiKeys.create({ owner })));
    const closed = new Set<string>();
    const maintenance = new Maintenance({
      log: new EventRetention(db),
      cleanWriteKeys: async () => 0,
      apiKeys,
      connections: {
        keyIds: () => [good!, bad!].map(({ record }) => record.key_id),
        closeByKey: (keyId, code) => closed.add(`${keyId} ${code}`),
      },
      retentionHours: 2,
      logger: silentLogger,
      trimMs: 20,
      checkMs: 20,
    });
    maintenance.start();
    try {
      await eventually(async () => expect(await log.state('ada')).to.include({ seq: 3, floor: 2 }));
      expect([...closed]).to.deep.equal([]);
      await apiKeys.disable(bad!.record.key_id);
      await eventually(() => expect([...closed]).to.deep.equal([`${bad!.record.key_id} INACTIVE_API_KEY`]));
    } finally {
      maintenance.stop();
    }
  });

  it('looks at the keys when the broker is back, and writes down when keys were used', async () => {
    const { key, record } = await apiKeys.create({ owner: 'ada', rate_limit: 10_000 });
    const whenUp: Array<() => void> = [];
    const broker = Object.assign(new FakeBrokers().add('n1'), {
      onUp: (listener: () => void): unknown => whenUp.push(listener),
    });
    const server = createServer({ config: loadConfig({}), databaseUrl: database.url, broker, logger: silentLogger });
    await server.start();
    try {
      server.http.listen(0, '127.0.0.1');
      await once(server.http, 'listening');
      const { port } = server.http.address() as AddressInfo;
      const socket = new WebSocket(`ws://127.0.0.1:${port}/api/ws/tasks`, { headers: { 'x-api-key': key } });
      await once(socket, 'open');
      socket.send(JSON.stringify({ type: 'PING' }));
      await once(socket, 'message');
      const ended = once(socket, 'close');
      // Nobody can be told.
      await apiKeys.disable(record.key_id);
      for (const listener of whenUp) {
        listener();
      }
      const [code] = (await ended) as [number];
      expect(code).to.equal(errorEntry('INACTIVE_API_KEY').close);
      const refused = await fetch(`http://127.0.0.1:${port}/api/tasks/1`, { headers: { 'x-api-key': key } });
      expect(refused.status).to.equal(errorEntry('INACTIVE_API_KEY').status);
    } finally {
      server.http.close();
      await server.stop();
    }
    expect((await apiKeys.findByHash(hashApiKey(key)))!.last_used_at).to.match(/^\d{4}-/);
  });
});
