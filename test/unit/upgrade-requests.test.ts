import { once } from 'node:events';
import { createServer, type Server, type ServerResponse } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { expect } from 'chai';
import { Exchanges } from '../../src/http/exchanges.js';
import { ignoreOtherUpgrades } from '../../src/http/upgrade-requests.js';
import { eventually } from '../support/eventually.js';

describe('an upgrade behind an unanswered request', () => {
  let server: Server;
  let client: Socket;
  /** The server's end of the connection. */
  let near: Socket;
  let handled: string[];
  let first: ServerResponse;

  beforeEach(async () => {
    handled = [];
    server = createServer((request, response) => {
      handled.push(request.url!);
      if (request.url === '/first') {
        first = response;
      } else {
        response.end('second');
      }
    });
    server.on('upgrade', () => {});
    ignoreOtherUpgrades(server, new Exchanges(server));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const came = once(server, 'connection') as Promise<[Socket]>;
    client = connect((server.address() as AddressInfo).port, '127.0.0.1').setEncoding('latin1');
    client.on('error', () => {});
    [near] = await came;
    const upgraded = once(server, 'upgrade');
    client.write(
      'GET /first HTTP/1.1\r\nHost: a\r\n\r\nGET /second HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n',
    );
    await upgraded;
  });

  afterEach(() => {
    client.destroy();
    server.closeAllConnections();
    server.close();
  });

  /** The connection ends with an error. It would end this process if nobody listened. */
  const reset = (): Promise<void> =>
    new Promise((resolve) => {
      near.once('close', () => resolve());
      near.destroy(new Error('reset'));
    });

  it('is handled after the answer', async () => {
    expect(handled).to.deep.equal(['/first']);
    let text = '';
    client.on('data', (chunk) => {
      text += chunk;
    });
    first.end('first');
    await eventually(() => expect(text).to.match(/first[\s\S]*second/));
  });

  it('is not handled when the answer ends the connection, and an error of that is heard by somebody', async () => {
    const closed = once(first, 'close');
    first.setHeader('Connection', 'close').end('first');
    await closed;
    expect(near.listenerCount('error')).to.be.greaterThan(0);
    await reset();
    expect(handled).to.deep.equal(['/first']);
  });

  it('is forgotten when its client goes before the answer', async () => {
    await reset();
    first.end('first');
    expect(handled).to.deep.equal(['/first']);
  });
});
