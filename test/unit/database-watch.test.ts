import { expect } from 'chai';
import { noteUnconnected } from '../../src/database/database-errors.js';
import { type DatabaseTrouble, DatabaseWatch } from '../../src/database/database-watch.js';
import { eventually } from '../support/eventually.js';

const error = (message: string, fields: object = {}): Error => Object.assign(new Error(message), fields);

describe('database watch', () => {
  let told: Array<DatabaseTrouble | 'recovered'>;
  let watch: DatabaseWatch;

  beforeEach(() => {
    told = [];
    watch = new DatabaseWatch({
      onTrouble: (trouble) => told.push(trouble),
      onRecovery: () => told.push('recovered'),
      calmMs: 10,
    });
  });

  it('tells a change once, with what the server said', async () => {
    const writes = watch.pool('writes');
    for (let i = 0; i < 400; i += 1) {
      writes.failed(error('insert into x - could not extend file: No space left on device', { code: '53100' }), false);
    }
    expect(writes.troubled).to.equal(true);
    writes.worked();
    await eventually(() =>
      expect(told).to.deep.equal([
        { status: 'read-only', reason: 'writes: could not extend file: No space left on device' },
        'recovered',
      ]),
    );
    expect(writes.troubled).to.equal(false);
  });

  it('does not take what succeeds between failures for the end of them', async () => {
    const writes = watch.pool('writes');
    for (let i = 0; i < 400; i += 1) {
      writes.failed(error('insert into x - No space left on device', { code: '53100' }), false);
      writes.worked();
      expect(writes.troubled, 'the next success has nothing to say').to.equal(false);
      expect(watch.recentTrouble).to.deep.equal({ status: 'read-only', pools: ['writes'] });
    }
    expect(told).to.have.length(1);
    await eventually(() => expect(told.slice(1)).to.deep.equal(['recovered']));
    expect(watch.recentTrouble).to.equal(undefined);
  });

  it('tells a server that is away from a pool that is full', () => {
    const reads = watch.pool('reads');
    const timeout = error('Knex: Timeout acquiring a connection. The pool is probably full.', {
      name: 'KnexTimeoutError',
    });
    reads.failed(timeout, true);
    expect(watch.trouble?.status).to.equal('busy');
    reads.failed(timeout, false);
    expect(watch.trouble?.status).to.equal('down');
    expect(told).to.deep.equal([
      { status: 'busy', reason: 'reads: all connections are in use' },
      { status: 'down', reason: 'reads: no connection could be made in time' },
    ]);
  });

  it('goes by the worst of the pools', () => {
    const [writes, reads] = [watch.pool('writes'), watch.pool('reads')];
    writes.failed(error('cannot execute UPDATE in a read-only transaction', { code: '25006' }), false);
    reads.failed(error('connect ECONNREFUSED', { code: 'ECONNREFUSED' }), false);
    expect(watch.trouble).to.deep.equal({ status: 'down', reason: 'reads: connect ECONNREFUSED' });
    reads.worked();
    expect(watch.trouble?.status).to.equal('read-only');
    expect(told).to.have.length(3);
  });

  it('tells a database that is not set up as it should be from one that is away, and names the pools', async () => {
    const [writes, reads] = [watch.pool('writes'), watch.pool('reads')];
    const denied = error('insert into task_events - permission denied for table task_events', { code: '42501' });
    writes.failed(denied, false);
    const refused = error('password authentication failed for user "taskwire"', { code: '28P01' });
    reads.failed(noteUnconnected(refused), false);
    expect(watch.recentTrouble).to.deep.equal({ status: 'failing', pools: ['writes', 'reads'] });
    // Others of its statements may succeed all the while.
    writes.worked();
    reads.worked();
    expect(watch.recentTrouble?.pools).to.deep.equal(['writes', 'reads']);
    await eventually(() =>
      expect(told).to.deep.equal([
        { status: 'failing', reason: 'writes: permission denied for table task_events' },
        'recovered',
      ]),
    );
  });

  it('does not take a statement that failed by itself for trouble of the server', () => {
    const writes = watch.pool('writes');
    for (const code of ['23505', '22P02', '40P01', '55P03', '57014']) {
      writes.failed(error('no', { code }), false);
    }
    expect(told).to.deep.equal([]);
    expect(writes.troubled).to.equal(false);
  });
});
