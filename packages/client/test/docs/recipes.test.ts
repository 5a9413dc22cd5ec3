import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { QueryClient } from '@tanstack/react-query';
import { createTaskwire, type Position, type RoomSnapshot, type Taskwire, websocket } from '@taskwire/client';
import { expect } from 'chai';
import { effectScope } from 'vue';
import WebSocket from 'ws';
import { eventually } from '../../../../dist/test/support/eventually.js';
import { RestWrites, Scene } from '../../../../dist/test/support/scene.js';
import { embeddedForTest, InProcessServer } from '../../../../dist/test/support/task-server.js';
import { load, namelessSnippets, SNIPPETS, writeSnippets } from '../support/snippets.js';

const require = createRequire(import.meta.url);

/** What the recipe for React Native takes of it. */
const REACT_NATIVE = `
export type AppStateStatus = 'active' | 'background' | 'inactive';
export const listeners = new Set<(state: AppStateStatus) => void>();
export const AppState = {
  addEventListener(_type: 'change', listener: (state: AppStateStatus) => void) {
    listeners.add(listener);
    return { remove: () => void listeners.delete(listener) };
  },
};
`;

describe('the snippets of docs/client.md', function () {
  this.timeout(60_000);
  let names: string[];

  before(() => {
    names = writeSnippets();
    writeFileSync(join(SNIPPETS, 'react-native-stub.ts'), REACT_NATIVE);
  });

  it('all have a name, and compile as strictly as can be', () => {
    expect(namelessSnippets()).to.deep.equal([]);
    expect(names.length).to.be.above(12);
    const compilerOptions = {
      target: 'ES2022',
      lib: ['ES2022', 'DOM', 'DOM.Iterable'],
      module: 'ESNext',
      moduleResolution: 'bundler',
      jsx: 'react-jsx',
      strict: true,
      exactOptionalPropertyTypes: true,
      noUncheckedIndexedAccess: true,
      noUnusedLocals: true,
      noEmit: true,
      skipLibCheck: true,
      types: ['node'],
      paths: { 'react-native': ['./react-native-stub.ts'] },
    };
    writeFileSync(join(SNIPPETS, 'tsconfig.json'), JSON.stringify({ compilerOptions, include: ['*.ts', '*.tsx'] }));
    const tsc = join(dirname(require.resolve('typescript/package.json')), 'bin', 'tsc');
    let said = '';
    try {
      execFileSync(process.execPath, [tsc, '-p', SNIPPETS], { encoding: 'utf8' });
    } catch (error) {
      said = String((error as { stdout: string }).stdout);
    }
    expect(said).to.equal('');
  });

  describe('run', () => {
    let database: Awaited<ReturnType<typeof embeddedForTest>>;
    let scene: Scene;
    let server: InProcessServer;
    let key: string;
    let writes: RestWrites;
    let tw: Taskwire;
    let task: number;
    let made: Position;

    before(async () => {
      database = await embeddedForTest();
      scene = await Scene.make(database.url, { users: 1, jobsPerUser: 1 });
      server = new InProcessServer(database.url);
      await server.start();
      key = scene.keys.get('user_1')!;
      writes = new RestWrites(() => [server.url], scene.serviceKey);
      const { task_id, seq, epoch } = await writes.createTaskData({
        job_id: '1001',
        task_definition_id: 1,
        is_imua: false,
      });
      task = task_id;
      made = { seq: seq!, epoch: epoch! };
    });

    beforeEach(() => {
      tw = createTaskwire({ url: server.url, apiKey: key, transport: websocket({ WebSocket }) });
    });

    afterEach(() => tw.close());

    after(async () => {
      await server?.stop();
      await scene?.close();
      await database?.stop();
    });

    /** Writes a fee that nobody wrote before. @returns it */
    let fees = 0;
    const write = async (): Promise<number> => {
      fees += 1;
      await writes.updateTaskFee(task, fees);
      return fees;
    };
    const feeOf = (snapshot: RoomSnapshot): unknown => snapshot.tasks[0]?.task_opx_cost;

    it('React Query', async () => {
      const { keepJob } = await load<{ keepJob(queries: QueryClient, tw: Taskwire, id: string): () => void }>(
        'react-query.ts',
      );
      const queries = new QueryClient();
      const stop = keepJob(queries, tw, '1001');
      const fee = await write();
      await eventually(() =>
        expect(queries.getQueryData(['job', '1001'])).to.have.nested.property('[0].task_opx_cost', fee),
      );
      stop();
      queries.clear();
    });

    it('Vue', async () => {
      const { useRoom } = await load<{ useRoom(room: unknown): { value: RoomSnapshot } }>('vue.ts');
      const scope = effectScope();
      const job = scope.run(() => useRoom(tw.job('1001')))!;
      const fee = await write();
      await eventually(() => expect(feeOf(job.value)).to.equal(fee));
      scope.stop();
    });

    it('Svelte', async () => {
      const { roomStore } = await load<{
        roomStore(room: unknown): { subscribe(run: (value: RoomSnapshot) => void): () => void };
      }>('svelte.ts');
      let seen: RoomSnapshot | undefined;
      const stop = roomStore(tw.job('1001')).subscribe((value) => {
        seen = value;
      });
      const fee = await write();
      await eventually(() => expect(feeOf(seen!)).to.equal(fee));
      stop();
    });

    it('React Native', async () => {
      const { followApp } = await load<{ followApp(tw: Taskwire): () => void }>('react-native.ts');
      const states: string[] = [];
      const stop = followApp({
        ...tw,
        sleep: () => void states.push('sleep'),
        wake: () => void states.push('wake'),
      });
      // The stub is bundled with the recipe: the app is spoken to through what it registered.
      stop();
      expect(states).to.deep.equal([]);
      const job = tw.job('1001');
      const leave = job.subscribe(() => {});
      await eventually(() => expect(job.getSnapshot().status).to.equal('live'));
      tw.sleep();
      expect(tw.connection.state).to.equal('asleep');
      expect(job.getSnapshot().status).to.equal('stale');
      const fee = await write();
      tw.wake();
      await eventually(() => expect(job.getSnapshot()).to.have.property('status', 'live'));
      expect(feeOf(job.getSnapshot())).to.equal(fee);
      leave();
    });

    it('Node.js', async () => {
      const { connect } = await load<{ connect(url: string, apiKey: string): Taskwire }>('node.ts');
      const program = connect(server.url, key);
      expect(await program.task(task).until(() => true)).to.include({ task_id: task });
      for await (const item of program.job('1001').events({ since: made })) {
        expect(item.type).to.equal('TASK_FEE_UPDATED');
        break;
      }
      program.close();
    });

    it('plain socket.io-client', async () => {
      const { watchJob } = await load<{
        watchJob(url: string, key: string, job: string, show: (rows: object[]) => void): () => void;
      }>('plain-socketio.ts');
      let rows: Array<{ task_opx_cost?: number }> = [];
      const stop = watchJob(server.url, key, '1001', (shown) => {
        rows = shown;
      });
      await eventually(() => expect(rows).to.have.length(1));
      const fee = await write();
      await eventually(() => expect(rows[0]).to.have.property('task_opx_cost', fee));
      stop();
    });
  });
});
