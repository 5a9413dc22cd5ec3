import { expect } from 'chai';
import type { TaskWrite } from '../../src/repository/write-runner.js';
import { deletionTag, Ledger, type LoggedEvent, SQL_TAG } from '../scenario/ledger.js';

const event = (seq: number, taskId: number, tag: string | null = null, type = 'TASK_UPDATED'): LoggedEvent => ({
  userId: 'ada',
  seq,
  taskId,
  type,
  tag,
});
const answer = (seq: number, task_id: number): TaskWrite => ({ user_id: 'ada', seq, task_id }) as TaskWrite;

describe('the account of the scenario', () => {
  let ledger: Ledger;

  beforeEach(() => {
    ledger = new Ledger();
    ledger.answered.push(answer(1, 10), answer(2, 11));
    ledger.sql.push(
      { tag: `${SQL_TAG}a`, fate: 'committed', rows: 2 },
      { tag: `${SQL_TAG}b`, fate: 'unknown', rows: undefined },
      { tag: `${SQL_TAG}c`, fate: 'rolled back', rows: 1 },
      { tag: deletionTag(10), fate: 'committed', rows: 1 },
    );
  });

  const log = (): LoggedEvent[] => [
    event(1, 10, null, 'TASK_CREATED'),
    event(2, 11),
    event(3, 10, `${SQL_TAG}a`),
    event(4, 11, `${SQL_TAG}a`),
    event(5, 10, deletionTag(10), 'TASK_DELETED'),
  ];

  it('is clean when the log has what was answered, and nothing else', () => {
    expect(ledger.compare(log())).to.deep.equal({ lost: [], twice: [] });
    // A write whose fate is unknown may be there.
    expect(ledger.compare([...log(), event(6, 12, `${SQL_TAG}b`)])).to.deep.equal({ lost: [], twice: [] });
  });

  it('shows what was answered and is not there', () => {
    for (const missing of [0, 1, 2, 4]) {
      const { lost } = ledger.compare(log().filter((_, index) => index !== missing));
      expect(lost, `without ${missing}`).to.have.length(1);
    }
    // The place has another write.
    expect(ledger.compare(log().map((one) => (one.seq === 2 ? event(2, 99) : one))).lost).to.have.length(1);
  });

  it('shows what is there and was answered to nobody, or once only', () => {
    for (const more of [
      event(6, 10),
      event(6, 10, `${SQL_TAG}a`),
      event(6, 10, `${SQL_TAG}c`),
      event(6, 10, deletionTag(10), 'TASK_DELETED'),
      event(6, 10, `${SQL_TAG}nobody`),
    ]) {
      expect(ledger.compare([...log(), more]).twice, JSON.stringify(more)).to.have.length(1);
    }
  });

  it('keeps what had no answer by what happened at the time', () => {
    ledger.note('unanswered', 'a');
    ledger.act = { name: 'a kill', planned: false };
    ledger.note('unanswered', 'b');
    ledger.note('turned away', 'c');
    expect([ledger.count('unanswered'), ledger.count('turned away')]).to.deep.equal([2, 1]);
    expect(ledger.setbacks.map(({ act }) => act.planned)).to.deep.equal([true, false, false]);
  });
});
