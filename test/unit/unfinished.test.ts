import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { beginFirstStart, endFirstStart, unfinishedFile } from '../../src/embedded/unfinished.js';

describe('the first start of an embedded database', () => {
  let dir: string;
  let data: string;

  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'taskwire-first-'));
    data = join(dir, 'data');
    mkdirSync(data);
  });

  afterEach(() => {
    rmSync(dir, { recursive: true, force: true });
  });

  it('removes what an earlier one has left that was cut off', () => {
    beginFirstStart(data);
    writeFileSync(join(data, 'PG_VERSION'), '17');
    mkdirSync(join(data, 'base'));
    beginFirstStart(data);
    expect(readdirSync(data)).to.deep.equal([]);
    endFirstStart(data);
    expect(existsSync(unfinishedFile(data))).to.equal(false);
  });

  it('removes nothing of a database', () => {
    beginFirstStart(data);
    writeFileSync(join(data, 'PG_VERSION'), '17');
    endFirstStart(data);
    beginFirstStart(data);
    beginFirstStart(data);
    expect(readdirSync(data)).to.deep.equal(['PG_VERSION']);
  });

  it('removes no files that were there before it, as where DATA_DIR is a folder of something else', () => {
    writeFileSync(join(data, 'accounts.csv'), 'ada,1');
    // It is cut off, and begun anew.
    beginFirstStart(data);
    writeFileSync(join(data, 'PG_VERSION'), '17');
    beginFirstStart(data);
    expect(readdirSync(data).sort()).to.deep.equal(['PG_VERSION', 'accounts.csv']);
    endFirstStart(data);
  });
});
