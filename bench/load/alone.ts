/**
 * What the load generator can do alone: a server that does nothing but write frames that it made beforehand. Prints the
 * generator's CPU time per delivery, with frames written one by one and many at a time.
 *
 *     node dist/bench/load/alone.js [--smoke]
 */
import { fork } from 'node:child_process';
import { createServer, type Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import { micros } from '../lib/clock.js';
import { ENVELOPE_BYTES } from '../lib/injector.js';
import { pinning, pinSelf } from '../lib/machine.js';
import { short, table } from '../lib/table.js';
import { Fleet } from './fleet.js';
import { PLACE, serverFrame, WIRES, type Wire } from './frames.js';

const smoke = process.argv.includes('--smoke');
const CONNECTIONS = smoke ? 20 : 500;
const EVENTS = smoke ? 100 : 2_000;

function envelope(wire: Wire, seq: number): Buffer {
  const start = `{"type":"TASK_UPDATED","seq":${seq},"data":{"proof_of_task":"`;
  const text = `${start.padEnd(ENVELOPE_BYTES - 3, 'x')}"}}`;
  return serverFrame(Buffer.from(wire === 'plain' ? text : `42${PLACE},["TASK_UPDATED",${text}]`));
}

/** Speaks just enough of both protocols; on a message `together` it writes all events to all clients. */
function serve(): void {
  const sockets = new Set<Socket>();
  let wire: Wire = 'plain';
  const text = (socket: Socket, words: string): boolean => socket.write(serverFrame(Buffer.from(words)));
  const server = createServer((socket) => {
    let step = 0;
    socket.setNoDelay(true);
    socket.on('error', () => {});
    socket.on('close', () => sockets.delete(socket));
    socket.on('data', (bytes) => {
      step += 1;
      if (step === 1) {
        wire = bytes.includes('EIO=4') ? 'socketio' : 'plain';
        socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n');
        if (wire === 'socketio') {
          text(socket, '0{"sid":"1","upgrades":[],"pingInterval":25000,"pingTimeout":20000}');
        }
      } else if (wire === 'plain') {
        sockets.add(socket);
        text(socket, '{"type":"SUCCESS","data":{"data":{}}}');
      } else if (step === 2) {
        text(socket, `40${PLACE},{"sid":"1"}`);
      } else {
        sockets.add(socket);
        text(socket, `43${PLACE},0[{}]`);
      }
    });
  });
  process.on('message', ({ together, first }: { together: number; first: number }) => {
    let from = 0;
    const next = (): void => {
      const frames = Array.from({ length: together }, (_, place) => envelope(wire, first + from + place));
      const bytes = Buffer.concat(frames);
      for (const socket of sockets) {
        socket.write(bytes);
      }
      from += together;
      if (from < EVENTS) {
        setImmediate(next);
      }
    };
    next();
  });
  process.on('disconnect', () => process.exit());
  server.listen(0, '127.0.0.1', () => process.send?.((server.address() as { port: number }).port));
}

async function main(): Promise<void> {
  const cores = smoke ? {} : pinning();
  pinSelf(cores.server);
  const rows: string[][] = [];
  for (const wire of WIRES) {
    const child = fork(fileURLToPath(import.meta.url), ['serve', ...process.argv.slice(2)]);
    const port = await new Promise<number>((resolve) => child.once('message', (message) => resolve(message as number)));
    const fleet = new Fleet(1, cores.load);
    const accounts = new Array<number>(CONNECTIONS).fill(0);
    const rooms = accounts.map(() => ['job:1']);
    await fleet.open([{ port, wire, key: 'none' }], rooms, accounts);
    let first = 1;
    for (const together of [1, 10, 100]) {
      await fleet.begin(100);
      const start = micros();
      child.send({ together, first });
      let counted = await fleet.count();
      while (counted.delivered < CONNECTIONS * EVENTS) {
        await new Promise((resolve) => setTimeout(resolve, 20));
        counted = await fleet.count();
      }
      const sums = Float64Array.of((EVENTS * (2 * first + EVENTS - 1)) / 2);
      const ended = await fleet.end({ counts: Float64Array.of(EVENTS), sums, stamps: new Float64Array(0) });
      if (ended.lost + ended.extra + ended.disordered + ended.wrong > 0) {
        throw new Error('the load generator has miscounted');
      }
      rows.push([
        `${wire}, ${together} frames at a time`,
        short(counted.cpuMicros / counted.delivered),
        short((counted.delivered / (counted.lastMicros - start)) * 1e6),
      ]);
      first += EVENTS;
    }
    await fleet.stop();
    child.disconnect();
  }
  console.log(table(['load generator alone', 'us per delivery', 'deliveries/s'], rows));
}

if (process.argv[2] === 'serve') {
  serve();
} else {
  await main();
}
