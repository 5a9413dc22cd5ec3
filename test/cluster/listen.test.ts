import { once } from 'node:events';
import { Agent, type IncomingMessage, request } from 'node:http';
import { expect } from 'chai';
import { io } from 'socket.io-client';
import WebSocket from 'ws';
import { errorEntry } from '../../src/protocol/errors.js';
import { eventually } from '../support/eventually.js';
import { Instance } from '../support/instance.js';
import { freePorts } from '../support/programs.js';

const keyOf = (instance: Instance, kind: 'user' | 'service'): string =>
  new RegExp(`${kind} key +(tw_\\S+)`).exec(instance.output)![1]!;

/** Resolves when what a newcomer reads has been printed. */
async function greeted(instance: Instance): Promise<void> {
  await eventually(() => expect(instance.output).to.include('/api/ws/stats'), { timeoutMs: 30_000 });
}

/** Asks for the health. @returns status, and whether the connection was one that was used before */
async function health(agent: Agent, port: number): Promise<{ status: number; reused: boolean }> {
  const call = request({ agent, host: '127.0.0.1', port, path: '/api/ws/health' }).end();
  const [response] = (await once(call, 'response')) as [IncomingMessage];
  response.resume();
  await once(response, 'end');
  return { status: response.statusCode!, reused: call.reusedSocket };
}

/** A plain WebSocket in the room of the demonstration's job, and what it was told. */
async function subscriberOf(instance: Instance, port: number): Promise<{ socket: WebSocket; types: string[] }> {
  const socket = new WebSocket(`ws://127.0.0.1:${port}/api/ws/tasks?api_key=${keyOf(instance, 'user')}`);
  const types: string[] = [];
  socket.on('message', (text) => types.push((JSON.parse(String(text)) as { type: string }).type));
  socket.on('error', () => {});
  await once(socket, 'open');
  socket.send(JSON.stringify({ type: 'SUBSCRIBE', data: { room: 'job:1' } }));
  await eventually(() => expect(types).to.include('SUCCESS'));
  return { socket, types };
}

async function write(instance: Instance, port: number): Promise<void> {
  const answer = await fetch(`http://127.0.0.1:${port}/api/tasks`, {
    method: 'POST',
    headers: { 'x-api-key': keyOf(instance, 'service'), 'content-type': 'application/json' },
    body: '{"job_id":"1","task_definition_id":7,"is_imua":false}',
  });
  expect(answer.status).to.equal(201);
}

/** Connects over Socket.IO and asks something. */
async function talk(instance: Instance, port: number, transports: string[]): Promise<void> {
  const socket = io(`http://127.0.0.1:${port}/api/ws/tasks`, {
    auth: { api_key: keyOf(instance, 'user') },
    transports,
    forceNew: true,
    reconnection: false,
  });
  try {
    expect((await socket.emitWithAck('SUBSCRIBE', { room: 'job:1' })).room).to.equal('job:1');
  } finally {
    socket.disconnect();
  }
}

describe('one process that listens itself (WORKERS=1)', function () {
  this.timeout(120_000);

  it('serves everything on kept connections, and drains on SIGTERM', async () => {
    const instance = await Instance.start({ workers: 1 });
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    try {
      await greeted(instance);
      expect([...instance.workers]).to.deep.equal([instance.pid]);
      const { socket, types } = await subscriberOf(instance, instance.port);
      await write(instance, instance.port);
      await eventually(() => expect(types).to.include('TASK_CREATED'));
      for (const transports of [['polling'], ['websocket'], ['polling', 'websocket']]) {
        await talk(instance, instance.port, transports);
      }
      expect(await health(agent, instance.port)).to.deep.equal({ status: 200, reused: false });
      expect(await health(agent, instance.port)).to.deep.equal({ status: 200, reused: true });
      const { body } = await instance.get('/api/ws/stats');
      expect(body.data).to.include({ total_clients: 1, nodes: 1 });
      // There is nobody to replace it: it goes on.
      instance.signal('SIGHUP');
      await eventually(() => expect(instance.log.some(({ message }) => message.startsWith('SIGHUP'))).to.equal(true));
      const closed = once(socket, 'close');
      instance.signal('SIGTERM');
      expect((await closed)[0]).to.equal(errorEntry('SERVER_DRAINING').close);
      expect(await instance.end()).to.equal(0);
    } finally {
      agent.destroy();
      await instance.kill();
    }
  });

  it('says so at once when PORT is taken', async () => {
    const first = await Instance.start({ workers: 1 });
    const second = await Instance.launch({ workers: 1, port: first.port });
    try {
      expect(await second.end()).to.equal(1);
      expect(JSON.stringify(second.log)).to.include('is in use; choose another address with HOST and PORT');
    } finally {
      await first.stop();
    }
  });
});

describe('workers that listen themselves (LISTEN=workers)', function () {
  this.timeout(120_000);
  let instance: Instance;
  let ports: number[];
  const agents: Agent[] = [];

  before(async () => {
    const port = await freePorts(2);
    ports = [port, port + 1];
    instance = await Instance.start({ port, workers: 2, env: { LISTEN: 'workers' } });
    await greeted(instance);
  });

  after(async () => {
    for (const agent of agents) {
      agent.destroy();
    }
    await instance?.kill();
  });

  const keeping = (): Agent => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    agents.push(agent);
    return agent;
  };

  it('have a port each, keep connections, and tell each other of events', async () => {
    const subscribers = await Promise.all(ports.map((port) => subscriberOf(instance, port)));
    for (const [index, port] of ports.entries()) {
      const agent = keeping();
      expect(await health(agent, port)).to.deep.equal({ status: 200, reused: false });
      expect(await health(agent, port)).to.deep.equal({ status: 200, reused: true });
      await talk(instance, port, ['polling']);
      await talk(instance, port, ['polling', 'websocket']);
      await write(instance, port);
      for (const { types } of subscribers) {
        await eventually(() => expect(types.filter((type) => type === 'TASK_CREATED')).to.have.length(index + 1));
      }
    }
    for (const { socket } of subscribers) {
      socket.terminate();
    }
  });

  it('come back to their ports when they were killed', async () => {
    instance.killWorker();
    await instance.ready(2);
    for (const port of ports) {
      await eventually(async () => expect((await health(keeping(), port)).status).to.equal(200));
    }
  });

  it('are replaced on SIGHUP while their ports stay open', async () => {
    const before = new Set(instance.workers);
    const agent = new Agent();
    agents.push(agent);
    instance.signal('SIGHUP');
    const answers = new Set<number>();
    await eventually(
      async () => {
        for (const port of ports) {
          answers.add((await health(agent, port)).status);
        }
        if (!instance.log.some(({ message }) => message === 'workers replaced')) {
          throw new Error('not yet');
        }
      },
      { timeoutMs: 60_000 },
    );
    // A closed port would refuse the connection. A worker that is on its way out, or that waits for the database
    // of a busy machine, may say so.
    expect(answers).to.include(200);
    expect([...answers].filter((status) => status !== 200 && status !== 503)).to.deep.equal([]);
    expect([...instance.workers].filter((pid) => before.has(pid))).to.deep.equal([]);
    expect(instance.workers.size).to.equal(2);
  });

  it('end with their instance', async () => {
    expect(await instance.stop()).to.equal(0);
  });
});
