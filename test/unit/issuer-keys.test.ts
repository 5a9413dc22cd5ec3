import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect } from 'chai';
import { type CryptoKey, exportJWK, exportSPKI, generateKeyPair, SignJWT, UnsecuredJWT } from 'jose';
import { Tokens } from '../../src/door/tokens.js';
import { refusal } from '../support/refusal.js';

const ISSUER = 'https://app.example.com';
const SECRET = 's'.repeat(32);

interface Pair {
  readonly privateKey: CryptoKey;
  readonly publicKey: CryptoKey;
}

describe("tokens of the application's own issuer", () => {
  let server: Server;
  let fetched: number;
  let answer: () => [status: number, body: string];
  let tokens: Tokens;
  let one: Pair;
  let two: Pair;

  before(async () => {
    [one, two] = await Promise.all([
      generateKeyPair('RS256', { extractable: true }),
      generateKeyPair('RS256', { extractable: true }),
    ]);
    server = createServer((_request, response) => {
      fetched += 1;
      const [status, body] = answer();
      response.writeHead(status, { 'content-type': 'application/json' }).end(body);
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
  });
  after(() => server.close());
  beforeEach(() => {
    fetched = 0;
    // Each has an address of its own, and so nothing of the keys that others have fetched.
    const keys = new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
    tokens = new Tokens({
      secrets: [SECRET],
      issuer: { issuer: ISSUER, audience: 'tasks', keys },
      isActive: () => true,
      rateLimit: 1,
    });
  });

  const publish = async (...pairs: Array<[pair: Pair, kid?: string]>): Promise<void> => {
    const keys = await Promise.all(
      pairs.map(async ([{ publicKey }, kid]) => ({
        ...(await exportJWK(publicKey)),
        ...(kid === undefined ? {} : { kid }),
      })),
    );
    answer = () => [200, JSON.stringify({ keys })];
  };
  const sign = ({ privateKey }: Pair, claims: object = {}, header: object = {}): Promise<string> =>
    new SignJWT({ iss: ISSUER, aud: 'tasks', sub: 'ada', exp: Math.floor(Date.now() / 1_000) + 600, ...claims })
      .setProtectedHeader({ alg: 'RS256', ...header })
      .sign(privateKey);
  /** What a token is refused with; undefined when it is taken. */
  const verdict = async (token: string): Promise<string | undefined> => {
    try {
      await tokens.verify(token);
      return undefined;
    } catch (error) {
      return (error as { code: string }).code;
    }
  };

  it('are verified by whichever key fits, when they do not say by which', async () => {
    await publish([one, 'a'], [two, 'b']);
    expect(await verdict(await sign(one))).to.equal(undefined);
    expect(await verdict(await sign(two))).to.equal(undefined);
    expect(await verdict(await sign(await generateKeyPair('RS256')))).to.equal('INVALID_TOKEN');
    expect(fetched).to.equal(1);
  });

  for (const [title, header] of [
    ['that they name', { kid: 'b' }],
    ['that they do not name', {}],
  ] as const) {
    it(`are taken by a new key ${title}, as soon as the set may be fetched again`, async () => {
      await publish([one, 'a']);
      expect(await verdict(await sign(one, {}, { kid: 'a' }))).to.equal(undefined);
      await publish([two, 'b']);
      const { now } = Date;
      try {
        Date.now = () => now() + 6_000;
        expect(await verdict(await sign(two, {}, header))).to.equal(undefined);
        expect(await verdict(await sign(one, {}, { kid: 'a' })), 'the old one is not among them').to.equal(
          'TOKEN_ISSUER_UNAVAILABLE',
        );
        Date.now = () => now() + 12_000;
        expect(await verdict(await sign(one, {}, { kid: 'a' })), 'and was asked for').to.equal('INVALID_TOKEN');
      } finally {
        Date.now = now;
      }
    });
  }

  it('with a key that is not in a set of a moment ago may be sent again, and have it fetched no more often', async () => {
    await publish([one, 'a']);
    expect(await verdict(await sign(one, {}, { kid: 'a' }))).to.equal(undefined);
    for (let number = 0; number < 20; number += 1) {
      const { code, body } = await refusal(async () => tokens.verify(await sign(two, {}, { kid: `x${number}` })));
      expect(code).to.equal('TOKEN_ISSUER_UNAVAILABLE');
      expect(body.retry_after_ms).to.equal(5_000);
    }
    expect(fetched).to.equal(1);
  });

  it('are not blamed for a set that is none', async () => {
    for (const body of ['{"error":"maintenance"}', '<html>', '{"keys":"none"}']) {
      answer = () => [200, body];
      expect(await verdict(await sign(one)), body).to.equal('TOKEN_ISSUER_UNAVAILABLE');
    }
    answer = () => [302, ''];
    expect(await verdict(await sign(one))).to.equal('TOKEN_ISSUER_UNAVAILABLE');
    await publish([one]);
    expect(await verdict(await sign(one))).to.equal(undefined);
  });

  it('have a signature that only their issuer can make', async () => {
    await publish([one, 'a']);
    const claims = { iss: ISSUER, aud: 'tasks', sub: 'ada', exp: Math.floor(Date.now() / 1_000) + 600 };
    const pem = Buffer.from(await exportSPKI(one.publicKey));
    const modulus = Buffer.from(String((await exportJWK(one.publicKey)).n), 'base64url');
    const symmetric = (secret: Uint8Array, header: object = {}): Promise<string> =>
      new SignJWT(claims).setProtectedHeader({ alg: 'HS256', kid: 'a', ...header }).sign(secret);
    const mine = await exportJWK(two.publicKey);
    const forged: Record<string, string> = {
      'not signed': new UnsecuredJWT(claims).encode(),
      'the public key as a secret': await symmetric(pem),
      'its modulus as a secret': await symmetric(modulus),
      "this service's own secret": await symmetric(Buffer.from(SECRET)),
      'a key that it brings along': await sign(two, {}, { jwk: mine }),
      'a key at an address that it names': await sign(
        two,
        {},
        { jku: 'http://127.0.0.1:1/', x5u: 'http://127.0.0.1:1/' },
      ),
      'a key named by a path': await sign(two, {}, { kid: '../../../../dev/null' }),
      'an extension that nobody knows': await new SignJWT(claims)
        .setProtectedHeader({ alg: 'RS256', kid: 'a', crit: ['x'], x: 1 })
        .sign(one.privateKey, { crit: { x: false } }),
      'no sub': await sign(one, { sub: undefined }),
      'a number as sub': await sign(one, { sub: 7 }),
      'a list as sub': await sign(one, { sub: ['ada'] }),
      'no user id as sub': await sign(one, { sub: 'a b' }),
      'milliseconds as exp': await sign(one, { exp: Date.now() + 600_000 }),
      'a time that never comes as exp': await sign(one, { exp: 1e300 }),
      'text as exp': await sign(one, { exp: 'tomorrow' }),
      'another audience': await sign(one, { aud: ['mail'] }),
      'a time that has not come': await sign(one, { nbf: Math.floor(Date.now() / 1_000) + 600 }),
      'no list as rooms': await sign(one, { rooms: 'job:1' }),
      'null as rooms': await sign(one, { rooms: null }),
      'numbers as rooms': await sign(one, { rooms: [1] }),
    };
    const { now } = Date;
    try {
      for (const [index, [title, token]] of Object.entries(forged).entries()) {
        // Late enough for the set to be fetched again each time.
        Date.now = () => now() + 6_000 * (index + 1);
        expect(await verdict(token), title).to.equal('INVALID_TOKEN');
      }
    } finally {
      Date.now = now;
    }
    expect(await verdict(await sign(one, { aud: ['mail', 'tasks'] }))).to.equal(undefined);
  });

  it('may be made by a clock that differs by some seconds', async () => {
    await publish([one, 'a']);
    const seconds = Math.floor(Date.now() / 1_000);
    expect(await verdict(await sign(one, { exp: seconds - 3 }))).to.equal(undefined);
    expect(await verdict(await sign(one, { exp: seconds - 60 }))).to.equal('TOKEN_EXPIRED');
    expect(await verdict(await sign(one, { nbf: seconds + 3, iat: seconds + 3 }))).to.equal(undefined);
    const { token } = await tokens.verify(await sign(one, { exp: seconds + 10 }));
    expect(token!.expiresAt, 'and end the connection no sooner').to.equal((seconds + 15) * 1_000);
  });

  it('show the rooms that they name of their user, and an empty list shows none', async () => {
    await publish([one, 'a']);
    const { token, owner, role } = await tokens.verify(await sign(one, { rooms: [] }));
    expect([owner, role, token!.rooms!.size, token!.user]).to.deep.equal(['ada', 'reader', 0, 'ada']);
  });

  it('are not confused with tokens that this service makes', async () => {
    await publish([one, 'a']);
    const own = { iss: 'taskwire', aud: 'taskwire', key: 'k1', owner: 'eve', limit: 9, jti: 'j', rooms: ['job:1'] };
    expect(await verdict(await sign(one, own)), 'signed by the issuer').to.equal('INVALID_TOKEN');
    const claims = { iss: ISSUER, aud: 'tasks', sub: 'ada', exp: Math.floor(Date.now() / 1_000) + 600 };
    const signed = await new SignJWT(claims).setProtectedHeader({ alg: 'HS256' }).sign(Buffer.from(SECRET));
    expect(await verdict(signed), 'signed with the secret').to.equal('INVALID_TOKEN');
  });
});
