import { expect } from 'chai';
import type { Logger } from '../../src/base/logger.js';
import { connectDatabase } from '../../src/database/connect-database.js';
import { eventually } from '../support/eventually.js';
import { POSTGRES_PROGRAMS, sharedPostgres } from '../support/postgres.js';
import { describeWith } from '../support/programs.js';
import { type RestAnswer, RestServer } from '../support/rest.js';

describeWith(POSTGRES_PROGRAMS, 'the life of a key', function () {
  this.timeout(60_000);
  let rest: RestServer;
  let admin: string;
  const lines: Array<Record<string, unknown>> = [];

  before(async () => {
    const postgres = await sharedPostgres();
    const note = (message: string, fields: object = {}): void => void lines.push({ message, ...fields });
    const logger = { debug() {}, info: note, warn() {}, error() {}, child: () => logger } as unknown as Logger;
    rest = new RestServer(connectDatabase({ url: await postgres.createDatabase(), pool: 4 }), logger);
    await rest.start();
    admin = await rest.makeKey('root', 'admin');
  });
  after(() => rest?.stop());
  beforeEach(() => {
    lines.length = 0;
    rest.changed.length = 0;
    rest.revoked.length = 0;
  });

  const call = (method: string, path: string, body?: unknown): Promise<RestAnswer> =>
    rest.request(method, path, { key: admin, body });
  async function make(body: object): Promise<{ key: string; key_id: string }> {
    const { status, body: made } = await call('POST', '/api/keys', body);
    expect(status, JSON.stringify(made)).to.equal(201);
    return made;
  }
  /** 200 while a key is valid, else the code of the refusal. */
  async function use(key: string): Promise<unknown> {
    const { status, body } = await rest.request('GET', '/api/jobs', { key });
    return body.error?.code ?? status;
  }

  it('ends when it says', async () => {
    const expires_at = new Date(Date.now() + 700).toISOString();
    const { key, key_id } = await make({ owner: 'ada', expires_at });
    expect(await use(key)).to.equal(200);
    await eventually(async () => expect(await use(key)).to.equal('INVALID_API_KEY'));
    expect(await rest.apiKeys.active([key_id])).to.deep.equal(new Set());
    const { body } = await call('GET', '/api/keys');
    expect(body.keys.find((record: { key_id: string }) => record.key_id === key_id)).to.include({
      expires_at,
      active: true,
    });
  });

  it('wants an end in the future, scopes that its role has, and no field that nobody knows', async () => {
    for (const [body, field] of [
      [{ owner: 'ada', expires_at: '2020-01-01T00:00:00Z' }, 'expires_at'],
      [{ owner: 'ada', expires_at: 'tomorrow' }, 'expires_at'],
      [{ owner: 'ada', role: 'reader', scopes: ['write'] }, 'scopes'],
      [{ owner: 'ada', scopes: ['keys'] }, 'scopes'],
      [{ owner: 'ada', scopes: [] }, 'scopes'],
      [{ owner: 'ada', expiresAt: '2999-01-01T00:00:00Z' }, 'expiresAt'],
    ] as const) {
      const { status, body: answer } = await call('POST', '/api/keys', body);
      expect([status, answer.error.details[0].field], JSON.stringify(body)).to.deep.equal([400, field]);
    }
  });

  it('does what its scopes say', async () => {
    const { key } = await make({ owner: 'ada', scopes: ['write'] });
    expect(await use(key)).to.equal('ACCESS_DENIED');
    const made = await rest.request('POST', '/api/jobs', { key, body: {} });
    expect(made.status).to.equal(201);
    const reader = await make({ owner: 'ada', role: 'reader' });
    expect(await use(reader.key)).to.equal(200);
    const refused = await rest.request('POST', '/api/jobs', { key: reader.key, body: {} });
    expect(refused.body.error.code).to.equal('ACCESS_DENIED');
    const { body } = await rest.request('GET', '/api/jobs', { key: reader.key });
    expect(body.jobs.map(({ user_id }: { user_id: string }) => user_id)).to.deep.equal(['ada']);
  });

  it('is handed over to a successor while both are valid', async () => {
    const { key, key_id } = await make({ owner: 'ada', role: 'reader', rate_limit: 77, name: 'laptop' });
    expect(await use(key)).to.equal(200);
    const rotated = await call('POST', `/api/keys/${key_id}/rotate`, { overlap_seconds: 1 });
    expect(rotated.status).to.equal(201);
    expect(rotated.body).to.include({
      owner: 'ada',
      role: 'reader',
      rate_limit: 77,
      name: 'laptop',
      expires_at: null,
      replaces: key_id,
    });
    expect(rest.changed).to.deep.equal([key_id]);
    expect([await use(key), await use(rotated.body.key)]).to.deep.equal([200, 200]);
    await eventually(async () => expect(await use(key)).to.equal('INVALID_API_KEY'));
    expect(await use(rotated.body.key)).to.equal(200);
    const again = await call('POST', `/api/keys/${key_id}/rotate`, {});
    expect(again.status, 'it is not valid any more').to.equal(404);
    const wrong = await call('POST', `/api/keys/${rotated.body.key_id}/rotate`, { overlap: 5 });
    expect(wrong.status).to.equal(400);
  });

  it('ends at once, with its connections, when it is replaced without overlap', async () => {
    const { key, key_id } = await make({ owner: 'ada' });
    expect(await use(key)).to.equal(200);
    const rotated = await call('POST', `/api/keys/${key_id}/rotate`, { overlap_seconds: 0 });
    expect([rest.revoked, rest.changed]).to.deep.equal([[key_id], []]);
    expect([await use(key), await use(rotated.body.key)]).to.deep.equal(['INVALID_API_KEY', 200]);
  });

  it('is limited, disabled and enabled', async () => {
    const { key, key_id } = await make({ owner: 'ada', rate_limit: 50 });
    expect(await use(key)).to.equal(200);
    expect((await call('PUT', `/api/keys/${key_id}`, { rate_limit: 1 })).body).to.include({ key_id, rate_limit: 1 });
    expect(await use(key), 'more than one a minute').to.equal('RATE_LIMIT_EXCEEDED');
    expect((await call('PUT', `/api/keys/${key_id}`, { active: false, rate_limit: 90 })).body).to.include({
      active: false,
      rate_limit: 90,
    });
    expect(rest.revoked).to.deep.equal([key_id]);
    expect(await use(key)).to.equal('INACTIVE_API_KEY');
    expect((await call('PUT', `/api/keys/${key_id}`, { active: true })).body).to.include({ active: true });
    expect(await use(key)).to.equal(200);
    for (const [path, body, status] of [
      [`/api/keys/${key_id}`, {}, 400],
      [`/api/keys/${key_id}`, { rate_limit: 0 }, 400],
      [`/api/keys/${key_id}`, { owner: 'eve' }, 400],
      ['/api/keys/nosuchkey', { active: true }, 404],
      ['/api/keys/nosuchkey', { active: false }, 404],
      ['/api/keys/nosuchkey', { rate_limit: 3 }, 404],
    ] as const) {
      expect((await call('PUT', path, body)).status, JSON.stringify([path, body])).to.equal(status);
    }
  });

  it('ends with all of its owner', async () => {
    const keys = [await make({ owner: 'bob' }), await make({ owner: 'bob', role: 'reader' })];
    const other = await make({ owner: 'bobby' });
    const { body } = await call('DELETE', '/api/keys?owner=bob');
    expect(body.key_ids).to.have.members(keys.map(({ key_id }) => key_id));
    expect(rest.revoked).to.have.members(body.key_ids);
    for (const { key } of keys) {
      expect(await use(key)).to.equal('INACTIVE_API_KEY');
    }
    expect(await use(other.key)).to.equal(200);
    expect((await call('DELETE', '/api/keys')).status, 'whose is not said').to.equal(400);
  });

  it('leaves a line in the log for each change, without the key', async () => {
    const { key, key_id } = await make({ owner: 'ada' });
    await call('PUT', `/api/keys/${key_id}`, { rate_limit: 9 });
    const rotated = (await call('POST', `/api/keys/${key_id}/rotate`)).body;
    await call('DELETE', `/api/keys/${key_id}`);
    await call('DELETE', '/api/keys?owner=ada');
    expect(lines.map(({ message }) => message)).to.deep.equal([
      'key created',
      'key changed',
      'key rotated',
      'key disabled',
      'keys disabled',
    ]);
    const root = (await rest.apiKeys.list()).find(({ role }) => role === 'admin')!.key_id;
    for (const line of lines) {
      expect(line).to.include({ by: root, by_owner: 'root' });
    }
    expect(lines[2]).to.include({ key_id: rotated.key_id, replaces: key_id, overlap_seconds: 86_400 });
    expect(JSON.stringify(lines)).to.not.include(key).and.not.include(rotated.key);
  });
});
