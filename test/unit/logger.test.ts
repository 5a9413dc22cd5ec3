import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { expect } from 'chai';
import { redact } from '../../src/base/logger.js';

const MODULE = new URL('../../src/base/logger.js', import.meta.url).href;
const KEY = `tw_${'aB3-_'.repeat(9).slice(0, 43)}`;

interface Lines {
  readonly out: string;
  readonly err: string[];
}

/** What a program prints that makes a logger and then does something with it. */
function log(options: { level: string; format: string }, body: string): Lines {
  const program = `
    import { createLogger } from ${JSON.stringify(MODULE)};
    const key = ${JSON.stringify(KEY)};
    const logger = createLogger(${JSON.stringify(options)});
    ${body}`;
  const { stdout, stderr, status } = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
    encoding: 'utf8',
    env: { PATH: process.env['PATH'] },
  });
  expect(status, stderr).to.equal(0);
  return { out: stdout, err: stderr.split('\n').filter((line) => line !== '') };
}

describe('redaction', () => {
  it('takes keys and passwords out of text and leaves the rest', () => {
    for (const [text, clean] of [
      [`key ${KEY} of ada`, 'key tw_[redacted] of ada'],
      [`${KEY},${KEY}`, 'tw_[redacted],tw_[redacted]'],
      ['/api/ws/tasks?api_key=whatever&x=1', '/api/ws/tasks?api_key=[redacted]&x=1'],
      ['/?x=1&API_KEY=tw%5Fabc', '/?x=1&API_KEY=[redacted]'],
      ['/api/jobs/1/events?token=a.b.c&x=1', '/api/jobs/1/events?token=[redacted]&x=1'],
      ['Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbg of ada', 'Bearer [redacted token] of ada'],
      ['postgres://joe:secret@db:5432/x', 'postgres://joe:[redacted]@db:5432/x'],
      ['postgres://joe:se@cr@et@db/x', 'postgres://joe:[redacted]@db/x'],
      ['rediss://:secret@cache', 'rediss://:[redacted]@cache'],
      ['postgres://db/x?password=secret', 'postgres://db/x?password=[redacted]'],
      ["ERR unknown command 'auth', with args beginning with: 's3cr3t'\n at x", "ERR unknown command 'auth'\n at x"],
      ['at 12:30 joe@example.com http://host:9002/path', 'at 12:30 joe@example.com http://host:9002/path'],
      ['tw_ is how keys begin', 'tw_ is how keys begin'],
    ]) {
      expect(redact(text!)).to.equal(clean);
    }
  });
});

describe('logger', () => {
  it('prints a JSON object a line, on standard error', () => {
    const { out, err } = log(
      { level: 'debug', format: 'json' },
      `logger.child({ worker: 7 }).info('two\\nlines', { room: 'job:1', n: 1.5, none: null });
       logger.error('failed', { error: Object.assign(new TypeError('bad', { cause: new Error('why') }), { code: 'E1' }) });
       logger.warn('odd', { error: 'text' });
       logger.debug('detail');`,
    );
    expect(out).to.equal('');
    const lines = err.map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(lines.map(({ level }) => level)).to.deep.equal(['info', 'error', 'warn', 'debug']);
    for (const { timestamp } of lines) {
      expect(timestamp).to.match(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
    }
    expect(lines[0]).to.include({ message: 'two\nlines', worker: 7, room: 'job:1', n: 1.5, none: null });
    const error = lines[1]!['error'] as Record<string, unknown>;
    expect(error).to.include({ name: 'TypeError', message: 'bad', code: 'E1' });
    expect(error['stack']).to.contain('TypeError: bad\n');
    expect(error['cause']).to.include({ message: 'why' });
  });

  it('says as much as its level allows', () => {
    const all = ['error', 'warn', 'info', 'debug'];
    for (const [index, level] of all.entries()) {
      const { err } = log(
        { level, format: 'json' },
        `for (const level of ${JSON.stringify(all)}) logger[level]('line');`,
      );
      expect(err.map((line) => JSON.parse(line).level)).to.deep.equal(all.slice(0, index + 1));
    }
  });

  it('is readable for people when it should be', () => {
    const { err } = log(
      { level: 'info', format: 'pretty' },
      `logger.info('worker ready', { worker: 7, rooms: ['a'] }); logger.error('failed', { error: new Error('bad') });`,
    );
    expect(err[0]).to.match(/^\S+Z info {2}worker ready worker=7 rooms=\["a"\]$/);
    expect(err[1]).to.match(/ error failed$/);
    expect(err[2]).to.equal('  Error: bad');
  });

  it('says what an error was caused by, in either format, without secrets', () => {
    for (const format of ['json', 'pretty']) {
      const { err } = log(
        { level: 'info', format },
        `const cause = new AggregateError([], '', { cause: new Error('no route to redis://u:secret@h') });
        cause.code = 'ECONNREFUSED';
        logger.error('failed', { error: new Error('outer', { cause }) });`,
      );
      const text = err.join('\n');
      expect(text).to.include('outer').and.include('ECONNREFUSED').and.include('no route to redis://u:[redacted]@h');
      expect(text).to.not.include('secret');
      if (format === 'pretty') {
        expect(err.slice(-2)).to.deep.equal([
          '  caused by AggregateError: ECONNREFUSED',
          '  caused by Error: no route to redis://u:[redacted]@h',
        ]);
      }
    }
  });

  it('lets no key pass, wherever it stands', () => {
    const body = `
      const where = { text: key, list: [key, { key }], deep: { a: { b: { c: { d: { e: { f: key } } } } } } };
      const failure = () => new Error('with ' + key, { cause: new Error(key, { cause: { key, more: [[[[[key]]]]] } }) });
      logger.child({ child: key, bag: where }).debug('used ' + key, where);
      logger.error('failed', { error: failure(), errors: [failure()], bag: { error: failure() } });
      logger.info('/path?api_key=' + encodeURIComponent('tw_') + 'xyz', { url: 'postgres://joe:s3cr3tpw@db/x' });
      logger.warn('database', { message: key });`;
    for (const format of ['json', 'pretty']) {
      const { out, err } = log({ level: 'debug', format }, body);
      expect(err.length).to.be.at.least(4);
      expect(out + err.join('\n'))
        .to.contain('[redacted]')
        .and.not.contain(KEY.slice(3, 20))
        .and.not.contain('xyz')
        .and.not.contain('s3cr3tpw');
    }
  });
});

describe('a log that nobody reads', () => {
  const LINES = 30_000;

  for (const [title, level, toldAs] of [
    ['keeps a bounded part of it in memory, and says how many lines were dropped', 'info', 'warn'],
    ['says so where errors alone are logged', 'error', 'error'],
  ] as const) {
    it(title, async () => {
      const program = `
      import { createLogger } from ${JSON.stringify(MODULE)};
      const logger = createLogger({ level: '${level}', format: 'json' });
      for (let line = 0; line < ${LINES}; line += 1) {
        logger.${level}('line', { text: 'x'.repeat(400) });
      }
      process.once('message', () => {
        const timer = setInterval(() => {
          if (process.stderr.writableLength === 0) {
            clearInterval(timer);
            logger.${level}('read again');
            process.disconnect();
          }
        }, 5);
      });
      process.send(process.stderr.writableLength);`;
      const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
        stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      });
      const [waiting] = (await once(child, 'message')) as [number];
      expect(waiting).to.be.within(1, 4_300_000);
      const all = text(child.stderr!);
      child.send('go on');
      const lines = (await all)
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line) as { level: string; message: string; lines?: number });
      const [told, last] = lines.slice(-2);
      expect(told).to.include({ level: toldAs, message: 'nobody read the log for a while: lines were dropped' });
      expect(last).to.include({ message: 'read again' });
      expect(lines.length - 2 + told!.lines!).to.equal(LINES);
    });
  }
});
