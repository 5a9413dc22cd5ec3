import { once } from 'node:events';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { Instance } from '../support/instance.js';
import { POSTGRES_PROGRAMS, type PostgresServer, startPostgres } from '../support/postgres.js';
import { describeWith } from '../support/programs.js';
import { Scene } from '../support/scene.js';

/** A body of some size whose JSON is small. */
const bodyOf = (jobId: string, bytes: number): string =>
  `{"job_id":"${jobId}",${' '.repeat(bytes)}"task_definition_id":1,"is_imua":false}`;

describeWith(POSTGRES_PROGRAMS, 'request bodies through the primary', function () {
  this.timeout(60_000);
  let postgres: PostgresServer;
  let scene: Scene;
  let instance: Instance;

  before(async () => {
    postgres = await startPostgres();
    const databaseUrl = await postgres.createDatabase();
    scene = await Scene.make(databaseUrl, { users: 1, jobsPerUser: 1 });
    instance = await Instance.start({ workers: 2, env: { DATABASE_URL: databaseUrl } });
  });

  after(async () => {
    await instance?.kill();
    await scene?.close();
    await postgres?.stop();
  });

  it('are read to their end, whatever their size', async () => {
    for (const bytes of [0, 60_000, 130_000, 500_000, 900_000]) {
      const answer = await fetch(`${instance.url}/api/tasks`, {
        method: 'POST',
        headers: { 'x-api-key': scene.serviceKey, 'content-type': 'application/json' },
        body: bodyOf(scene.jobs[0]!.jobId, bytes),
      });
      expect(answer.status, `${bytes} bytes`).to.equal(201);
    }
  });

  it('are read to their end in however many pieces they come', async () => {
    const body = bodyOf(scene.jobs[0]!.jobId, 1_000);
    const head = [
      'POST /api/tasks HTTP/1.1',
      'Host: 127.0.0.1',
      `X-Api-Key: ${scene.serviceKey}`,
      'Content-Type: application/json',
      `Content-Length: ${body.length}`,
      '\r\n',
    ].join('\r\n');
    const socket = connect(instance.port, '127.0.0.1');
    await once(socket, 'connect');
    let answer = '';
    socket.setEncoding('latin1').on('data', (text) => {
      answer += text;
    });
    socket.write(head);
    for (let from = 0; from < body.length; from += 200) {
      // Each piece is a read of its own.
      await sleep(20);
      socket.write(body.slice(from, from + 200));
    }
    await once(socket, 'close');
    expect(answer).to.match(/^HTTP\/1\.1 201 /);
  });
});
