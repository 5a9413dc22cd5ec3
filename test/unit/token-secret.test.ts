import { chmodSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { tokenSecret } from '../../src/embedded/token-secret.js';

describe('the secret of tokens of an embedded service', () => {
  let dir: string;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'taskwire-secret-'));
  });
  afterEach(() => rmSync(dir, { recursive: true, force: true }));

  it('is made once, and only its owner reads it', () => {
    const secret = tokenSecret(dir);
    expect(secret).to.have.lengthOf.at.least(32);
    chmodSync(join(dir, 'token-secret'), 0o644);
    expect(tokenSecret(dir)).to.equal(secret);
    expect(statSync(join(dir, 'token-secret')).mode & 0o777).to.equal(0o600);
    expect(readdirSync(dir)).to.deep.equal(['token-secret']);
  });

  it('is made where somebody was ended before it was written, or found no room', () => {
    writeFileSync(join(dir, 'token-secret'), '');
    writeFileSync(join(dir, 'token-secret.new'), 'half');
    const secret = tokenSecret(dir);
    expect(secret).to.have.lengthOf.at.least(32);
    expect(tokenSecret(dir)).to.equal(secret);
  });
});
