import { expect } from 'chai';
import { isAway, isDatabaseUnavailable, noteUnconnected } from '../../src/database/database-errors.js';

const error = (message: string, code?: string): Error => Object.assign(new Error(message), code ? { code } : {});

describe('isDatabaseUnavailable', () => {
  for (const code of ['57P01', '57P02', '57P03', '57014', '08006', '08P01', '53300', '53100', '25006', '40P01']) {
    it(`takes SQLSTATE ${code} for an outage`, () => {
      expect(isDatabaseUnavailable(error('select 1 - of the server', code))).to.equal(true);
    });
  }

  for (const code of ['23505', '42601', '22012', '22P02', '42703']) {
    it(`takes SQLSTATE ${code} for an error of the query`, () => {
      expect(isDatabaseUnavailable(error('select 1 - of the query', code))).to.equal(false);
    });
  }

  for (const code of ['42P01', '42501', '42883', '3F000']) {
    it(`takes SQLSTATE ${code} for a database that is not set up as it should be, and does not wait for it at a start`, () => {
      expect(isDatabaseUnavailable(error('select 1 - of the schema', code))).to.equal(true);
      expect(isAway(error('select 1 - of the schema', code))).to.equal(false);
    });
  }

  it('takes what a connection that could not be made says for an outage, whatever it is', () => {
    for (const refusal of [error('password authentication failed', '28P01'), error('self-signed certificate')]) {
      expect(isDatabaseUnavailable(refusal)).to.equal(false);
      expect(isDatabaseUnavailable(noteUnconnected(refusal))).to.equal(true);
      expect(isAway(refusal)).to.equal(false);
    }
  });

  for (const code of ['ECONNREFUSED', 'ECONNRESET', 'EPIPE', 'ENOENT', 'ETIMEDOUT', 'EAI_AGAIN']) {
    it(`takes ${code} for an outage`, () => {
      expect(isDatabaseUnavailable(error('connect', code))).to.equal(true);
    });
  }

  for (const message of [
    'Connection terminated unexpectedly',
    'UPDATE tasks SET fee = 1 - 2 - Connection terminated unexpectedly',
    'timeout expired',
    'Client has encountered a connection error and is not queryable',
    'Knex: Timeout acquiring a connection. The pool is probably full. Are you missing a .transacting(trx) call?',
  ]) {
    it(`takes "${message.slice(0, 50)}" for an outage`, () => {
      expect(isDatabaseUnavailable(error(message))).to.equal(true);
    });
  }

  it('takes several failed addresses for an outage when each is', () => {
    const refused = error('connect', 'ECONNREFUSED');
    expect(isDatabaseUnavailable(new AggregateError([refused, refused]))).to.equal(true);
    expect(isDatabaseUnavailable(new AggregateError([refused, error('what')]))).to.equal(false);
  });

  it('takes nothing else for one', () => {
    for (const other of [undefined, null, 'Connection terminated', error('no such thing'), new TypeError('x')]) {
      expect(isDatabaseUnavailable(other)).to.equal(false);
    }
  });
});
