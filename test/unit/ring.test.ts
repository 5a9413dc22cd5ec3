import { expect } from 'chai';
import fc from 'fast-check';
import { Ring, RingBudget } from '../../src/hub/ring.js';
import { streamMessageOf } from '../../src/protocol/stream-message.js';

const eventOf = (seq: number, padding: number) =>
  streamMessageOf({
    type: 'TASK_UPDATED',
    userId: 'alice',
    seq,
    epoch: 'epoch',
    jobId: '7',
    taskId: seq,
    changes: JSON.stringify({ padding: 'x'.repeat(padding) }),
    timestamp: '2024-01-01T00:00:00.000Z',
  });

describe('ring', () => {
  it('gives back what it took, up to its capacity, whatever the sizes', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 20 }),
        fc.array(fc.integer({ min: 0, max: 6_000 }), { maxLength: 60 }),
        fc.integer({ min: 1, max: 1_000 }),
        (capacity, sizes, first) => {
          const ring = new Ring(capacity, new RingBudget(Number.MAX_SAFE_INTEGER));
          const events = sizes.map((size, index) => eventOf(first + index, size));
          for (const [index, event] of events.entries()) {
            ring.push(event);
            const { seq } = event;
            expect(ring.length).to.equal(Math.min(capacity, index + 1));
            for (let since = seq - ring.length; since <= seq; since += 1) {
              expect(ring.covers(since, seq)).to.equal(true);
              expect(ring.after(since, seq)).to.deep.equal(events.slice(since + 1 - first, index + 1));
            }
            expect(ring.covers(seq - ring.length - 1, seq)).to.equal(false);
          }
        },
      ),
      { numRuns: 200 },
    );
  });

  it('keeps the budget that it shares with others, and gives everything back', () => {
    const budget = new RingBudget(50_000);
    const rings = [new Ring(1_000, budget), new Ring(1_000, budget)];
    for (let seq = 1; seq <= 500; seq += 1) {
      for (const ring of rings) {
        ring.push(eventOf(seq, seq % 100));
        expect(budget.used).to.be.at.most(budget.limit);
        expect(ring.after(seq - ring.length, seq).map((event) => event.seq)).to.deep.equal(
          Array.from({ length: ring.length }, (_, index) => seq - ring.length + 1 + index),
        );
      }
    }
    expect(rings[0]!.length + rings[1]!.length).to.be.greaterThan(50);
    for (const ring of rings) {
      ring.clear();
    }
    expect(budget.used).to.equal(0);
  });

  it('gives up the oldest events of all, so that no stream is left without recent ones', () => {
    const budget = new RingBudget(100_000);
    const early = new Ring(1_000, budget);
    const late = new Ring(1_000, budget);
    for (let seq = 1; seq <= 300; seq += 1) {
      early.push(eventOf(seq, 200));
    }
    for (let seq = 1; seq <= 300; seq += 1) {
      late.push(eventOf(seq, 200));
    }
    expect(late.length).to.be.greaterThan(100);
    expect(budget.used).to.be.at.most(budget.limit);
  });

  it('keeps nothing of an event that is larger than the budget', () => {
    const budget = new RingBudget(1_000);
    const ring = new Ring(10, budget);
    ring.push(eventOf(1, 5_000));
    expect(ring.length).to.equal(0);
    expect(budget.used).to.equal(0);
    expect(ring.covers(1, 1)).to.equal(true);
    expect(ring.covers(0, 1)).to.equal(false);
  });

  it('gives all who ask in one turn the same events, so that their frames are built once', () => {
    const ring = new Ring(10, new RingBudget(Number.MAX_SAFE_INTEGER));
    ring.push(eventOf(1, 10));
    expect(ring.after(0, 1)[0]).to.equal(ring.after(0, 1)[0]);
  });
});
