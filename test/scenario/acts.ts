import { setTimeout as sleep } from 'node:timers/promises';
import { HAPROXY, NGINX } from '../support/proxy.js';
import type { Half, Stage } from './stage.js';

export interface Act {
  readonly name: string;
  /** Whether an operator does it on purpose: then every request has an answer, each time. */
  readonly planned: boolean;
  /** @param next gives a number from 0 to 1 */
  run(stage: Stage, next: () => number): Promise<void>;
}

/** Both halves, or one of them. */
export const PARTS = ['both', 'first', 'second'] as const;
export type Part = (typeof PARTS)[number];

const FIRST_HALF: Half = { proxy: NGINX, redis: 'cluster', postgres: 'address' };
const SECOND_HALF: Half = { proxy: HAPROXY, redis: 'sentinels', postgres: 'servers' };

const restart: Act = {
  name: 'both instances are restarted, one after the other',
  planned: true,
  async run(stage) {
    for (const index of stage.instances.keys()) {
      await stage.restart(index);
    }
  },
};

const reload: Act = {
  name: 'the proxy is reloaded',
  planned: true,
  run: (stage) => stage.reloadProxy(),
};

const postgres: Act = {
  name: 'Postgres fails over',
  planned: false,
  run: (stage) => stage.failPostgresOver(),
};

const redis: Act = {
  name: 'Redis fails over',
  planned: false,
  run: (stage, next) => stage.failRedisOver(next),
};

const kill: Act = {
  name: 'an instance is killed',
  planned: false,
  async run(stage, next) {
    const index = Math.floor(next() * stage.instances.length);
    await stage.killInstance(index);
    await sleep(next() * 5_000);
    await stage.replace(index);
  },
};

const change: Act = {
  name: 'another proxy, and another Redis',
  planned: false,
  run: (stage) => stage.change(SECOND_HALF),
};

/** Where it begins. */
export const beginOf = (part: Part): Half => (part === 'second' ? SECOND_HALF : FIRST_HALF);

/** Everything, in an order that is drawn: first behind nginx on a Redis Cluster, then behind HAProxy with Sentinels. */
export function drawActs(part: Part, next: () => number): Act[] {
  const half = (): Act[] => {
    const left = [restart, reload, postgres, redis, kill];
    return Array.from({ length: left.length }, () => left.splice(Math.floor(next() * left.length), 1)[0]!);
  };
  return part === 'both' ? [...half(), change, ...half()] : half();
}
