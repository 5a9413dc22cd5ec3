import { Redis } from 'ioredis';

/**
 * Loaded into an instance: a worker that gets SIGUSR2 does nothing at all for a while, which begins when its next command to
 * Redis has been sent.
 */
const HELD_UP_MS = 5_000;

const say = (message: string): void => {
  process.stderr.write(`${JSON.stringify({ message })}\n`);
};

let due = false;
process.on('SIGUSR2', () => {
  due = true;
});
const send = Redis.prototype.sendCommand;
Redis.prototype.sendCommand = function (this: Redis, command, stream) {
  const answer = send.call(this, command, stream);
  if (due) {
    due = false;
    // What is sent within one turn leaves in the immediates of that turn.
    setImmediate(() => {
      say('held up');
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, HELD_UP_MS);
      say('going on');
    });
  }
  return answer;
};
