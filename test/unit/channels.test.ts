import { expect } from 'chai';
import { Channels } from '../../src/broker/channels.js';

const bytes = (...texts: string[]): Buffer[] => texts.map((text) => Buffer.from(text));

describe('listeners of a broker', () => {
  let failures: unknown[];
  let heard: string[];
  const logger = { error: (_message: string, fields: unknown): unknown => failures.push(fields) };
  const failure = new Error('listener');
  const fail = (): never => {
    throw failure;
  };

  beforeEach(() => {
    failures = [];
    heard = [];
  });

  it('get their messages when one of them throws, and so does that one the next time', async () => {
    const channels = new Channels(logger);
    let attempts = 0;
    channels.set('a', (batch) => heard.push(`a ${batch.join()}`));
    channels.set('b', () => {
      attempts += 1;
      fail();
    });
    channels.set('c', (batch) => heard.push(`c ${batch.join()}`));
    for (const round of ['1', '2']) {
      for (const channel of ['a', 'b', 'c']) {
        for (const message of bytes(`${round}1`, `${round}2`)) {
          channels.take(channel, message);
        }
      }
      await Promise.resolve();
    }
    expect(heard).to.deep.equal(['a 11,12', 'c 11,12', 'a 21,22', 'c 21,22']);
    expect(attempts).to.equal(2);
    expect(failures).to.deep.equal([
      { channel: 'b', error: failure },
      { channel: 'b', error: failure },
    ]);
  });
});
