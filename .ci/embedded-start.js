// Starts the service as a newcomer does, with npm start, no Redis, no Postgres and no configuration; writes a task and ends it.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const PATIENCE_MS = 120_000;
const dir = mkdtempSync(join(tmpdir(), 'taskwire-start-'));

/** A folder for PATH that has what npm start needs and nothing else. */
const bin = join(dir, 'bin');
mkdirSync(bin);
symlinkSync(process.execPath, join(bin, 'node'));
for (const name of ['npm', 'sh']) {
  const found = process.env.PATH.split(delimiter)
    .map((folder) => join(folder, name))
    .find(existsSync);
  symlinkSync(realpathSync(found), join(bin, name));
}

const probe = createServer().listen(0, '127.0.0.1');
await once(probe, 'listening');
const { port } = probe.address();
probe.close();
await once(probe, 'close');

const child = spawn('npm', ['start'], {
  cwd: fileURLToPath(new URL('..', import.meta.url)),
  env: {
    PATH: bin,
    HOME: dir,
    npm_config_update_notifier: 'false',
    HOST: '127.0.0.1',
    PORT: String(port),
    DATA_DIR: join(dir, 'data'),
    WORKERS: '2',
    DRAIN_SECONDS: '1',
  },
  stdio: ['ignore', 'pipe', 'pipe'],
  // A group of its own, so that none of its processes is left behind.
  detached: true,
});
let log = '';
child.stderr.setEncoding('utf8').on('data', (text) => {
  log += text;
  process.stderr.write(text);
});
/** Kills all of its processes that are left. */
function killAll() {
  try {
    process.kill(-child.pid, 'SIGKILL');
  } catch {
    // None is left.
  }
}
const exited = once(child, 'exit');
const giveUp = setTimeout(killAll, PATIENCE_MS);
try {
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
  // npm ends with the exit code of its program, or with the signal that it was sent itself.
  process.kill(Number(/pid=(\d+)/.exec(log)[1]), 'SIGTERM');
  const [code, signal] = await exited;
  if (code !== 0) {
    throw new Error(`it ended with ${code ?? signal}`);
  }
  process.stdout.write('started, took a write, ended with 0\n');
} finally {
  clearTimeout(giveUp);
  killAll();
  rmSync(dir, { recursive: true, force: true });
}
