import { expect } from 'chai';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { eventually } from '../support/eventually.js';
import { PlainClient } from '../support/plain-client.js';
import { POSTGRES_PROGRAMS, sharedPostgres } from '../support/postgres.js';
import { describeWith } from '../support/programs.js';
import { Scene } from '../support/scene.js';
import { InProcessServer } from '../support/task-server.js';

// biome-ignore lint/suspicious/noExplicitAny: tests look into messages of every form
type Any = any;

describeWith(POSTGRES_PROGRAMS, 'a task that another program gives to another user', function () {
  this.timeout(60_000);
  let scene: Scene;
  let server: InProcessServer;
  const clients: PlainClient[] = [];

  before(async () => {
    const url = await (await sharedPostgres()).createDatabase();
    scene = await Scene.make(url, { users: 2, jobsPerUser: 2 });
    server = new InProcessServer(url, { RECONCILE_MS: '50', RECONCILE_IDLE_MS: '50' });
    await server.start();
  });

  after(async () => {
    for (const { socket } of clients) {
      socket.terminate();
    }
    await server?.stop();
    await scene?.close();
  });

  async function open(key: string, ...rooms: string[]): Promise<PlainClient> {
    const client = new PlainClient(`${server.url}/api/ws/tasks`, { 'x-api-key': key });
    clients.push(client);
    await eventually(() => expect(client.socket.readyState).to.equal(1));
    if (rooms.length > 0) {
      client.send({ type: 'SUBSCRIBE', data: { rooms }, request_id: 'open' });
      const { data } = await client.answer('open');
      expect(data.data.failed, JSON.stringify(data)).to.equal(undefined);
    }
    return client;
  }

  const told = (client: PlainClient): string[] =>
    client.messages
      .filter(({ type }) => /^TASK_(CREATED|UPDATED|DELETED|STATUS_CHANGED|FEE_UPDATED)$/.test(type))
      .map(({ type, data }) => `${type} ${data.user_id} ${data.job_id}`);
  const get = async (path: string, key: string): Promise<{ status: number; body: Any }> => {
    const response = await fetch(`${server.url}${path}`, { headers: { 'x-api-key': key } });
    return { status: response.status, body: await response.json() };
  };

  it('is deleted for the one and created for the other, and nobody sees what is not theirs any more', async () => {
    const [ada, bob] = ['user_1', 'user_2'].map((user) => scene.keys.get(user)!) as [string, string];
    const [adas, , bobs, bobsOther] = scene.jobs.map(({ jobId }) => jobId) as [string, string, string, string];
    const tasks = new TaskRepository(scene.db);
    const { task_id } = await tasks.createTaskData({ job_id: adas, task_definition_id: 1 });
    const from = await open(ada, `job:${adas}`, `task:${task_id}`, 'user:user_1');
    const to = await open(bob, `job:${bobs}`, 'user:user_2');
    const all = await open(scene.serviceKey, `job:${adas}`, `job:${bobs}`, `task:${task_id}`);
    // Whose it is, is known here from now on.
    expect((await get(`/api/tasks/${task_id}`, ada)).status).to.equal(200);
    expect((await get(`/api/tasks/${task_id}`, scene.serviceKey)).status).to.equal(200);

    await scene.db.raw(`UPDATE tasks SET job_id = ?, user_id = 'user_2', tx_url = 'moved' WHERE task_id = ?`, [
      bobs,
      task_id,
    ]);
    // Whoever asks while it is remembered whose it was is sent away, and nobody else with him.
    const early = await open(scene.serviceKey);
    early.send({ type: 'SUBSCRIBE', data: { room: `task:${task_id}`, snapshot: true }, request_id: '1' });
    expect(['STREAM_RESET', undefined]).to.include((await early.answer('1')).data.code);
    // At once, whatever is remembered of before.
    expect((await get(`/api/tasks/${task_id}`, ada)).status).to.equal(403);
    expect((await get(`/api/tasks/${task_id}`, bob)).body).to.include({ user_id: 'user_2', tx_url: 'moved' });
    expect((await get(`/api/tasks/${task_id}`, scene.serviceKey)).body.user_id).to.equal('user_2');
    await tasks.updateTaskFee(task_id, 3);
    await eventually(() => {
      expect(told(from)).to.deep.equal([`TASK_DELETED user_1 ${adas}`]);
      expect(told(to)).to.deep.equal([`TASK_CREATED user_2 ${bobs}`, `TASK_FEE_UPDATED user_2 ${bobs}`]);
      // Two streams have no order between them.
      expect(told(all).sort()).to.deep.equal([
        `TASK_CREATED user_2 ${bobs}`,
        `TASK_DELETED user_1 ${adas}`,
        `TASK_FEE_UPDATED user_2 ${bobs}`,
      ]);
    });

    // Whoever asks for its room now is in the stream of the other user, and disturbs nobody in that of before.
    await eventually(
      async () => {
        const again = await open(scene.serviceKey);
        again.send({ type: 'SUBSCRIBE', data: { room: `task:${task_id}`, snapshot: true }, request_id: '1' });
        again.send({ type: 'SUBSCRIBE', data: { room: `job:${adas}` }, request_id: '2' });
        expect((await again.answer('1')).type).to.equal('SUCCESS');
        expect((await again.answer('2')).type).to.equal('SUCCESS');
        const [snapshot] = again.messages.filter(({ type }) => type === 'TASK_SNAPSHOT');
        expect(snapshot.data).to.deep.include({ user_id: 'user_2' });
        expect(snapshot.data.tasks[0].task_opx_cost).to.equal(3);
      },
      { timeoutMs: 20_000 },
    );
    const old = await open(ada);
    old.send({ type: 'SUBSCRIBE', data: { room: `task:${task_id}`, snapshot: true }, request_id: '1' });
    expect((await old.answer('1')).data.code).to.equal('ACCESS_DENIED');
    expect([from, to, all].map(({ closed }) => closed)).to.deep.equal([undefined, undefined, undefined]);

    // Who has been in the room all the time asks again, and is in it once.
    all.send({ type: 'SUBSCRIBE', data: { room: `task:${task_id}` }, request_id: 'again' });
    expect((await all.answer('again')).type).to.equal('SUCCESS');
    all.send({ type: 'PING', request_id: 'ping' });
    const { positions } = (await all.answer('ping')).data;
    const rooms = positions.map(({ room }: { room: string }) => room).sort();
    expect(rooms).to.deep.equal([`job:${adas}`, `job:${bobs}`, `task:${task_id}`].sort());
    all.send({ type: 'UNSUBSCRIBE', data: { rooms: [`task:${task_id}`, `job:${bobs}`] }, request_id: 'left' });
    expect((await all.answer('left')).type).to.equal('SUCCESS');
    const heard = told(all).length;
    await tasks.updateTaskFee(task_id, 4);
    await eventually(() => expect(told(to)).to.have.length(3));
    all.send({ type: 'PING', request_id: 'pong' });
    expect((await all.answer('pong')).data.positions).to.have.length(1);
    expect(told(all)).to.have.length(heard);

    // To another job of the same user: both rooms are told, in one order.
    const both = await open(bob, `job:${bobsOther}`, `job:${bobs}`);
    await scene.db.raw('UPDATE tasks SET job_id = ? WHERE task_id = ?', [bobsOther, task_id]);
    await eventually(() =>
      expect(told(both)).to.deep.equal([`TASK_DELETED user_2 ${bobs}`, `TASK_CREATED user_2 ${bobsOther}`]),
    );
  });
});
