import { setImmediate } from 'node:timers/promises';
import { expect } from 'chai';
import type { WorkerSessions } from '../../src/cluster/messages.js';
import { SessionReport } from '../../src/cluster/session-report.js';

describe('session report', () => {
  let told: WorkerSessions[];
  let report: SessionReport;

  beforeEach(() => {
    told = [];
    report = new SessionReport((message) => told.push(message));
  });

  it('tells in one message what a turn of the event loop brought', async () => {
    report.open('a');
    report.close('b');
    report.open('c');
    expect(told).to.deep.equal([]);
    await setImmediate();
    expect(told).to.deep.equal([{ type: 'worker:sessions', opened: ['a', 'c'], closed: ['b'] }]);
    report.close('a');
    await setImmediate();
    expect(told.slice(1)).to.deep.equal([{ type: 'worker:sessions', opened: [], closed: ['a'] }]);
  });

  it('tells at once when somebody waits for it, and nothing twice', async () => {
    report.open('a');
    report.send();
    expect(told).to.deep.equal([{ type: 'worker:sessions', opened: ['a'], closed: [] }]);
    report.send();
    await setImmediate();
    expect(told).to.have.length(1);
  });
});
