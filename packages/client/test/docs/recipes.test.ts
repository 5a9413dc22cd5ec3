import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { QueryClient } from '@tanstack/react-query';
import {
  createTaskwire,
  type InitialData,
  type Position,
  type RoomSnapshot,
  type TaskRow,
  type Taskwire,
  websocket,
} from '@taskwire/client';
import type * as hooks from '@taskwire/client/react';
import { expect } from 'chai';
import type * as React from 'react';
import type * as dom from 'react-dom/client';
import type * as ssr from 'react-dom/server';
import { effectScope } from 'vue';
import WebSocket from 'ws';
import { eventually } from '../../../../dist/test/support/eventually.js';
import { RestWrites, Scene } from '../../../../dist/test/support/scene.js';
import { embeddedForTest, InProcessServer } from '../../../../dist/test/support/task-server.js';
import { FakeLocks } from '../support/locks.js';
import { openDocument } from '../support/react.js';
import { load, namelessSnippets, SNIPPETS, writeSnippets } from '../support/snippets.js';

const require = createRequire(import.meta.url);

/** What the recipe for React Native takes of it. */
const REACT_NATIVE = `
export type AppStateStatus = 'active' | 'background' | 'inactive';
const listeners = new Set<(state: AppStateStatus) => void>();
Object.assign(globalThis, { appStateListeners: listeners });
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
      server = new InProcessServer(database.url, { TOKEN_SECRET: 'of-a-test-and-long-enough-for-a-secret' });
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
      const job = tw.job('1001');
      const leave = job.subscribe(() => {});
      await eventually(() => expect(job.getSnapshot().status).to.equal('live'));
      const stop = followApp(tw);
      const listeners = Reflect.get(globalThis, 'appStateListeners') as Set<(state: string) => void>;
      const becomes = (state: string): void => listeners.forEach((listener) => void listener(state));
      becomes('background');
      expect(tw.connection.state).to.equal('asleep');
      expect(job.getSnapshot().status).to.equal('stale');
      const fee = await write();
      becomes('active');
      await eventually(() => expect(job.getSnapshot()).to.have.property('status', 'live'));
      expect(feeOf(job.getSnapshot())).to.equal(fee);
      stop();
      expect(listeners.size).to.equal(0);
      leave();
    });

    /** What stands in the document, for the service of this test. */
    const here = (): Record<string, string> => ({
      'http://localhost:9002': server.url,
      'the key of a program': key,
      "'123'": "'1001'",
      "'alice'": "'user_1'",
    });

    describe('as programs of Node.js', () => {
      // What a browser and Node.js have from version 22 on.
      const before22 = globalThis.WebSocket;
      before(() => void Object.assign(globalThis, { WebSocket }));
      after(() => void Object.assign(globalThis, { WebSocket: before22 }));

      it('a room', async () => {
        const { watch } = await load<{ watch(show: (tasks: readonly TaskRow[]) => void): () => void }>(
          'rooms.ts',
          here(),
        );
        let rows: readonly TaskRow[] = [];
        const stop = watch((tasks) => {
          rows = tasks;
        });
        const fee = await write();
        await eventually(() => expect(rows[0]).to.include({ task_id: task, task_opx_cost: fee }));
        stop();
      });

      it('events', async () => {
        const { follow } = await load<{
          follow(since: Position, keep: (at: Position) => Promise<void>): Promise<void>;
        }>('events.ts', here());
        const kept: number[] = [];
        const fee = await write();
        const enough = new Error('enough');
        const followed = follow(made, async ({ seq }) => {
          if (kept.push(seq) === fee) {
            throw enough;
          }
        });
        expect(await followed.catch((error: unknown) => error)).to.equal(enough);
        expect(kept).to.deep.equal(Array.from({ length: fee }, (_, index) => made.seq + 1 + index));
      });

      it('waits', async () => {
        const { completed, setFee } = await load<{
          completed(id: number): Promise<TaskRow>;
          setFee(id: number, fee: number): Promise<void>;
        }>('waiting.ts', here());
        await writes.updateTaskNumberAndStatus(task, 1, 'completed');
        await writes.updateTaskNumberAndStatus(task, 1, 'archived');
        expect(await completed(task)).to.include({ task_id: task, task_status: 'completed' });
        await setFee(task, 77);
        expect(await tw.task(task).until((row) => row.task_opx_cost === 77)).to.include({ task_status: 'archived' });
      });

      it('a route for tokens, and the transports with its tokens', async () => {
        Object.assign(process.env, { TASKWIRE_API_KEY: key });
        const { tokenFor } = await load<{ tokenFor(user: string): Promise<string> }>('token-route.ts', here());
        const token = await tokenFor('user_1');
        const withToken = { ...here(), 'a token': token };
        const over = [
          (await load<{ tw: Taskwire }>('with-socketio.ts', withToken)).tw,
          (await load<{ tw: Taskwire }>('with-sse.ts', withToken)).tw,
        ];
        for (const one of over) {
          expect((await one.job('1001').until((rows) => rows.length > 0))[0]).to.include({ task_id: task });
          one.close();
        }
        const { clientOf } = await load<{ clientOf(user: string, token: () => Promise<string>): Taskwire }>(
          'with-tabs.ts',
          here(),
        );
        const before = Object.getOwnPropertyDescriptor(globalThis, 'navigator');
        Object.defineProperty(globalThis, 'navigator', { value: { locks: new FakeLocks() }, configurable: true });
        const shared = clientOf('user_1', () => tokenFor('user_1'));
        const [row] = await shared.job('1001').until((rows) => rows.length > 0);
        expect(row).to.include({ task_id: task });
        shared.close();
        Reflect.deleteProperty(globalThis, 'navigator');
        if (before !== undefined) {
          Object.defineProperty(globalThis, 'navigator', before);
        }
      });
    });

    describe('of React', () => {
      let closeDocument: () => void;
      before(() => {
        closeDocument = openDocument();
        Object.assign(globalThis, { IS_REACT_ACT_ENVIRONMENT: false });
      });
      after(() => closeDocument());

      const { createElement } = require('react') as typeof React;
      const { createRoot } = require('react-dom/client') as typeof dom;
      const { renderToString } = require('react-dom/server') as typeof ssr;
      const { TaskwireProvider } = require('@taskwire/client/react') as typeof hooks;

      it('hooks', async () => {
        const { Progress, Fee } = await load<{
          Progress(props: { id: string }): React.ReactElement;
          Fee(props: { id: number; notify(text: string): void }): React.ReactElement;
        }>('hooks.tsx', here());
        const container = document.createElement('div');
        const root = createRoot(container);
        const said: string[] = [];
        await writes.updateTaskNumberAndStatus(task, 1, 'running');
        const fee = await write();
        const children = [
          createElement(Progress, { id: '1001', key: 'progress' }),
          createElement(Fee, { id: task, notify: (text: string) => void said.push(text), key: 'fee' }),
        ];
        root.render(createElement(TaskwireProvider, { client: tw }, children));
        await eventually(() => expect(container.innerHTML).to.equal(`<b>0</b><i class="live">${fee}</i>`));
        await writes.updateTaskNumberAndStatus(task, 1, 'completed');
        await eventually(() => expect(container.innerHTML).to.equal(`<b>1</b><i class="live">${fee}</i>`));
        expect(said).to.deep.equal(['completed, was running']);
        root.unmount();
      });

      it('rendered on a server', async () => {
        Object.assign(process.env, { TASKWIRE_API_KEY: key });
        const { load: loadJob, Job } = await load<{
          load(id: string): Promise<InitialData>;
          Job(props: { id: string; initialData: InitialData }): React.ReactElement;
        }>('ssr.tsx', here());
        await writes.updateTaskNumberAndStatus(task, 1, 'rendered');
        const initialData = await loadJob('1001');
        const page = createElement(TaskwireProvider, { client: tw }, createElement(Job, { id: '1001', initialData }));
        expect(renderToString(page)).to.equal('<p>rendered</p>');
        await writes.updateTaskNumberAndStatus(task, 1, 'later');
        const container = document.createElement('div');
        const root = createRoot(container);
        root.render(page);
        await eventually(() => expect(container.innerHTML).to.equal('<p>later</p>'));
        root.unmount();
      });
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
