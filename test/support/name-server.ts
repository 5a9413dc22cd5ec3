import { createSocket } from 'node:dgram';
import { once } from 'node:events';

/** IPv4 addresses by name. Those of one name are told in this order. */
export type Addresses = Map<string, string | readonly string[]>;

/** A DNS server on a free port of 127.0.0.1 that knows IPv4 addresses of some names, which may change. */
export async function startNameServer(addresses: Addresses): Promise<{ port: number; stop(): void }> {
  const socket = createSocket('udp4');
  socket.on('message', (query, { port, address }) => {
    const labels: string[] = [];
    let at = 12;
    while (query[at]! > 0) {
      labels.push(query.toString('latin1', at + 1, at + 1 + query[at]!));
      at += 1 + query[at]!;
    }
    const question = query.subarray(12, at + 5);
    const wanted = query.readUInt16BE(at + 1) === 1 ? [addresses.get(labels.join('.')) ?? []].flat() : [];
    const header = Buffer.alloc(12);
    query.copy(header, 0, 0, 2);
    header.writeUInt16BE(0x8180, 2);
    header.writeUInt16BE(1, 4);
    header.writeUInt16BE(wanted.length, 6);
    // A pointer to the name, type A, class IN, to be kept for a second, four bytes.
    const answers = wanted.flatMap((one) => [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, ...one.split('.').map(Number)]);
    socket.send(Buffer.concat([header, question, Buffer.from(answers)]), port, address);
  });
  socket.bind(0, '127.0.0.1');
  await once(socket, 'listening');
  return { port: socket.address().port, stop: () => void socket.close() };
}
