import { EventEmitter } from 'node:events';
import { mock } from 'node:test';
import { expect } from 'chai';
import { tidyAfterStorms } from '../../src/cluster/tidy.js';

describe('garbage of a storm of connections', () => {
  beforeEach(() => mock.timers.enable({ apis: ['setInterval'] }));
  afterEach(() => mock.timers.reset());

  it('is collected once, when nobody comes any more', () => {
    const http = new EventEmitter();
    let collected = 0;
    tidyAfterStorms(http, () => {
      collected += 1;
    });
    const come = (connections: number): void => {
      for (let count = 0; count < connections; count += 1) {
        http.emit('connection');
      }
    };
    come(400);
    mock.timers.tick(60_000);
    expect(collected).to.equal(0);

    for (let look = 0; look < 3; look += 1) {
      come(400);
      mock.timers.tick(15_000);
      expect(collected).to.equal(0);
    }
    mock.timers.tick(15_000);
    expect(collected).to.equal(1);
    mock.timers.tick(60_000);
    expect(collected).to.equal(1);
  });
});
