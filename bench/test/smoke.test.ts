import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { describeWith } from '../../test/support/programs.js';
import { measurable } from '../lib/machine.js';
import type { Run } from '../lib/runs.js';
import { PROGRAMS } from '../lib/services.js';

/** What each scenario is about: figures that its runs must have. */
const FIGURES: Readonly<Record<string, readonly string[]>> = {
  S1: ['deliveries', 'server_cpu_us_per_delivery', 'deliveries_per_s', 'latency_p99_ms'],
  S2: ['deliveries', 'server_cpu_us_per_delivery', 'deliveries_per_s', 'latency_p99_ms'],
  S3: ['deliveries', 'server_cpu_us_per_delivery', 'events_per_s', 'latency_p99_ms'],
  S4: ['pss_kb_per_connection', 'settled_kb_per_connection', 'setup_cpu_us_per_connection', 'setup_p99_ms'],
  S5: ['missed_events', 'replayed_events', 'all_back_ms', 'back_p99_ms', 'server_cpu_us_per_connection'],
  S6: [],
  S7: ['deliveries', 'server_cpu_us_per_delivery', 'deliveries_per_s', 'latency_p99_ms'],
  S8: ['streams', 'with_redis_server_cpu_ms_per_s', 'without_redis_server_cpu_ms_per_s'],
  S9: ['latency_p50_ms', 'latency_p99_ms', 'latency_max_ms'],
};

/** Runs a program of the bench. @returns what it printed; its exit code must be 0 */
async function bench(script: string, ...args: string[]): Promise<string> {
  const path = fileURLToPath(new URL(`../${script}.js`, import.meta.url));
  const child = spawn(process.execPath, [path, '--smoke', ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  const abandon = (): void => {
    child.kill('SIGTERM');
  };
  process.once('exit', abandon);
  let text = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (part: string) => {
      text += part;
    });
  }
  const [code] = (await once(child, 'close')) as [number | null];
  process.off('exit', abandon);
  expect(code, text).to.equal(0);
  return text;
}

describeWith(PROGRAMS, 'bench, in tiny sizes', function () {
  this.timeout(300_000);
  let out: string;

  before(function () {
    if (!measurable) {
      this.skip();
    }
  });
  beforeEach(() => {
    out = mkdtempSync(join(tmpdir(), 'taskwire-bench-'));
  });
  afterEach(() => rmSync(out, { recursive: true, force: true }));

  /** The lines of the driver's one call, all of runs that count: nothing was lost, doubled or out of order. */
  function countedRuns(): Run[] {
    const [name] = readdirSync(out).filter((file) => file.endsWith('.jsonl'));
    const lines = readFileSync(join(out, name!), 'utf8').trim().split('\n');
    const runs = lines.map((line) => JSON.parse(line) as Run);
    for (const run of runs) {
      expect(run, JSON.stringify(run)).to.include({ valid: true, repeat: 1 });
      expect(Object.entries(run.figures).filter(([, value]) => !Number.isFinite(value))).to.deep.equal([]);
      expect(Object.keys(run.figures), run.scenario).to.include.members([...FIGURES[run.scenario.slice(0, 2)]!]);
    }
    return runs;
  }

  const subjects = (): string[] => [...new Set(countedRuns().map(({ variant, wire }) => `${variant} ${wire}`))];

  it('measures every scenario', async () => {
    await bench('run', '--variants', 'ours', '--wire', 'plain', '--out', out);
    const runs = countedRuns();
    const names = new Set(runs.map(({ scenario }) => scenario.slice(0, 2)));
    expect([...names]).to.deep.equal(Object.keys(FIGURES));
    const writes = Object.assign(
      {},
      ...runs.filter(({ scenario }) => scenario.startsWith('S6')).map((run) => run.figures),
    );
    expect(writes).to.include.keys(
      'repository_per_s',
      'bare_per_s',
      'batch_per_s',
      'many_streams_per_s',
      'rest_port_per_s',
    );
  });

  it('measures the Socket.IO wire and its peer', async () => {
    await bench('run', 'S1', '--variants', 'ours,plain', '--wire', 'socketio', '--out', out);
    expect(subjects()).to.have.members(['ours socketio', 'plain socketio']);
  });

  it('measures the peers of the plain wire', async () => {
    await bench('run', 'S1', '--variants', 'plain-ws,uwebsockets', '--wire', 'plain', '--out', out);
    // The other one is no dependency and need not be there.
    expect(subjects()).to.include('plain-ws plain');
  });

  it('shows what a connection keeps on the heap', async () => {
    const text = await bench('heap', '--variants', 'ours', '--wire', 'plain');
    expect(Number(/\*\*together\*\* .* (\d+) \|/.exec(text)?.[1]), text).to.be.greaterThan(0);
  });

  it('measures the load generator alone', async () => {
    const text = await bench('load/alone');
    for (const row of ['socketio', 'plain'].flatMap((wire) => [1, 10, 100].map((many) => `${wire}, ${many} frames`))) {
      expect(text).to.include(row);
    }
  });
});
