import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { ConfigError, loadConfig, portsOf } from '../../src/config.js';
import { clientAddress } from '../../src/door/client-address.js';

describe('lists in the configuration', () => {
  it('hold proxies that the address resolver understands', () => {
    const text = 'loopback, uniquelocal,linklocal , 10.0.0.0/8,203.0.113.7, 2001:db8::/32, ::1';
    const { TRUSTED_PROXIES } = loadConfig({ TRUSTED_PROXIES: text });
    expect(TRUSTED_PROXIES).to.have.length(7);
    clientAddress(TRUSTED_PROXIES);
  });

  it('are refused when an item is wrong, with the name of the variable', () => {
    for (const text of ['nginx', '10.0.0.0/33', '10.0.0.0/0', '10.0.0.0/8/8', '10.0.0/8', '1', 'loopback,,x']) {
      expect(() => loadConfig({ TRUSTED_PROXIES: text }), text).to.throw(ConfigError, /TRUSTED_PROXIES: got .* wants/);
    }
    for (const text of [
      'example.com',
      'https://example.com/app',
      'ftp://example.com',
      'wss://example.com',
      'https://a b',
      'https://*',
      'https://a.*.example.com',
      'https://*example.com',
      'https://example.com:80*',
      '*://example.com',
      'https://me@example.com',
    ]) {
      expect(() => loadConfig({ ALLOWED_ORIGINS: text }), text).to.throw(ConfigError, /ALLOWED_ORIGINS: got .* wants/);
    }
    expect(loadConfig({ ALLOWED_ORIGINS: 'https://a.example, http://localhost:3000' }).ALLOWED_ORIGINS).to.have.length(
      2,
    );
  });
});

describe('ports in the configuration', () => {
  it('follow each other when each worker has its own', () => {
    expect(portsOf(loadConfig({ PORT: '9002', WORKERS: '3' }))).to.deep.equal([9002]);
    expect(portsOf(loadConfig({ PORT: '9002', WORKERS: '3', LISTEN: 'workers' }))).to.deep.equal([9002, 9003, 9004]);
  });

  it('have room, and are no other port', () => {
    const own = { LISTEN: 'workers', WORKERS: '3' };
    for (const [variables, name] of [
      [{ ...own, PORT: '0' }, 'PORT'],
      [{ ...own, PORT: '65534' }, 'PORT'],
      [{ ...own, PORT: '9000', REST_PORT: '9000' }, 'REST_PORT'],
      [{ ...own, PORT: '9000', REST_PORT: '9002' }, 'REST_PORT'],
      [{ PORT: '9000', REST_PORT: '9000' }, 'REST_PORT'],
    ] as const) {
      expect(() => loadConfig(variables), JSON.stringify(variables)).to.throw(
        ConfigError,
        new RegExp(`^${name}: got .* (?:wants|is too high|is taken)`),
      );
    }
    for (const variables of [
      { ...own, PORT: '65533' },
      { ...own, PORT: '9000', REST_PORT: '9003' },
      { ...own, PORT: '9000', REST_PORT: '8999' },
      { PORT: '0', REST_PORT: '0' },
    ]) {
      loadConfig(variables);
    }
  });
});

describe('a file of public keys in the configuration', () => {
  it('is refused, with its variable, when it holds none', () => {
    const dir = mkdtempSync(join(tmpdir(), 'taskwire-keys-'));
    try {
      const file = join(dir, 'jwks.json');
      const issuer = { TOKEN_ISSUER: 'https://app.example', TOKEN_AUDIENCE: 'taskwire', TOKEN_JWKS_FILE: file };
      expect(() => loadConfig(issuer)).to.throw(
        ConfigError,
        /^TOKEN_JWKS_FILE: got .*; wants a file that can be read$/,
      );
      for (const text of ['', '{', 'null', '[]', '{"keys":{}}', '{"keys":[]}', '{"keys":["key"]}', '{"keys":[{}]}']) {
        writeFileSync(file, text);
        expect(() => loadConfig(issuer), text).to.throw(
          ConfigError,
          /^TOKEN_JWKS_FILE: got .*; wants a file of public keys/,
        );
      }
      writeFileSync(file, '{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AA"}]}');
      expect(loadConfig(issuer).TOKEN_JWKS_FILE).to.equal(file);
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  });
});

describe('quotes around a value of the configuration', () => {
  it('are told, since a folder, a secret or a name would be taken with them', () => {
    for (const [name, value] of [
      ['DATA_DIR', 'data'],
      ['REDIS_PREFIX', 'mine'],
      ['TOKEN_SECRET', 'x'.repeat(32)],
      ['PORT', '9002'],
      ['DATABASE_URL', 'postgres://user:hidden@host/db'],
    ] as const) {
      expect(loadConfig({ [name]: value })).to.have.property(name);
      for (const quote of ['"', "'"]) {
        const told = expect(() => loadConfig({ [name]: `${quote}${value}${quote}` }), name).to.throw(ConfigError);
        told.with
          .property('message')
          .that.matches(new RegExp(`^${name}: got .*; stands in quotes, `))
          .and.does.not.include('hidden');
      }
    }
    expect(loadConfig({ REDIS_PASSWORD: '"own"', REDIS_URL: 'redis://h' }).REDIS_PASSWORD).to.equal('"own"');
  });
});
