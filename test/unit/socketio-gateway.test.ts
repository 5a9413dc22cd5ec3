import { once } from 'node:events';
import type { Duplex } from 'node:stream';
import { expect } from 'chai';
import type { Server } from 'socket.io';
import { WebSocket } from 'ws';
import type { Admission } from '../../src/door/door.js';
import { TaskwireError } from '../../src/protocol/errors.js';
import { NAMESPACE } from '../../src/protocol/paths.js';
import { eventually } from '../support/eventually.js';
import { ADMISSION, LONG_NAMESPACE, MAX_BUFFERED_BYTES, SocketioGateway } from '../support/socketio-gateway.js';

/** A client that fetches what it is sent only when it wants to. */
class PollingClient {
  private constructor(private readonly url: string) {}

  static async open(base: string): Promise<PollingClient> {
    const url = `${base}/socket.io/?EIO=4&transport=polling`;
    const hello = await (await fetch(url)).text();
    return new PollingClient(`${url}&sid=${JSON.parse(hello.slice(1)).sid}`);
  }

  /** @returns whether the server took it */
  async send(...packets: string[]): Promise<boolean> {
    try {
      const response = await fetch(this.url, { method: 'POST', body: packets.join('\x1e') });
      return (await response.text()) === 'ok';
    } catch {
      return false;
    }
  }

  /** Ends the transport. */
  async leave(): Promise<void> {
    await fetch(this.url, { method: 'POST', body: '1' }).catch(() => {});
  }

  async fetch(): Promise<string> {
    return (await fetch(this.url)).text();
  }
}

/** Notes the pieces of each write of a socket. */
function noteWrites(socket: Duplex, writes: string[][]): void {
  const { _write, _writev } = socket;
  socket._write = (chunk, encoding, done) => {
    writes.push([Buffer.from(chunk, encoding).toString('latin1')]);
    _write.call(socket, chunk, encoding, done);
  };
  socket._writev = (chunks, done) => {
    writes.push(chunks.map(({ chunk, encoding }) => Buffer.from(chunk, encoding).toString('latin1')));
    _writev!.call(socket, chunks, done);
  };
}

describe('Socket.IO gateway', () => {
  let gateway: SocketioGateway;
  let io: Server;
  let url: string;

  beforeEach(async () => {
    gateway = await SocketioGateway.start({ directFrames: false });
    ({ io, url } = gateway);
  });

  afterEach(() => gateway.stop());

  async function enter(): Promise<PollingClient> {
    const client = await PollingClient.open(url);
    await client.send(`40${NAMESPACE},{}`);
    expect(await client.fetch()).to.match(/^40/);
    return client;
  }

  it('says in one write that it takes a WebSocket, and what its session is; each short message is one piece', async () => {
    const writes: string[][] = [];
    gateway.http.prependListener('upgrade', (_request, socket) => noteWrites(socket, writes));
    const client = new WebSocket(`${url.replace('http', 'ws')}/socket.io/?EIO=4&transport=websocket`);
    try {
      const [hello] = await once(client, 'message');
      expect(writes.map((pieces) => pieces.join(''))).to.have.length(1);
      expect(writes[0]!.join('')).to.match(/^HTTP\/1\.1 101 /);
      expect(writes[0]!.at(-1)!.slice(2)).to.equal(String(hello));
      client.send(`40${NAMESPACE},{}`);
      const [taken] = await once(client, 'message');
      expect(writes.slice(1).map((pieces) => pieces.map((piece) => piece.slice(2)))).to.deep.equal([[String(taken)]]);
    } finally {
      client.terminate();
    }
  });

  describe('refusals that nobody reads', () => {
    const ROUNDS = 20;

    for (const [title, open] of [
      ['before the namespace is entered', () => PollingClient.open(url)],
      ['in the namespace', enter],
    ] as const) {
      it(`end the connection when they are too many bytes, ${title}`, async () => {
        const client = await open();
        const taken: boolean[] = [];
        for (let round = 0; round < ROUNDS; round += 1) {
          taken.push(await client.send(`40${LONG_NAMESPACE},`));
        }
        expect(taken.slice(0, 3)).to.deep.equal([true, true, true]);
        expect(taken.slice(6)).to.not.include(true);
        expect(io.engine.clientsCount).to.equal(0);
      });
    }

    it('are not those of a client that reads', async () => {
      const client = await PollingClient.open(url);
      for (let round = 0; round < ROUNDS; round += 1) {
        expect(await client.send(`40${LONG_NAMESPACE},`)).to.equal(true);
        expect(await client.fetch()).to.match(/^44.*The namespace is/);
      }
    });

    it('are not what the client is sent beside them, which may be large', async () => {
      const client = await enter();
      const payload = Buffer.from(JSON.stringify('x'.repeat(10 * MAX_BUFFERED_BYTES)));
      gateway.entered[0]!.deliver({ type: 'JOB_TASKS_SNAPSHOT', payload });
      for (let round = 0; round < ROUNDS; round += 1) {
        expect(await client.send('40/other,')).to.equal(true);
      }
      expect(await client.fetch()).to.have.length.above(payload.length);
    });
  });

  describe('who asks for the namespace', () => {
    interface Asked {
      readonly apiKey: unknown;
      answer(admission: Admission | Error): void;
    }
    let asked: Asked[];

    beforeEach(() => {
      asked = [];
      gateway.admit = ({ auth }) =>
        new Promise((resolve, reject) => {
          asked.push({
            apiKey: (auth as { api_key?: unknown }).api_key,
            answer: (admission) => (admission instanceof Error ? reject(admission) : resolve(admission)),
          });
        });
    });

    const connect = (key: string): string => `40${NAMESPACE},{"api_key":"${key}"}`;

    /** Sockets that Socket.IO keeps although they are not in the namespace. */
    const waiting = (): number =>
      (io.of(NAMESPACE) as unknown as { _preConnectSockets: Map<string, unknown> })._preConnectSockets.size;

    it('is looked up once, and cut off when it asks again meanwhile', async () => {
      const client = await PollingClient.open(url);
      await client.send(connect('1'), ...Array.from({ length: 100 }, (_, n) => connect(String(n + 2))));
      await eventually(() => expect(io.engine.clientsCount).to.equal(0));
      expect(asked.map(({ apiKey }) => apiKey)).to.deep.equal(['1']);
      let released = 0;
      asked[0]!.answer({ ...ADMISSION, release: () => (released += 1) });
      await eventually(() => expect(released).to.equal(1));
      expect(gateway.entered).to.deep.equal([]);
      await eventually(() => expect(waiting()).to.equal(0));
    });

    for (const [title, answer] of [
      ['admitted', ADMISSION],
      ['refused', new TaskwireError('INVALID_API_KEY')],
    ] as const) {
      it(`leaves nothing behind when it is gone before it is ${title}`, async () => {
        const client = await PollingClient.open(url);
        await client.send(connect('1'));
        expect(waiting()).to.equal(1);
        await client.leave();
        await eventually(() => expect(io.engine.clientsCount).to.equal(0));
        asked[0]!.answer(answer);
        await eventually(() => expect(waiting()).to.equal(0));
      });
    }
  });
});
