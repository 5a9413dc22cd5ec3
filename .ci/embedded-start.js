// Starts the service as a newcomer does, with no Redis, no Postgres and no configuration, writes a task and ends it.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const START_MS = 60_000;
const dir = mkdtempSync(join(tmpdir(), 'taskwire-start-'));

/** A folder for PATH that has Node and nothing else. */
const bin = dir;
symlinkSync(process.execPath, join(bin, 'node'));

const probe = createServer().listen(0, '127.0.0.1');
await once(probe, 'listening');
const { port } = probe.address();
probe.close();
await once(probe, 'close');

const child = spawn('node', [fileURLToPath(new URL('../dist/cluster.js', import.meta.url))], {
  env: {
    PATH: bin,
    HOST: '127.0.0.1',
    PORT: String(port),
    DATA_DIR: join(dir, 'data'),
    WORKERS: '2',
    DRAIN_SECONDS: '1',
  },
  stdio: ['ignore', 'pipe', 'inherit'],
});
const exited = once(child, 'exit');
const giveUp = setTimeout(() => child.kill('SIGKILL'), START_MS);
let output = '';
for await (const text of child.stdout.setEncoding('utf8')) {
  output += text;
  if (output.includes('/api/ws/stats')) {
    break;
  }
}
const key = /service key +(tw_\S+)/.exec(output)?.[1];
if (key === undefined) {
  throw new Error(`it printed no service key:\n${output}`);
}
const response = await fetch(`http://127.0.0.1:${port}/api/tasks`, {
  method: 'POST',
  headers: { 'x-api-key': key, 'content-type': 'application/json' },
  body: JSON.stringify({ job_id: '1', task_definition_id: 7, is_imua: false }),
});
if (response.status !== 201) {
  throw new Error(`a write was answered with ${response.status}: ${await response.text()}`);
}
child.kill('SIGTERM');
const [code, signal] = await exited;
clearTimeout(giveUp);
rmSync(dir, { recursive: true, force: true });
if (code !== 0) {
  throw new Error(`it ended with ${code ?? signal}`);
}
process.stdout.write('started, took a write, ended with 0\n');
