// Builds whenever a source changes and starts a program anew after each build that has no errors:
// `node .ci/watch.js PROGRAM [ARGUMENT ...]`. Ctrl-C ends both.
import { spawn } from 'node:child_process';
import { once } from 'node:events';

const [program, ...args] = process.argv.slice(2);
let running;
let ending = false;

async function stop() {
  const child = running;
  if (child !== undefined && child.exitCode === null && child.signalCode === null) {
    child.kill('SIGTERM');
    await once(child, 'exit');
  }
}

/** Restarts come one after the other, and those that wait are one. */
let wanted = false;
let restarting = false;
async function restart() {
  wanted = true;
  if (restarting) {
    return;
  }
  restarting = true;
  while (wanted && !ending) {
    wanted = false;
    await stop();
    running = spawn(process.execPath, ['--enable-source-maps', program, ...args], {
      stdio: 'inherit',
      env: { DRAIN_SECONDS: '0', ...process.env },
    });
  }
  restarting = false;
}

const compiler = spawn('npx', ['tsc', '-p', 'tsconfig.json', '--watch', '--preserveWatchOutput'], {
  stdio: ['ignore', 'pipe', 'inherit'],
});
compiler.stdout.setEncoding('utf8').on('data', (text) => {
  process.stdout.write(text);
  if (text.includes('Found 0 errors')) {
    void restart();
  }
});

async function end() {
  ending = true;
  compiler.kill();
  await stop();
  process.exit();
}

// A terminal that is closed sends SIGHUP, which the service would take for the wish to replace its workers.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.once(signal, end);
}

// npm passes some signals on, and ends alone by the others.
const parent = process.ppid;
setInterval(() => {
  if (process.ppid !== parent && !ending) {
    void end();
  }
}, 500).unref();
