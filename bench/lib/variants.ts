import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { Wire } from '../load/frames.js';
import { loadUws } from '../peers/uwebsockets-module.js';
import { type Injector, PeerInjector, RepositoryInjector } from './injector.js';
import type { Tally } from './tally.js';
import type { World } from './world.js';

/** A server that is measured. */
export interface Variant {
  readonly name: string;
  readonly wires: readonly Wire[];
  /** Whether it is taskwire, which alone has a database, answers about health and lets clients resume. */
  readonly ours: boolean;
  readonly script: string;
  /** Options of Node.js that it is started with. */
  readonly nodeOptions: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
  /** Why it cannot run here. */
  missing(): string | undefined;
  injector(redisUrl: string, world: World, tally: Tally): Injector;
}

const script = (name: string): string => fileURLToPath(new URL(`../${name}`, import.meta.url));

/** What `npm start` gives Node.js. */
const START_OPTIONS = ['--max-semi-space-size=4'];

function ours(name: string, environment: Readonly<Record<string, string>> = {}): Variant {
  const path = process.env['BENCH_SERVER'] ?? script('../cluster.js');
  return {
    name,
    wires: ['socketio', 'plain'],
    ours: true,
    script: path,
    nodeOptions: START_OPTIONS,
    environment,
    missing: () => (existsSync(path) ? undefined : `${path} does not exist`),
    injector: (redisUrl, world, tally) => new RepositoryInjector(redisUrl, world, tally),
  };
}

function peer(
  name: string,
  wire: Wire,
  kind: 'emitter' | 'publish',
  missing: () => string | undefined = () => undefined,
): Variant {
  return {
    name,
    wires: [wire],
    ours: false,
    script: script(`peers/${name}.js`),
    nodeOptions: [],
    environment: {},
    missing,
    injector: (redisUrl, world, tally) => new PeerInjector(kind, redisUrl, world, tally),
  };
}

export const VARIANTS: readonly Variant[] = [
  ours('ours'),
  ours('ours-indirect', { DIRECT_FRAMES: 'false' }),
  peer('plain', 'socketio', 'emitter'),
  peer('plain-ws', 'plain', 'publish'),
  peer('uwebsockets', 'plain', 'publish', () =>
    loadUws() === undefined ? 'uWebSockets.js cannot be loaded; bench/README.md says how to install it' : undefined,
  ),
];

export const DEFAULT_VARIANTS: readonly string[] = ['ours', 'plain', 'plain-ws', 'uwebsockets'];
