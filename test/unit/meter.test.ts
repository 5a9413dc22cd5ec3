import { expect } from 'chai';
import { Allowance } from '../../src/base/allowance.js';
import { Meter, Meters } from '../../src/gateways/meter.js';
import { eventually } from '../support/eventually.js';

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** A clock that stands still until it is moved. */
class Clock {
  ms = 1_000;
  readonly now = (): number => this.ms;
}

describe('allowance', () => {
  it('comes back with time, up to what comes in ten seconds', () => {
    const clock = new Clock();
    const allowance = new Allowance({ rate: 10, now: clock.now });
    allowance.spend(100);
    expect(allowance.waitMs).to.equal(100);
    clock.ms += 50;
    expect(allowance.waitMs).to.equal(50);
    clock.ms += 50;
    expect(allowance.waitMs).to.equal(0);
    clock.ms += 1_000_000;
    allowance.spend(100);
    expect(allowance.waitMs).to.equal(100);
  });

  it('owes no more than comes in five seconds, whatever something costs', () => {
    const clock = new Clock();
    const allowance = new Allowance({ rate: 10, now: clock.now });
    allowance.spend(1_000_000);
    expect(allowance.waitMs).to.equal(5_100);
  });

  it('serves who waits in the order in which they came', async () => {
    const allowance = new Allowance({ rate: 1_000, burst: 1 });
    allowance.spend(1);
    const served: number[] = [];
    for (const name of [1, 2, 3]) {
      allowance.queue({
        serve() {
          allowance.spend(1);
          served.push(name);
        },
      });
    }
    await eventually(() => expect(served).to.deep.equal([1, 2, 3]));
    expect(allowance.awaited).to.equal(false);
  });
});

describe('meter', () => {
  /** Asks until something has to wait. @returns how many were taken */
  const takeAll = (meter: Meter, granted = (): void => {}): number => {
    let taken = 0;
    while (meter.ask(granted)) {
      taken += 1;
    }
    return taken;
  };

  it('takes a bounded number of messages in one turn, and the rest in the next ones', async () => {
    const meters = new Meters({ MAX_MESSAGES_PER_SECOND: 50, MAX_MESSAGES_PER_SECOND_PER_KEY: 200 });
    const meter = meters.stranger();
    meters.admit(meter, { keyId: 'k', owner: 'ada', role: 'user', rateLimit: 600 });
    let granted = 0;
    const first = takeAll(meter, () => {
      granted += 1;
    });
    expect(first).to.be.within(1, 50);
    expect(granted).to.equal(0);
    await turn();
    expect(granted).to.equal(1);
    expect(takeAll(meter)).to.equal(first - 1);
    meter.stop();
  });

  it('gives all connections of a key one allowance', async () => {
    const meters = new Meters({ MAX_MESSAGES_PER_SECOND: 50, MAX_MESSAGES_PER_SECOND_PER_KEY: 1 });
    const identity = { keyId: 'k', owner: 'ada', role: 'user', rateLimit: 60 } as const;
    const [one, two, other] = [meters.stranger(), meters.stranger(), meters.stranger()] as [Meter, Meter, Meter];
    meters.admit(one, identity);
    meters.admit(two, identity);
    meters.admit(other, { ...identity, keyId: 'other' });
    expect(takeAll(one)).to.equal(10);
    expect(takeAll(two)).to.equal(0);
    expect(takeAll(other)).to.equal(10);
    for (const meter of [one, two, other]) {
      meter.stop();
    }
  });

  it('spends what the key of new credentials may, and gives the connection nothing more by itself', () => {
    const meters = new Meters({ MAX_MESSAGES_PER_SECOND: 2, MAX_MESSAGES_PER_SECOND_PER_KEY: 1 });
    const identity = { keyId: 'k', owner: 'ada', role: 'user', rateLimit: 60 } as const;
    const [one, two] = [meters.stranger(), meters.stranger()] as [Meter, Meter];
    meters.admit(one, identity);
    meters.admit(two, { ...identity, keyId: 'other' });
    expect(takeAll(one)).to.equal(10);
    one.stop();
    meters.renew(two, identity);
    expect(takeAll(two), 'the key has spent all').to.equal(0);
    meters.renew(two, { ...identity, keyId: 'third' });
    expect(takeAll(two)).to.equal(10);
    meters.renew(two, { ...identity, keyId: 'fourth' });
    expect(takeAll(two)).to.equal(10);
    meters.renew(two, { ...identity, keyId: 'fifth' });
    expect(takeAll(two), 'the connection has spent all').to.equal(0);
    two.stop();
  });

  it('gives a key that may make more requests as many messages', () => {
    const meters = new Meters({ MAX_MESSAGES_PER_SECOND: 1_000, MAX_MESSAGES_PER_SECOND_PER_KEY: 1 });
    const meter = meters.stranger();
    meters.admit(meter, { keyId: 'k', owner: 'ada', role: 'service', rateLimit: 120 });
    expect(takeAll(meter)).to.equal(20);
    meter.stop();
  });

  it('counts what a message costs beyond one', () => {
    const meter = new Meter(10);
    expect(meter.ask(() => {})).to.equal(true);
    meter.spend(9);
    expect(meter.ask(() => {})).to.equal(false);
    meter.stop();
  });

  it('tells a connection that is slowed at most once a second, and ends one that goes on for ten', async () => {
    const clock = new Clock();
    const meter = new Meter(1_000, clock.now);
    const told: number[] = [];
    let exceeded = 0;
    let read = 0;
    meter.listener = { onSlowed: (ms) => told.push(ms), onExceeded: () => (exceeded += 1) };
    const readAll = (): void => {
      do {
        read += 1;
      } while (meter.ask(readAll));
    };
    meter.spend(1_000);
    meter.ask(readAll);
    // Five milliseconds a message are a thousandth of what came: it stays over its allowance.
    const timer = setInterval(() => {
      clock.ms += 5;
    }, 1);
    try {
      await eventually(() => expect(clock.ms).to.be.above(3_500));
      expect(told.length).to.be.within(2, 3);
      expect(exceeded).to.equal(0);
      clock.ms += 10_000;
      meter.spend(100_000);
      await eventually(() => {
        clock.ms += 100;
        expect(exceeded).to.equal(1);
      });
      const before = read;
      clock.ms += 100_000;
      await turn();
      expect(read).to.equal(before);
    } finally {
      clearInterval(timer);
      meter.stop();
    }
  });

  it('forgives a connection of which nothing waited for a second', async () => {
    const clock = new Clock();
    const meter = new Meter(10, clock.now);
    let exceeded = 0;
    meter.listener = { onSlowed() {}, onExceeded: () => (exceeded += 1) };
    for (let round = 0; round < 30; round += 1) {
      let granted = false;
      const taken = takeAll(meter, () => {
        granted = true;
      });
      expect(taken, `round ${round}`).to.equal(10);
      clock.ms += 100;
      await eventually(() => expect(granted).to.equal(true));
      clock.ms += 1_000;
    }
    expect(exceeded).to.equal(0);
    meter.stop();
  });

  it('is not moved by a wall clock that steps back', () => {
    const { now } = Date;
    try {
      const meter = new Meter(50);
      Date.now = () => now() - 3_600_000;
      expect(meter.ask(() => {})).to.equal(true);
      expect(new Allowance({ rate: 50 }).waitMs).to.equal(0);
    } finally {
      Date.now = now;
    }
  });
});
