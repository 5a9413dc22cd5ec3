import { expect } from 'chai';
import { parseDatabaseUrl } from '../../src/base/database-url.js';

describe('a database URL', () => {
  const cases: ReadonlyArray<readonly [url: string, servers: readonly string[], rest?: object]> = [
    ['postgres://joe:secret@db:5433/x', ['postgres://joe:secret@db:5433/x']],
    ['postgresql://db/x?sslmode=verify-full', ['postgresql://db/x?sslmode=verify-full']],
    [
      'postgres://joe@one,two:5433/x?target_session_attrs=primary',
      ['postgres://joe@one/x', 'postgres://joe@two:5433/x'],
      { session: 'primary' },
    ],
    ['postgres://joe@one,two/x?port=1,2', ['postgres://joe@one:1/x', 'postgres://joe@two:2/x']],
    ['postgres://joe@/x?host=one,two&port=5433', ['postgres://joe@one:5433/x', 'postgres://joe@two:5433/x']],
    ['postgres://joe@ignored:5433/x?host=/run/postgresql', ['postgres://joe@/x?host=%2Frun%2Fpostgresql&port=5433']],
    ['postgres://joe@one:5433/x?host=two,three', ['postgres://joe@two:5433/x', 'postgres://joe@three:5433/x']],
    ['postgres://joe@one:5433/x?host=two&port=5434', ['postgres://joe@two:5434/x']],
    ['postgres://[::1]:5433,[::2]/x', ['postgres://[::1]:5433/x', 'postgres://[::2]/x']],
    ['postgres:///x?host=/run/postgresql', ['postgres:///x?host=%2Frun%2Fpostgresql']],
    ['postgres://joe@%2Frun%2Fpostgresql:5433/x', ['postgres://joe@/x?host=%2Frun%2Fpostgresql&port=5433']],
    ['postgres://joe:100%@db/x', ['postgres://joe:100%25@db/x']],
    ['postgres://joe:a%2Fb%zz@db/x', ['postgres://joe:a%2Fb%25zz@db/x']],
    ['postgres://db/x?prepare=false', ['postgres://db/x'], { prepare: false }],
    [
      'postgres://db/x?options=-c%20search_path%3Dmine&application_name=a',
      ['postgres://db/x?application_name=a'],
      { options: '-c search_path=mine' },
    ],
  ];
  for (const [url, servers, rest] of cases) {
    it(`is read: ${url}`, () => {
      const { hosts, ...target } = parseDatabaseUrl(url);
      expect(hosts).to.have.length(servers.length);
      expect(target).to.deep.equal({
        servers,
        session: undefined,
        prepare: true,
        options: undefined,
        ...rest,
      });
    });
  }

  it('has a host for each server', () => {
    const url = 'postgres://joe@db,127.0.0.1:5433,[::1],%2Frun%2Fpostgresql/x';
    expect(parseDatabaseUrl(url).hosts).to.deep.equal(['db', '127.0.0.1', '[::1]', '/run/postgresql']);
    expect(parseDatabaseUrl('postgres:///x').hosts).to.deep.equal(['']);
  });

  for (const [url, reason] of [
    ['mysql://db/x', /wants a URL like/],
    ['db:5432', /wants a URL like/],
    ['postgres://db/x?target_session_attrs=master', /target_session_attrs wants one of any, read-write/],
    ['postgres://db:port/x', /port that is not a number/],
    ['postgres://one:1,two:99999/x', /port that is not a number/],
  ] as const) {
    it(`is refused with a reason: ${url}`, () => {
      expect(() => parseDatabaseUrl(url)).to.throw(reason);
    });
  }
});
