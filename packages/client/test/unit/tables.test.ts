import { CONNECTION, ROOM } from '@taskwire/client';
import { comesBack, ERRORS, errorEntry, LATER } from '@taskwire/client/protocol';
import { expect } from 'chai';
import * as server from '../../../../dist/src/protocol/errors.js';

describe('the tables of the client', () => {
  it('have the errors of the server', () => {
    expect(ERRORS).to.deep.equal(server.ERRORS);
    expect(LATER).to.deep.equal(
      Object.entries(server.ERRORS).flatMap(([code, { retry }]) => (retry === 'later' ? [code] : [])),
    );
    expect(errorEntry('RATE_LIMIT_EXCEEDED')).to.include({ status: 429, retry: 'later' });
    expect(errorEntry('toString')).to.equal(undefined);
  });

  it('come back after the close codes after which the server says so', () => {
    for (const [code, entry] of Object.entries(server.ERRORS)) {
      if ('close' in entry) {
        expect(comesBack(entry.close), code).to.equal(entry.retry === 'later');
      }
    }
    expect([1000, 1001, 1005, 1006, 1011, 1012, 4000, 4499].every(comesBack)).to.equal(true);
    expect([1009, 4500, 4999].some(comesBack)).to.equal(false);
  });

  it('have no empty cell, and no state that cannot be left or reached but those that are meant', () => {
    for (const [table, start, ends] of [
      [CONNECTION, 'idle', ['closed']],
      [ROOM, 'off', []],
    ] as const) {
      const cells: Record<string, Record<string, string>> = table;
      const states = Object.keys(cells);
      const events = Object.keys(cells[start]!);
      for (const state of states) {
        expect(Object.keys(cells[state]!).sort(), state).to.deep.equal([...events].sort());
        const ways = events.map((event) => cells[state]![event]!);
        expect(states, state).to.include.members(ways);
        expect(
          ways.some((next) => next !== state),
          `out of ${state}`,
        ).to.equal(!(ends as readonly string[]).includes(state));
      }
      const reached = new Set<string>([start]);
      for (const state of reached) {
        for (const event of events) {
          reached.add(cells[state]![event]!);
        }
      }
      expect([...reached].sort()).to.deep.equal([...states].sort());
    }
  });
});
