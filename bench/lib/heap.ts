import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { eventually } from '../../test/support/eventually.js';

/** Objects of one kind: how many there are, and their own bytes without what they refer to. */
export interface Share {
  readonly count: number;
  readonly bytes: number;
}

/** A heap snapshot of V8, as far as it is read here. */
interface Snapshot {
  readonly snapshot: { readonly meta: { readonly node_fields: string[]; readonly node_types: [string[]] } };
  readonly nodes: number[];
  readonly strings: string[];
}

const WRITING_MS = 60_000;

/** Makes a process write snapshots of its heap, which begin with a garbage collection. */
export class HeapObserver {
  private readonly dir = mkdtempSync(join(tmpdir(), 'taskwire-heap-'));

  /** What a process needs in its environment to be observed. */
  get environment(): Readonly<Record<string, string>> {
    return { NODE_OPTIONS: `--heapsnapshot-signal=SIGUSR2 --diagnostic-dir=${this.dir}` };
  }

  /** Objects on the heap of a process, by kind. */
  async take(pid: number): Promise<Map<string, Share>> {
    const before = new Set(readdirSync(this.dir));
    process.kill(pid, 'SIGUSR2');
    const snapshot = await eventually(
      () => {
        const name = readdirSync(this.dir).find((file) => !before.has(file));
        // While it is being written it is no JSON.
        return JSON.parse(readFileSync(join(this.dir, name!), 'utf8')) as Snapshot;
      },
      { timeoutMs: WRITING_MS, intervalMs: 500 },
    );
    return byKind(snapshot);
  }

  stop(): void {
    rmSync(this.dir, { recursive: true, force: true });
  }
}

function byKind({ snapshot: { meta }, nodes, strings }: Snapshot): Map<string, Share> {
  const at = (field: string): number => meta.node_fields.indexOf(field);
  const [type, name, size] = [at('type'), at('name'), at('self_size')];
  const [types] = meta.node_types;
  const shares = new Map<string, Share>();
  for (let node = 0; node < nodes.length; node += meta.node_fields.length) {
    const kind = kindOf(types[nodes[node + type]!]!, strings[nodes[node + name]!]!);
    const { count, bytes } = shares.get(kind) ?? { count: 0, bytes: 0 };
    shares.set(kind, { count: count + 1, bytes: bytes + nodes[node + size]! });
  }
  return shares;
}

function kindOf(type: string, name: string): string {
  switch (type) {
    case 'object':
    case 'native':
      return name;
    case 'closure':
      return `function ${name || '(without a name)'}`;
    case 'string':
    case 'concatenated string':
    case 'sliced string':
      return '(strings)';
    case 'array':
      return '(backing stores of arrays, maps and objects)';
    default:
      return `(${type})`;
  }
}
