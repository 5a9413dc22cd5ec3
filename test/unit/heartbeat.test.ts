import { expect } from 'chai';
import { BEAT_MS, Heartbeat } from '../../src/cluster/heartbeat.js';

/** Looks until the heart says so, in milliseconds. */
const until = (heart: Heartbeat, pulse: string): number => {
  let looks = 1;
  while (heart.look() !== pulse) {
    looks += 1;
    expect(looks).to.be.lessThan(1_000);
  }
  return looks * BEAT_MS;
};

describe('the heartbeat of a worker', () => {
  it('is missed soon enough: no new connections after 5 s, replaced within 30 s', () => {
    const heart = new Heartbeat();
    heart.heard();
    const silentMs = until(heart, 'silent');
    expect(silentMs).to.be.within(3_000, 5_000);
    expect(silentMs + until(heart, 'lost')).to.be.within(15_000, 25_000);
  });

  it('counts from the last beat', () => {
    const heart = new Heartbeat();
    heart.heard();
    until(heart, 'silent');
    heart.heard();
    expect(heart.look()).to.equal('beating');
  });

  it('may come late the first time', () => {
    expect(until(new Heartbeat(), 'lost')).to.be.within(50_000, 70_000);
  });
});
