import { loadAttack, newOutcome, type Target } from './attack.js';

// The process of one attacker: its attack and its target are arguments, its parent is told what came of it.
const [name = '', target = ''] = process.argv.slice(2);
const stop = new AbortController();
process.once('disconnect', () => process.exit());
process.on('message', () => stop.abort());

const outcome = newOutcome();
const report = (): void => {
  process.send?.(outcome);
};
const timer = setInterval(report, 200);
const attack = await loadAttack(name);
const given = JSON.parse(target) as Target;
await attack.prepare?.(given);
process.send?.('ready');
await attack.run(given, outcome, stop.signal);
clearInterval(timer);
report();
process.disconnect();
