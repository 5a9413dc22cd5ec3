import type { Pinning } from '../lib/machine.js';
import { type Server, type ServerOptions, startServer } from '../lib/server.js';
import type { Services } from '../lib/services.js';
import type { Variant } from '../lib/variants.js';
import { createWorld, type Layout, type World } from '../lib/world.js';
import { Fleet } from '../load/fleet.js';
import type { Wire } from '../load/frames.js';
import type { Opened } from '../load/messages.js';

/** What one run gives, by scenario: its figures, or why they do not count. */
export interface Outcome {
  readonly scenario: string;
  readonly figures: Record<string, number>;
  readonly problem?: string | undefined;
}

/** One variant on one wire. */
export interface Subject {
  readonly variant: Variant;
  readonly wire: Wire;
}

/** A thing to measure. */
export interface Scenario {
  readonly name: string;
  readonly title: string;
  /** Measures one subject once. */
  run(context: Context, subject: Subject): Promise<Outcome[]>;
  /** Whether a subject has to do with it; all have when it is absent. */
  concerns?(subject: Subject): boolean;
}

export interface ContextOptions {
  readonly services: Services;
  readonly pinning: Pinning;
  readonly loadProcesses: number;
  /** Variables of every server that is measured. */
  readonly environment: Readonly<Record<string, string>>;
  /** Tiny sizes: whether it runs at all, not how fast. */
  readonly smoke: boolean;
  /** How long connections idle before their memory counts as settled. */
  readonly settleMs: number;
}

/** What scenarios have at hand. */
export class Context {
  readonly services: Services;
  readonly pinning: Pinning;
  readonly smoke: boolean;
  readonly settleMs: number;
  /** What a scenario keeps from one run to the next. */
  readonly kept = new Map<string, number>();
  private readonly worlds = new Map<string, Promise<World>>();
  private readonly loadProcesses: number;
  private readonly environment: Readonly<Record<string, string>>;

  constructor(options: ContextOptions) {
    this.services = options.services;
    this.pinning = options.pinning;
    this.smoke = options.smoke;
    this.settleMs = options.settleMs;
    this.loadProcesses = options.loadProcesses;
    this.environment = options.environment;
  }

  /** The size of a run: the given one, or the one for a smoke run. */
  size(full: number, smoke: number): number {
    return this.smoke ? smoke : full;
  }

  /** What is gone through one after the other; in a smoke run the last of it. */
  some<Item>(items: readonly Item[]): readonly Item[] {
    return this.smoke ? items.slice(-1) : items;
  }

  /** The database of a layout, made once. */
  world(layout: Layout): Promise<World> {
    const id = JSON.stringify(layout);
    const world = this.worlds.get(id) ?? createWorld(this.services, layout);
    this.worlds.set(id, world);
    return world;
  }

  server(variant: Variant, world: World, options: Partial<ServerOptions> = {}): Promise<Server> {
    return startServer(variant, {
      redisUrl: this.services.redis.url,
      databaseUrl: world.databaseUrl,
      workers: 2,
      cores: this.pinning.server,
      ...options,
      environment: { ...options.environment, ...this.environment },
    });
  }

  fleet(): Fleet {
    return new Fleet(this.loadProcesses, this.pinning.load);
  }
}

/** @throws when connections could not be set up */
export function expectAll(opened: Opened): void {
  if (opened.failed > 0) {
    throw new Error(`${opened.failed} connections were not set up: ${opened.problems.join('; ')}`);
  }
}
