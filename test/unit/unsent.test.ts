import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { expect } from 'chai';
import { unsentBytes } from '../../src/base/unsent.js';
import { eventually } from '../support/eventually.js';

describe('unsent bytes', () => {
  it('fall while one large write is being sent', async () => {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const client = connect((server.address() as AddressInfo).port, '127.0.0.1');
    const [socket] = (await once(server, 'connection')) as [Socket];
    client.pause();
    const size = 64 * 1_048_576;
    socket.write(Buffer.alloc(size));
    expect(socket.writableLength).to.equal(size);
    const before = unsentBytes(socket);
    expect(before).to.be.greaterThan(size);
    let taken = 0;
    client.on('data', (chunk) => {
      taken += chunk.length;
      if (taken > 8 * 1_048_576) {
        client.pause();
      }
    });
    client.resume();
    await eventually(() => expect(unsentBytes(socket)).to.be.below(before));
    expect(socket.writableLength, 'the write is not done').to.equal(size);
    client.destroy();
    socket.destroy();
    server.close();
  });
});
