import { expect } from 'chai';
import { Condition } from '../../src/broker/condition.js';

const READONLY = { code: 'READONLY', reason: "READONLY You can't write against a read only replica." };
const REFUSED = { code: 'ECONNREFUSED', reason: 'connect ECONNREFUSED 127.0.0.1:1' };

describe('condition of a broker', () => {
  let lines: Array<[level: string, message: string, code: unknown]>;
  let condition: Condition;

  beforeEach(() => {
    lines = [];
    const note = (level: string) => (message: string, fields?: Record<string, unknown>) => {
      lines.push([level, message, fields?.['code']]);
    };
    condition = new Condition({ error: note('error'), warn: note('warn'), info: note('info') });
  });

  it('is down at first, up when both parts work, and degraded when one does', () => {
    expect(condition.state.status).to.equal('down');
    condition.regainAll();
    expect(condition.state).to.deep.equal({ status: 'up', lost: [] });
    condition.lose('limits', READONLY);
    expect(condition.state).to.deep.equal({ status: 'degraded', lost: ['limits are counted by each worker'] });
    expect(condition.up).to.equal(true);
    condition.lose('events', REFUSED);
    expect(condition.state).to.deep.equal({
      status: 'down',
      lost: ['events between instances come late', 'limits are counted by each worker'],
    });
    expect(condition.up).to.equal(false);
  });

  it('tells each cause once in an outage, and the end of it', () => {
    condition.regainAll();
    lines = [];
    for (const fault of [READONLY, READONLY, REFUSED, READONLY, REFUSED]) {
      condition.lose('limits', fault);
    }
    condition.regain('limits');
    condition.regain('limits');
    condition.lose('limits', READONLY);
    expect(lines).to.deep.equal([
      ['warn', 'broker: limits are counted by each worker', 'READONLY'],
      ['warn', 'broker: limits are counted by each worker', 'ECONNREFUSED'],
      ['info', 'broker: limits are counted over all workers', undefined],
      ['warn', 'broker: limits are counted by each worker', 'READONLY'],
    ]);
  });

  it('says nothing when it is stopped', () => {
    condition.regainAll();
    lines = [];
    condition.end();
    expect(lines).to.deep.equal([]);
    expect(condition.up).to.equal(false);
  });

  it('tells all listeners whether events come, though one of them throws', () => {
    const heard: string[] = [];
    const fail = (): never => {
      throw new Error('listener');
    };
    condition.onUp(fail);
    condition.onUp(() => heard.push('up'));
    condition.onDown(fail);
    condition.onDown(() => heard.push('down'));
    condition.regainAll();
    condition.lose('limits', READONLY);
    condition.lose('events', READONLY);
    condition.lose('events', REFUSED);
    condition.regain('events');
    expect(heard).to.deep.equal(['up', 'down', 'up']);
    expect(lines.filter(([level]) => level === 'error')).to.have.length(3);
  });
});
