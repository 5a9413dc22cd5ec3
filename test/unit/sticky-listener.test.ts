import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { expect } from 'chai';
import { createStickyListener } from '../../src/cluster/sticky-listener.js';
import { errorEntry } from '../../src/protocol/errors.js';

describe('sticky listener', () => {
  it('answers with an error of the table while no worker takes connections', async () => {
    const listener = createStickyListener(() => false);
    listener.listen(0, '127.0.0.1');
    await once(listener, 'listening');
    try {
      const { port } = listener.address() as AddressInfo;
      const response = await fetch(`http://127.0.0.1:${port}/api/tasks`, { method: 'POST', body: '{}' });
      const { status, message } = errorEntry('SERVER_DRAINING');
      expect(response.status).to.equal(status);
      expect(response.headers.get('retry-after')).to.equal('1');
      expect(response.headers.get('content-type')).to.match(/^application\/json/);
      expect(await response.json()).to.deep.equal({ error: { code: 'SERVER_DRAINING', message } });
    } finally {
      listener.close();
    }
  });
});
