import { once } from 'node:events';
import { type AddressInfo, connect, createServer } from 'node:net';
import { expect } from 'chai';
import { closePort } from '../../src/base/port.js';

describe('a port', () => {
  it('is closed when everybody is in who stood before it', async () => {
    const server = createServer();
    let accepted = 0;
    server.on('connection', (socket) => {
      accepted += 1;
      socket.end();
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const closed = Array.from({ length: 20 }, () => once(connect(port, '127.0.0.1').resume(), 'close'));
    // The system has taken them all in; this process has seen none of them yet.
    await new Promise<void>((resolve) => process.nextTick(resolve));
    expect(accepted).to.equal(0);
    await closePort(server);
    expect(server.listening).to.equal(false);
    await Promise.all(closed);
    expect(accepted).to.equal(20);
    const [error] = await once(connect(port, '127.0.0.1'), 'error');
    expect((error as NodeJS.ErrnoException).code).to.equal('ECONNREFUSED');
  });
});
