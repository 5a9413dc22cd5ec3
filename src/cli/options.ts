import { InvalidArgumentError, Option } from 'commander';
import { loadClientConfig, loadConfig } from '../config.js';
import { localUrl } from './remote.js';

export const json = (): Option => new Option('--json', 'print JSON, for scripts');
export const url = (): Option =>
  new Option('--url <url>', 'address of the service (default: TASKWIRE_URL; without it this machine, at PORT)');

/** Where the service is that a command asks. */
export const addressOf = (options: { url?: string }): string =>
  options.url ?? loadClientConfig().TASKWIRE_URL ?? localUrl(loadConfig());

export function positive(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1) {
    throw new InvalidArgumentError('It wants a positive whole number.');
  }
  return value;
}

/** A hundred years, in seconds. */
const LONGEST = 3_153_600_000;
const UNITS: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3_600, d: 86_400 };

/** A time span such as `90`, `15m`, `12h` or `30d`, in seconds. */
export function seconds(text: string): number {
  const match = /^(\d{1,9})([smhd]?)$/.exec(text);
  if (match === null) {
    throw new InvalidArgumentError('It wants seconds, or a time such as 15m, 12h or 30d.');
  }
  const value = Number(match[1]) * UNITS[match[2] || 's']!;
  if (value > LONGEST) {
    throw new InvalidArgumentError('It wants at most a hundred years (36500d).');
  }
  return value;
}

export const list = (text: string, before: readonly string[] = []): string[] => [...before, ...text.split(',')];

export function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

/** For people: standard output is for results. */
export function warn(text: string): void {
  process.stderr.write(`${text}\n`);
}
