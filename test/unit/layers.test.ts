import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, posix, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));

/**
 * Who may import whom: a layer imports itself and those below it. The way of an event goes from the repository through
 * publisher, broker and hub to the gateways.
 */
const LAYERS: ReadonlyArray<readonly string[]> = [
  ['protocol', 'base'],
  ['database'],
  ['repository', 'broker', 'embedded'],
  ['door', 'config', 'schema'],
  ['hub', 'stats'],
  ['gateways', 'http'],
  ['contract'],
  ['server', 'index'],
  ['cluster'],
  ['cli'],
];

/** Files that may import whatever lies below them: they put the parts together. */
const COMPOSERS = /^src\/(?:server|index|cluster|cli)\b/;

/** What a part may take of a unit below it. Of a unit that is not named here, everything. */
interface Border {
  readonly from: RegExp;
  readonly to: RegExp;
  /** Files that it may use. */
  readonly code?: RegExp;
  /** Files of which it may know the types. */
  readonly types?: RegExp;
}

const BORDERS: readonly Border[] = [
  // The broker is a port: nobody knows which one it is.
  { from: /^src\/(?!broker\/)/, to: /^src\/broker\//, code: /\/(?:broker|publisher|control-bus)\.ts$/ },
  // So is the database: whether it runs here is known to who starts it.
  { from: /^src\/(?!embedded\/)/, to: /^src\/embedded\// },
  // Routes translate; they neither publish nor deliver.
  { from: /^src\/http\//, to: /^src\/(?:broker|hub)\b/ },
  { from: /^src\/http\//, to: /^src\/repository\//, code: /\/task-input\.ts$/, types: /./ },
  // Statements are the repository's, and the schema is there before anybody serves.
  { from: /^src\/(?!repository\/|schema\/|database\/)/, to: /^src\/(?:database|schema)\// },
  // The hub is handed functions that read the log.
  { from: /^src\/hub\//, to: /^src\/repository\//, types: /\/log\.ts$/ },
  { from: /^src\/hub\//, to: /^src\/(?:door\/|broker\/(?:publisher|control-bus))\b/ },
  // Gateways carry; who comes in and what is sent is decided elsewhere.
  { from: /^src\/gateways\//, to: /^src\/(?:repository|broker|stats)\b/ },
  { from: /^src\/gateways\//, to: /^src\/gateways\/\w+-gateway\.ts$/ },
  // The contract describes: it reads the schemas and tables of the parts, and runs none of them.
  { from: /^src\/contract\//, to: /^src\/(?:broker|hub|gateways|door|base|config)\b/ },
  {
    from: /^src\/contract\//,
    to: /^src\/repository\//,
    code: /\/(?:task|key)-input\.ts$/,
    types: /(?:-repository|write-runner)\.ts$/,
  },
  { from: /^src\/door\//, to: /^src\/broker\//, types: /\/broker\.ts$/ },
  // The contract with browsers stands on nothing.
  { from: /^src\/protocol\//, to: /^src\/(?!protocol\/)/ },
  { from: /^src\/repository\//, to: /^src\/(?!repository\/|database\/|protocol\/|base\/)/ },
];

/** An import of a file of the project: by a statement, or later, when it is needed. */
const IMPORT =
  /^(?:import|export) (?<type>type )?[^;]*?(?:from )?'(?<now>\.[^']+)';$|\bawait import\('(?<later>\.[^']+)'\)/gm;

interface Source {
  readonly path: string;
  readonly text: string;
  /** Paths of the project's files that it imports, and those of which it needs more than types. */
  readonly imports: readonly string[];
  readonly needs: readonly string[];
}

function sources(): Source[] {
  const names = readdirSync(join(ROOT, 'src'), { recursive: true, encoding: 'utf8' });
  return names
    .filter((name) => name.endsWith('.ts'))
    .map((name) => {
      const path = relative(ROOT, join(ROOT, 'src', name)).replaceAll('\\', '/');
      const text = readFileSync(join(ROOT, path), 'utf8');
      const statements = [...text.matchAll(IMPORT)].map(({ groups }) => ({
        target: posix.join(dirname(path), (groups!['now'] ?? groups!['later'])!.replace(/\.js$/, '.ts')),
        typesOnly: groups!['type'] !== undefined,
      }));
      return {
        path,
        text,
        imports: statements.map(({ target }) => target),
        needs: statements.filter(({ typesOnly }) => !typesOnly).map(({ target }) => target),
      };
    });
}

/** The folder of src that a file is in, or its name where it stands in src itself. */
const unitOf = (path: string): string => path.split('/')[1]!.replace(/\.ts$/, '');
const layerOf = (path: string): number => LAYERS.findIndex((units) => units.includes(unitOf(path)));

describe('layers', () => {
  const files = sources();

  it('hold every file', () => {
    expect(files.filter(({ path }) => layerOf(path) < 0).map(({ path }) => path)).to.deep.equal([]);
    expect(files.length).to.be.greaterThan(50);
  });

  it('are imported downwards only', () => {
    const upwards = files.flatMap(({ path, imports }) =>
      imports.filter((target) => layerOf(target) > layerOf(path)).map((target) => `${path} imports ${target}`),
    );
    expect(upwards).to.deep.equal([]);
  });

  it('do not import their neighbours', () => {
    const sideways = files.flatMap(({ path, imports }) =>
      imports
        .filter((target) => layerOf(target) === layerOf(path) && unitOf(target) !== unitOf(path))
        .map((target) => `${path} imports ${target}`),
    );
    expect(sideways).to.deep.equal([]);
  });

  it('take no more of each other than they may', () => {
    const taken = files
      .filter(({ path }) => !COMPOSERS.test(path))
      .flatMap(({ path, imports, needs }) =>
        BORDERS.filter(({ from }) => from.test(path)).flatMap(({ to, code, types }) => [
          ...imports
            .filter((target) => to.test(target) && !code?.test(target) && !types?.test(target))
            .map((target) => `${path} knows ${target}`),
          ...needs.filter((target) => to.test(target) && !code?.test(target)).map((target) => `${path} uses ${target}`),
        ]),
      );
    expect(taken).to.deep.equal([]);
  });

  it('are imported by statements that this test sees', () => {
    const seen = files.flatMap(({ imports }) => imports);
    const all = files.flatMap(
      ({ text }) => text.match(/ from '\.|^import '\.|\b(?:import|require)\s*\(\s*['"`]\./gm) ?? [],
    );
    expect(seen).to.have.length(all.length);
    expect(seen.filter((target) => !files.some(({ path }) => path === target))).to.deep.equal([]);
  });

  it('have no cycles, neither of files nor of folders, types counted', () => {
    const edges = new Map(files.map(({ path, imports }) => [path, new Set(imports)]));
    expect(cycleIn(edges)).to.equal(undefined);
    const folders = new Map<string, Set<string>>();
    for (const { path, imports } of files) {
      const targets = folders.get(unitOf(path)) ?? new Set();
      for (const target of imports) {
        if (unitOf(target) !== unitOf(path)) {
          targets.add(unitOf(target));
        }
      }
      folders.set(unitOf(path), targets);
    }
    expect(cycleIn(folders)).to.equal(undefined);
  });

  const only = (what: string, pattern: RegExp, where: RegExp): void => {
    it(`keep ${what} to ${where.source}`, () => {
      const offenders = files.filter(({ path, text }) => pattern.test(text) && !where.test(path));
      expect(offenders.map(({ path }) => path)).to.deep.equal([]);
    });
  };

  only('the environment', /\bprocess\.env\b|\benv\b.* from 'node:process'|\.env\(/, /^src\/config\.ts$/);
  only('SQL', /\b(?:SELECT|INSERT INTO|UPDATE|DELETE FROM) [a-z_*]/, /^src\/(?:database|repository|schema|embedded)\//);
  only('Socket.IO', /from 'socket\.io'/, /^src\/(?:gateways|server)/);
  only('Redis', /from 'ioredis'/, /^src\/broker\/redis\//);
  only(
    'the transports out of the hub',
    /from '(?:ws|socket\.io|express)'/,
    /^src\/(?!hub\/|protocol\/|repository\/|database\/|schema\/)/,
  );
  only('events to the repository: no route publishes, so publishers', /new Publisher\(/, /^src\/(?:server|index)\.ts$/);
});

/** @returns the names of a cycle, in order */
function cycleIn(edges: ReadonlyMap<string, ReadonlySet<string>>): string[] | undefined {
  const done = new Set<string>();
  const visit = (name: string, way: string[]): string[] | undefined => {
    if (way.includes(name)) {
      return [...way.slice(way.indexOf(name)), name];
    }
    if (done.has(name)) {
      return undefined;
    }
    for (const next of edges.get(name) ?? []) {
      const cycle = visit(next, [...way, name]);
      if (cycle !== undefined) {
        return cycle;
      }
    }
    done.add(name);
    return undefined;
  };
  for (const name of edges.keys()) {
    const cycle = visit(name, []);
    if (cycle !== undefined) {
      return cycle;
    }
  }
  return undefined;
}
