import { readFileSync } from 'node:fs';
import { expect } from 'chai';
import { nodeProblem, OLDEST_NODE } from '../../src/base/node-version.js';
import { urlsAt } from '../../src/base/port.js';
import { warnOfUnknownVariables } from '../../src/cluster/unknown-variables.js';
import { loadConfig, VARIABLES } from '../../src/config.js';

describe('first screen', () => {
  it('refuses a Node.js that is older than package.json says', () => {
    const { engines } = JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')) as {
      engines: { node: string };
    };
    expect(engines.node).to.equal(`>=${OLDEST_NODE}`);
    for (const version of ['20.19.0', '20.20.1', '22.0.0', '100.1.0']) {
      expect(nodeProblem(version), version).to.equal(undefined);
    }
    for (const version of ['20.18.9', '18.20.0', '9.11.2']) {
      expect(nodeProblem(version), version).to.contain(`Node.js ${OLDEST_NODE} or later, and this is ${version}`);
    }
  });

  it('warns of variables that look like ours, with the nearest name, and of no others', () => {
    const warned = (...names: string[]): Array<[unknown, unknown]> => {
      const lines: Array<[unknown, unknown]> = [];
      const warn = (_message: string, fields: Record<string, unknown> = {}): void =>
        void lines.push([fields['variable'], fields['did_you_mean']]);
      warnOfUnknownVariables(names, { warn });
      return lines;
    };
    expect(
      warned('REDIS_URI', 'DATABASE_POOLS', 'MAX_CONECTIONS_PER_IP', 'ALLOWED_ORIGIN', 'TASKWIRE_KEY'),
    ).to.deep.equal([
      ['REDIS_URI', 'REDIS_URL'],
      ['DATABASE_POOLS', 'DATABASE_POOL'],
      ['MAX_CONECTIONS_PER_IP', 'MAX_CONNECTIONS_PER_IP'],
      ['ALLOWED_ORIGIN', 'ALLOWED_ORIGINS'],
      ['TASKWIRE_KEY', undefined],
    ]);
    expect(warned(...VARIABLES)).to.deep.equal([]);
    const others = [
      'PATH',
      'HOME',
      'HOSTNAME',
      'PWD',
      'LANG',
      'SHELL',
      'TERM',
      'USER',
      'PGHOST',
      'PGPORT',
      'NODE_OPTIONS',
    ];
    expect(warned(...others, 'npm_config_port', 'EDITOR', 'LC_ALL', 'KUBERNETES_PORT', 'NODE_PATH')).to.deep.equal([]);
  });

  it('opens nothing to the network on the embedded database, and asks for a key with another one', () => {
    expect(loadConfig({})).to.include({ HOST: '127.0.0.1', STATS_ACCESS: 'local' });
    const url = 'postgres://db/tasks';
    expect(loadConfig({ DATABASE_URL: url })).to.include({ HOST: '0.0.0.0', STATS_ACCESS: 'key' });
    expect(loadConfig({ DATABASE_URL: url, HOST: '10.0.0.1', STATS_ACCESS: 'public' })).to.include({
      HOST: '10.0.0.1',
      STATS_ACCESS: 'public',
    });
  });

  it('says on which addresses it listens', () => {
    expect(urlsAt('127.0.0.1', 9002)).to.deep.equal(['http://127.0.0.1:9002']);
    expect(urlsAt('::1', 9002)).to.deep.equal(['http://[::1]:9002']);
    const [first, ...others] = urlsAt('0.0.0.0', 9002);
    expect(first).to.equal('http://127.0.0.1:9002');
    for (const other of others) {
      expect(other).to.match(/^http:\/\/\d+\.\d+\.\d+\.\d+:9002$/);
    }
  });
});
