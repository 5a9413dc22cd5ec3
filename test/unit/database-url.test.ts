import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { parseDatabaseUrl } from '../../src/base/database-url.js';
import { loadConfig, postgresWarnings } from '../../src/config.js';

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
    [
      'postgres://db/x?sslmode=verify-full&sslrootcert=/etc/ca.pem&sslkey=/etc/key',
      ['postgres://db/x?sslmode=verify-full&sslrootcert=%2Fetc%2Fca.pem&sslkey=%2Fetc%2Fkey'],
      { files: { sslrootcert: '/etc/ca.pem', sslkey: '/etc/key' } },
    ],
    // What libpq and other tools have besides, and the driver need not know.
    [
      'postgres://db/x?connect_timeout=5&keepalives=1&schema=y',
      ['postgres://db/x?connect_timeout=5&keepalives=1&schema=y'],
    ],
    ['postgres://db:5432/x@y', ['postgres://db:5432/x@y']],
    ['postgres://joe:p@ss@db/x', ['postgres://joe:p@ss@db/x']],
    ['postgres://db/x?application_name=a@b', ['postgres://db/x?application_name=a%40b']],
    ['postgres://[::1]/x@y', ['postgres://[::1]/x@y']],
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
        files: {},
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
    ['postgres://db/x?target_session_attrs=', /target_session_attrs wants one of/],
    ['postgres://db/x?prepare=0', /prepare wants one of true, false/],
    ['postgres://db/x?sslmode=verify_full', /sslmode wants one of disable, .*verify-full/],
    ['postgres://db/x?ssl=false', /ssl wants one of true, 1, 0, no-verify/],
    ['postgres://db/x?sslnegotiation=fast', /sslnegotiation wants one of postgres, direct/],
    ['postgres://db/x?service=main', /service is not supported: write host, user and database in the URL/],
    ['postgres://db/x?passfile=/root/.pgpass', /passfile is not supported: set PGPASSFILE/],
    ['postgres://db/x?hostaddr=10.0.0.1', /hostaddr is not supported: write the address in the place of the host/],
    ['postgres://db/x?sslrootcert=system', /leave it out/],
    ['postgres:///x?host=one&host=two', /has host more than once: write several as host=one,two/],
    ['postgres://db/x?prepare=false&prepare=true', /has prepare more than once/],
    ['postgres://joe:a/b@db:5432/x', /write %2F for \//],
    ['postgres://joe:a?b@db:5432/x', /write %2F for \//],
    ['postgres://joe:a#b@db:5432/x', /write %2F for \//],
    ['postgres://joe:12/b@db:5432/x', /write %2F for \//],
    ['postgres://joe:12?b@db:5432/x', /write %2F for \//],
    ['postgres://joe:12#b@db:5432/x', /write %2F for \//],
    ['postgres://db:port/x', /port that is not a number/],
    ['postgres://one:1,two:99999/x', /port that is not a number/],
  ] as const) {
    it(`is refused with a reason: ${url}`, () => {
      expect(() => parseDatabaseUrl(url)).to.throw(reason);
    });
  }
});

describe('the variables of the database', () => {
  const url = 'postgres://db/x?sslmode=verify-full';

  for (const [name, path] of [
    ['sslrootcert', '/no/such/ca.pem'],
    ['sslcert', '/no/such/client.pem'],
    ['sslkey', tmpdir()],
  ] as const) {
    it(`want files that can be read: ${name}`, () => {
      const refused = `${url}&${name}=${path}`;
      const reason = `${name} wants a file that can be read, and "${path}" is none`;
      expect(() => loadConfig({ DATABASE_URL: refused })).to.throw(
        `DATABASE_URL: got a value that is not shown; ${reason}`,
      );
      expect(() => loadConfig({ DATABASE_URL: url, DATABASE_READ_URL: refused })).to.throw(
        `DATABASE_READ_URL: got a value that is not shown; ${reason}`,
      );
    });
  }

  for (const [name, text, fault] of [
    ['sslrootcert', 'garbage', 'there is none in it'],
    ['sslrootcert', '-----BEGIN CERTIFICATE-----\nQUFB\n-----END CERTIFICATE-----\n', 'one in there is damaged'],
    ['sslcert', '', 'there is none in it'],
  ] as const) {
    it(`want certificates: ${name}, ${fault}`, async () => {
      const folder = await mkdtemp(join(tmpdir(), 'taskwire-'));
      const path = join(folder, 'file.pem');
      await writeFile(path, text);
      try {
        expect(() => loadConfig({ DATABASE_URL: `${url}&${name}=${path}` })).to.throw(
          `${name} wants a file of certificates (PEM), and ${fault}: "${path}"`,
        );
      } finally {
        await rm(folder, { recursive: true });
      }
    });
  }

  for (const [servers, session, right] of [
    ['one', 'any', true],
    ['one,two', 'read-write', true],
    ['one,two', 'primary', true],
    ['one,two', 'any', false],
    ['one', 'standby', false],
    ['one', 'read-only', false],
    ['one', 'prefer-standby', false],
  ] as const) {
    it(`${right ? 'take' : 'refuse'} ${session} of ${servers} for writes, and take it for reads`, () => {
      const wanted = `postgres://${servers}/x?target_session_attrs=${session}`;
      const load = (): unknown => loadConfig({ DATABASE_URL: wanted });
      if (right) {
        load();
      } else {
        expect(load).to.throw(/^DATABASE_URL: .*a server that takes no writes: leave it out$/);
      }
      loadConfig({ DATABASE_URL: url, DATABASE_READ_URL: wanted });
    });
  }

  it('say all that is wrong, though one of them cannot be read', () => {
    expect(() => loadConfig({ DATABASE_URL: 'mysql://x', REDIS_URL: 'http://x', PORT: 'x' })).to.throw(
      /^PORT: .*\nDATABASE_URL: .*\nREDIS_URL: /,
    );
    expect(() => loadConfig({ DATABASE_URL: 'mysql://x' })).to.throw(/^DATABASE_URL: got a value that is not shown; /);
    expect(() => loadConfig({ REDIS_URL: 'http://x' })).to.throw(/^REDIS_URL: got a value that is not shown; /);
  });

  it('say that a replica alone has no effect', () => {
    expect(() => loadConfig({ DATABASE_READ_URL: url })).to.throw(
      /^DATABASE_READ_URL: .*has no effect without DATABASE_URL$/,
    );
  });

  for (const [address, variables, faults] of [
    [url, {}, []],
    [url, { PGSSLROOTCERT: '/ca' }, ['PGSSLROOTCERT is not read: write sslrootcert=FILE in DATABASE_URL']],
    [
      url,
      { PGSSLCERT: '/c', PGSSLKEY: '/k' },
      [
        'PGSSLCERT is not read: write sslcert=FILE in DATABASE_URL',
        'PGSSLKEY is not read: write sslkey=FILE in DATABASE_URL',
      ],
    ],
    ['postgres://db/x', { PGSSLROOTCERT: '/ca' }, []],
    ['postgres://db/x?sslmode=no-verify', { PGSSLROOTCERT: '/ca' }, []],
    ['postgres://db/x?sslmode=disable', { PGSSLMODE: 'verify-full', PGSSLROOTCERT: '/ca' }, []],
    [
      'postgres://db/x',
      { PGSSLMODE: 'require', PGSSLROOTCERT: '/ca' },
      ['PGSSLROOTCERT is not read: write sslrootcert=FILE in DATABASE_URL'],
    ],
    [
      'postgres://db/x',
      { PGSSLMODE: 'allow' },
      ['PGSSLMODE=allow has no effect, and nothing is encrypted: write sslmode=allow in DATABASE_URL'],
    ],
    [
      'postgres://db/x',
      { PGSSLMODE: 'on' },
      ['PGSSLMODE=on has no effect, and nothing is encrypted: write sslmode=verify-full in DATABASE_URL'],
    ],
    [
      'postgres:///x',
      { PGHOSTADDR: '10.0.0.1', PGSERVICE: '' },
      ['PGHOSTADDR is not read: write the host in DATABASE_URL'],
    ],
    ['postgres://db/x', { PGHOSTADDR: '10.0.0.1', PGSERVICE: 'main' }, []],
  ] as const) {
    it(`tell what has no effect beside ${address}: ${JSON.stringify(variables)}`, () => {
      expect(postgresWarnings(loadConfig({ DATABASE_URL: address }), variables)).to.deep.equal(faults);
    });
  }
});
