import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { rootCertificates } from 'node:tls';
import { expect } from 'chai';
import { faultOf } from '../../src/broker/redis/redis-faults.js';
import { describeSettings, redisSettings, targetOf } from '../../src/broker/redis/redis-settings.js';
import { ConfigError, loadConfig } from '../../src/config.js';

const configOf = (environment: Record<string, string>) => redisSettings(loadConfig(environment));
const optionsOf = (environment: Record<string, string>): object => targetOf(configOf(environment)!).options;

describe('settings of Redis', () => {
  it('are none, or one of three kinds', () => {
    expect(configOf({})).to.equal(undefined);
    expect(targetOf(configOf({ REDIS_URL: 'redis://h' })!).kind).to.equal('server');
    expect(targetOf(configOf({ REDIS_SENTINELS: 'a:1,b:2' })!).kind).to.equal('server');
    expect(targetOf(configOf({ REDIS_CLUSTER: 'a:1, [::1]:2' })!)).to.deep.equal({
      kind: 'cluster',
      nodes: [
        { host: 'a', port: 1 },
        { host: '::1', port: 2 },
      ],
      options: {},
    });
  });

  const urls: Array<[string, object]> = [
    ['redis://h', { host: 'h', port: 6379 }],
    ['redis://u:p@h:1/2', { username: 'u', password: 'p', host: 'h', port: 1, db: 2 }],
    ['redis://:p%40@[::1]:1?db=3&family=6', { password: 'p@', host: '::1', port: 1, db: 3, family: 6 }],
    ['redis://u:100%@h', { username: 'u', password: '100%', host: 'h', port: 6379 }],
    ['rediss://h:1', { host: 'h', port: 1, tls: {} }],
    ['unix:///run/redis.sock', { path: '/run/redis.sock' }],
    ['redis+unix:///run/my%20redis.sock?db=1', { path: '/run/my redis.sock', db: 1 }],
    ['redis+unix://u:p@/run/redis.sock', { username: 'u', password: 'p', path: '/run/redis.sock' }],
  ];
  for (const [url, options] of urls) {
    it(`understand ${url}`, () => expect(optionsOf({ REDIS_URL: url })).to.deep.equal(options));
  }

  it('take user and password beside the URL too', () => {
    expect(optionsOf({ REDIS_URL: 'redis://h', REDIS_USERNAME: 'u', REDIS_PASSWORD: 'p/@' })).to.deep.equal({
      username: 'u',
      password: 'p/@',
      host: 'h',
      port: 6379,
    });
  });

  it('give Sentinels their own password, and TLS to both', () => {
    const environment = {
      REDIS_SENTINELS: 'a:1',
      REDIS_SENTINEL_MASTER: 'm',
      REDIS_SENTINEL_PASSWORD: 's',
      REDIS_PASSWORD: 'p',
      REDIS_TLS: 'true',
    };
    expect(optionsOf(environment)).to.deep.equal({
      sentinels: [{ host: 'a', port: 1 }],
      name: 'm',
      sentinelPassword: 's',
      password: 'p',
      tls: {},
      sentinelTLS: {},
      enableTLSForSentinelMode: true,
    });
  });

  const refused: Array<[Record<string, string>, RegExp]> = [
    [{ REDIS_URL: 'http://h' }, /REDIS_URL: got a value that is not shown; wants redis:\/\//],
    [{ REDIS_URL: 'redis://h?tls=yes' }, /does not know the parameter tls/],
    [{ REDIS_URL: 'redis://h/zero' }, /wants the number of a database/],
    [{ REDIS_URL: 'redis+unix://run/redis.sock' }, /three slashes/],
    [{ REDIS_URL: 'redis://h', REDIS_CLUSTER: 'h:1' }, /REDIS_CLUSTER.* cannot be set together with REDIS_URL/],
    [{ REDIS_CLUSTER: 'h' }, /REDIS_CLUSTER.* wants addresses such as/],
    [{ REDIS_CLUSTER: 'redis://:secret@h:6379' }, /^REDIS_CLUSTER: got "\[redacted\]@h:6379"; wants .*REDIS_PASSWORD/],
    [{ REDIS_CLUSTER: 'h:1,:sec,ret:secret@h:6379,i:2' }, /^REDIS_CLUSTER: got "\[redacted\]@h:6379,i:2"; wants/],
    [{ REDIS_CLUSTER: 'h:1?password=secret' }, /^REDIS_CLUSTER: got "h:1\?password=\[redacted\]"; wants/],
    [
      { REDIS_SENTINELS: 'bob:sec@secret@h:1,i:x' },
      /^REDIS_SENTINELS: got "\[redacted\]@h:1,i:x"; .*REDIS_SENTINEL_PASS/,
    ],
    [{ TRUSTED_PROXIES: 'http://bob:secret@proxy:80' }, /^TRUSTED_PROXIES: got "\[redacted\]@proxy:80"; wants/],
    [{ ALLOWED_ORIGINS: 'https://bob:secret@app' }, /^ALLOWED_ORIGINS: got "\[redacted\]@app"; wants/],
    [{ PORT: 'redis://:secret@h:6379' }, /^PORT: got "\[redacted\]@h:6379"; /],
    [{ REDIS_URL: 'redis://u:12?secret@h' }, /%3F.*REDIS_PASSWORD/],
    [{ REDIS_URL: 'redis://u:12?secret=1@h' }, /%3F.*REDIS_PASSWORD/],
    [{ REDIS_URL: 'redis://u:12#secret@h' }, /%23.*REDIS_PASSWORD/],
    [{ REDIS_URL: 'redis://u:12/secret@h' }, /%2F.*REDIS_PASSWORD/],
    [{ REDIS_SENTINEL_PASSWORD: 'secret' }, /^REDIS_SENTINEL_PASSWORD: got a value that is not shown; has no effect/],
    [{ REDIS_URL: 'redis://:p@h', REDIS_PASSWORD: 'secret' }, /not shown; stands in REDIS_URL too/],
    [{ REDIS_URL: 'redis://h', REDIS_TLS: 'true' }, /REDIS_TLS.*rediss:\/\//],
    [{ REDIS_CLUSTER: 'h:1', REDIS_CA_FILE: '/no/such/file' }, /REDIS_CA_FILE.*can be read/],
    [{ REDIS_PREFIX: 'a}b' }, /REDIS_PREFIX.*without spaces and braces/],
  ];
  for (const [environment, message] of refused) {
    it(`refuse ${JSON.stringify(environment)}`, () => {
      expect(() => loadConfig(environment)).to.throw(ConfigError, message);
      expect(() => loadConfig(environment)).to.not.throw(ConfigError, /secret/);
    });
  }

  it('take a file of certificates only, whose mistakes would be found nowhere else', () => {
    const dir = mkdtempSync(join(tmpdir(), 'taskwire-ca-'));
    const file = join(dir, 'ca.pem');
    const wrong = (text: string, message: RegExp): void => {
      writeFileSync(file, text);
      const environment = { REDIS_URL: 'rediss://h', REDIS_CA_FILE: file };
      expect(() => loadConfig(environment)).to.throw(ConfigError, message);
      expect(() => targetOf({ url: 'rediss://h', caFile: file })).to.throw(message);
    };
    try {
      wrong('', /certificates \(PEM\), and there is none in it/);
      wrong('garbage', /none in it/);
      wrong(rootCertificates[0]!.replace(/CERTIFICATE/g, 'PRIVATE KEY'), /none in it/);
      wrong(`${rootCertificates[0]}\n${rootCertificates[1]!.replace(/\n.{20}/, '\nAAAA')}`, /one in there is damaged/);
      writeFileSync(file, rootCertificates.slice(0, 2).join('\n'));
      expect(loadConfig({ REDIS_URL: 'rediss://h', REDIS_CA_FILE: file }).REDIS_CA_FILE).to.equal(file);
      expect(() => loadConfig({ REDIS_URL: 'rediss://h', REDIS_CA_FILE: dir })).to.throw(ConfigError, /can be read/);
    } finally {
      rmSync(dir, { recursive: true });
    }
  });

  it('are described without passwords', () => {
    expect(describeSettings({ url: 'redis://user:secret@h:1' })).to.equal('redis://h:1');
    expect(describeSettings({ sentinels: ['a:1', 'b:2'], password: 'secret' })).to.equal(
      'Sentinels a:1,b:2 for mymaster',
    );
    expect(describeSettings({ cluster: ['a:1'], password: 'secret' })).to.equal('cluster a:1');
  });
});

describe('causes of a Redis that does not do what it should', () => {
  it('are told without what was sent to it', () => {
    const sent = (message: string, name: string, ...args: string[]): Error =>
      Object.assign(new Error(message), { command: { name, args } });
    for (const [error, reason] of [
      [new Error("ERR unknown command 'auth', with args beginning with: 's3cr3t'"), "ERR unknown command 'auth'"],
      [new Error('ERR unknown command `AUTH`, with args beginning with: `s3cr3t`, '), 'ERR unknown command `AUTH`'],
      [
        new Error("ERR unknown command 'eval', with args beginning with: 'local a\nb' '1'"),
        "ERR unknown command 'eval'",
      ],
      [sent('ERR s3cr3t is wrong', 'auth', 's3cr3t'), 'ERR [redacted] is wrong'],
      [sent('ERR bob s3cr3t is wrong', 'AUTH', 'bob', 's3cr3t'), 'ERR bob [redacted] is wrong'],
      [
        sent('ERR no HELLO 3 AUTH bob s3cr3t', 'hello', '3', 'AUTH', 'bob', 's3cr3t'),
        'ERR no HELLO 3 AUTH bob [redacted]',
      ],
      [sent('NOPROTO 3', 'hello', '3'), 'NOPROTO 3'],
      [new Error('ERR \u001b[31mred\r\nline'), 'ERR  [31mred line'],
    ] as const) {
      expect(faultOf(error).reason).to.equal(reason);
    }
    expect(faultOf(new Error(`ERR ${'x'.repeat(5_000)}`)).reason).to.have.length(500);
  });

  const network = (code: string): Error => Object.assign(new Error(`connect ${code}`), { code });
  const causes: Array<[Error, string]> = [
    [new Error("READONLY You can't write against a read only replica."), 'READONLY'],
    [
      new Error('ERR Error running script (call to f_1): @user_script:7: @user_script: 7: -OOM command not allowed'),
      'OOM',
    ],
    [new Error('ERR max number of clients reached'), 'MAX_CLIENTS'],
    [new Error("ERR unknown command 'EVALSHA', with args beginning with: "), 'UNKNOWN_COMMAND'],
    [new Error("ERR The user executing the script can't run this command or subcommand script: 1, on @1:3."), 'NOPERM'],
    [new Error("ERR ACL failure in script: User bob has no permissions to run the 'incrby' command"), 'NOPERM'],
    [
      new Error("ERR Error running script (call to f_1): @user_script:7: The user executing the script can't run this"),
      'NOPERM',
    ],
    [new Error('ERR value is not an integer or out of range'), 'WRONGTYPE'],
    [new Error('ERR something else'), 'ERR'],
    [new Error('WRONGPASS invalid username-password pair or user is disabled.'), 'WRONGPASS'],
    [
      new Error('All sentinels are unreachable. Retrying from scratch after 90ms. Last error: NOAUTH'),
      'SENTINEL_NOAUTH',
    ],
    [new Error('Connection is closed.'), 'CLOSED'],
    [new Error("Stream isn't writeable and enableOfflineQueue options is false"), 'CLOSED'],
    [new Error("Cluster isn't ready and enableOfflineQueue options is false"), 'CLOSED'],
    [network('ECONNREFUSED'), 'ECONNREFUSED'],
    [network('DEPTH_ZERO_SELF_SIGNED_CERT'), 'DEPTH_ZERO_SELF_SIGNED_CERT'],
    [Object.assign(new Error('Failed to refresh slots cache.'), { lastNodeError: network('ETIMEDOUT') }), 'ETIMEDOUT'],
    [new Error('what else'), 'OTHER'],
  ];
  for (const [error, code] of causes) {
    it(`say ${code} for ${error.message}`, () => expect(faultOf(error).code).to.equal(code));
  }
});
