import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import WebSocket from 'ws';
import { eventually } from '../support/eventually.js';
import { Instance } from '../support/instance.js';
import { freePort } from '../support/programs.js';

const LOOPING = new URL('../support/looping-worker.js', import.meta.url).href;
/** A worker that hangs is killed after 20 s. */
const REPLACED_MS = 60_000;
/** Longer than a worker may be silent. */
const ASLEEP_MS = 6_000;

interface Answer {
  /** All that came until the connection ended. */
  text: string;
  ended: boolean;
}

/** Asks for the health on a connection of its own. */
function ask(port: number, sockets: Socket[]): Answer {
  const answer: Answer = { text: '', ended: false };
  const socket = connect(port, '127.0.0.1');
  sockets.push(socket);
  socket.setEncoding('latin1');
  socket.on('data', (text) => {
    answer.text += text;
  });
  socket.on('error', () => {});
  socket.on('close', () => {
    answer.ended = true;
  });
  socket.write('GET /api/ws/health HTTP/1.1\r\nHost: a\r\n\r\n');
  return answer;
}

const isAnswered = ({ text }: Answer): boolean => text.startsWith('HTTP/1.1 200 ');

/** Lines of the log that begin with a text. @param after so many lines */
const linesOf = (instance: Instance, message: string, after = 0) =>
  instance.log.slice(after).filter((line) => line.message.startsWith(message));

/** One of two workers hangs: what is to become of it, and of those who come meanwhile. */
async function hang(signal: NodeJS.Signals): Promise<void> {
  const instance = await Instance.start({ workers: 2, preload: LOOPING });
  const sockets: Socket[] = [];
  const said = (message: string) => linesOf(instance, message).map(({ worker }) => worker);
  try {
    const [hung] = [...instance.workers] as [number];
    process.kill(hung, signal);
    const first = Array.from({ length: 40 }, () => ask(instance.port, sockets));
    // All but the one that was on its way already.
    await eventually(() => expect(first.filter(isAnswered)).to.have.length.at.least(39), { timeoutMs: 30_000 });
    expect(said('worker does not answer: it gets no new connections')).to.deep.equal([hung]);
    expect(said('worker does not answer: it is killed')).to.deep.equal([]);
    const second = Array.from({ length: 40 }, () => ask(instance.port, sockets));
    await eventually(() => expect(second.filter(isAnswered)).to.have.length(40));
    await eventually(
      () => {
        expect(said('worker does not answer: it is killed')).to.deep.equal([hung]);
        expect([...instance.workers])
          .to.have.length(2)
          .and.not.include(hung);
      },
      { timeoutMs: REPLACED_MS },
    );
    // Nobody waits for what will never come.
    await eventually(() => expect(first.filter(({ ended }) => !ended)).to.deep.equal([]));
  } finally {
    for (const socket of sockets) {
      socket.destroy();
    }
    await instance.kill();
  }
}

const HANGS = [
  ['is stopped', 'SIGSTOP'],
  ['runs in an endless loop', 'SIGUSR2'],
] as const;

describe('a worker that hangs', function () {
  this.timeout(180_000);
  const work = new Map<string, Promise<void>>();

  // It takes twenty seconds until it is killed: both wait for that beside each other.
  before(() => {
    for (const [, signal] of HANGS) {
      const hanging = hang(signal);
      hanging.catch(() => {});
      work.set(signal, hanging);
    }
  });

  after(() => Promise.allSettled(work.values()));

  for (const [how, signal] of HANGS) {
    it(`as it ${how}, gets no new connections, loses those that wait for it to another, and is replaced`, () =>
      work.get(signal));
  }
});

describe('workers that come back', function () {
  this.timeout(180_000);
  let instance: Instance;
  let restPort: number;
  let sockets: Socket[];
  /** Lines of the log before the test. */
  let linesBefore: number;

  before(async () => {
    restPort = await freePort();
    instance = await Instance.start({ workers: 2, env: { REST_PORT: String(restPort) } });
  });

  beforeEach(() => {
    sockets = [];
    linesBefore = instance.log.length;
  });

  afterEach(() => {
    for (const socket of sockets) {
      socket.destroy();
    }
    expect(instance.crashes).to.deep.equal([]);
  });

  after(() => instance?.kill());

  const said = (message: string) => linesOf(instance, message, linesBefore);

  it('hold up no requests to REST_PORT meanwhile', async () => {
    const [held] = [...instance.workers] as [number];
    process.kill(held, 'SIGSTOP');
    const answers = Array.from({ length: 20 }, () => ask(restPort, sockets));
    await eventually(() => expect(answers.filter(isAnswered)).to.have.length(20));
    expect(said('worker does not answer: it is killed')).to.deep.equal([]);
    process.kill(held, 'SIGCONT');
    await eventually(() => expect(said('worker does not answer')).to.have.length(said('worker answers again').length));
  });

  it('get connections again', async () => {
    const [held, other] = [...instance.workers] as [number, number];
    process.kill(held, 'SIGSTOP');
    await eventually(() => expect(said('worker does not answer')).to.have.length(1), { timeoutMs: 30_000 });
    process.kill(held, 'SIGCONT');
    await eventually(() => expect(said('worker answers again').map(({ worker }) => worker)).to.deep.equal([held]));
    process.kill(other, 'SIGSTOP');
    const answers = Array.from({ length: 20 }, () => ask(instance.port, sockets));
    await eventually(() => expect(answers.filter(isAnswered)).to.have.length.at.least(19), { timeoutMs: 30_000 });
    process.kill(other, 'SIGCONT');
    await eventually(() => expect(answers.filter(isAnswered)).to.have.length(20), { timeoutMs: 30_000 });
    await eventually(() => expect(said('worker answers again')).to.have.length(2));
  });

  it('are not killed when the instance was asleep as a whole', async () => {
    const pids = [instance.pid, ...instance.workers];
    const workers = new Set(instance.workers);
    for (const pid of pids) {
      process.kill(pid, 'SIGSTOP');
    }
    await sleep(ASLEEP_MS);
    for (const pid of pids) {
      process.kill(pid, 'SIGCONT');
    }
    const answers = Array.from({ length: 20 }, () => ask(instance.port, sockets));
    await eventually(() => expect(answers.filter(isAnswered)).to.have.length(20));
    expect(said('worker does not answer')).to.deep.equal([]);
    expect(instance.workers).to.deep.equal(workers);
  });
});

describe('connections and workers', function () {
  this.timeout(180_000);
  let instance: Instance;
  let sockets: Socket[];

  beforeEach(() => {
    sockets = [];
  });

  afterEach(async () => {
    for (const socket of sockets) {
      socket.destroy();
    }
    await instance?.kill();
  });

  const said = (message: string) => linesOf(instance, message);

  it('1,000 connects at once are spread evenly over three workers', async () => {
    instance = await Instance.start({ workers: 3, env: { LOG_LEVEL: 'debug' } });
    await eventually(() => expect(instance.output).to.include('user key'), { timeoutMs: 30_000 });
    const key = /user key +(tw_\S+)/.exec(instance.output)![1]!;
    const clients = Array.from(
      { length: 1_000 },
      () => new WebSocket(`${instance.url.replace('http', 'ws')}/api/ws/tasks?api_key=${key}`),
    );
    try {
      await Promise.all(clients.map((client) => once(client, 'open')));
      await eventually(() => expect(said('connected')).to.have.length(1_000));
      const counts = [...instance.workers].map((pid) => said('connected').filter((line) => line['pid'] === pid).length);
      expect(Math.max(...counts) / Math.min(...counts), counts.join()).to.be.at.most(1.2);
      expect(counts).to.have.length(3);
    } finally {
      for (const client of clients) {
        client.on('error', () => {}).terminate();
      }
    }
  });

  for (const workers of [2, 1]) {
    it(`whoever stands in the system's queue when an instance of ${workers} is told to end is answered`, async () => {
      instance = await Instance.start({ workers });
      // What comes while it is stopped is accepted by the system, in its name.
      process.kill(instance.pid, 'SIGSTOP');
      const answers = Array.from({ length: 50 }, () => ask(instance.port, sockets));
      await eventually(() => expect(sockets.filter(({ connecting }) => connecting)).to.deep.equal([]));
      instance.signal('SIGTERM');
      process.kill(instance.pid, 'SIGCONT');
      expect(await instance.end()).to.equal(0);
      await eventually(() => expect(answers.filter(({ ended }) => !ended)).to.deep.equal([]));
      expect(answers.filter(({ text }) => !/^HTTP\/1\.1 (?:200|503) /.test(text))).to.deep.equal([]);
    });
  }

  it('the port is closed until a worker can serve, and while none can', async () => {
    const port = await freePort();
    instance = await Instance.launch({ port, workers: 2 });
    const asking = async (until: (answers: readonly Answer[]) => boolean): Promise<Set<string>> => {
      const answers: Answer[] = [];
      await eventually(
        () => {
          answers.push(ask(port, sockets));
          expect(until(answers)).to.equal(true);
        },
        { timeoutMs: 60_000, intervalMs: 5 },
      );
      await eventually(() => expect(answers.filter(({ ended }) => !ended)).to.deep.equal([]), { timeoutMs: 30_000 });
      return new Set(answers.map(({ text }) => text.slice(0, 13)));
    };
    // At the start a connection is refused, or a worker answers.
    expect([...(await asking((answers) => answers.some(isAnswered)))].sort()).to.deep.equal(['', 'HTTP/1.1 200 ']);
    await instance.ready(2);
    instance.killWorker();
    instance.killWorker();
    // Those that had been accepted are turned away.
    const seen = await asking(() => said('port opened').length === 2);
    expect([...seen].filter((text) => !['', 'HTTP/1.1 200 ', 'HTTP/1.1 503 '].includes(text))).to.deep.equal([]);
    expect(said('port closed')).to.have.length(1);
    const late = ask(port, sockets);
    await eventually(() => expect(isAnswered(late)).to.equal(true));
  });
});
