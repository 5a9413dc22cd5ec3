import type { StreamItem, Taskwire } from '@taskwire/client';
import type { RoomHookOptions, TaskTransition } from '@taskwire/client/react';
import { expect } from 'chai';
import type { FunctionComponent, ReactNode } from 'react';
import { eventually } from '../../../../dist/test/support/eventually.js';
import { type Bundle, bundleFor, openDocument } from '../support/react.js';
import { SimServer } from '../support/sim-server.js';
import { VirtualTime } from '../support/virtual-time.js';

for (const version of [18, 19] as const) {
  describe(`the hooks in React ${version}`, function () {
    this.timeout(30_000);
    let bundle: Bundle;
    let remove: () => void;
    let closeDocument: () => void;
    let time: VirtualTime;
    let server: SimServer;
    let tw: Taskwire;
    let unmount: Array<() => Promise<void>>;

    before(async () => {
      closeDocument = openDocument();
      ({ bundle, remove } = await bundleFor(version));
      expect(bundle.React.version.split('.')[0]).to.equal(String(version));
    });

    beforeEach(() => {
      time = new VirtualTime(7);
      server = new SimServer(time);
      server.addJob('1', 'alice');
      server.create('1');
      server.create('1');
      tw = bundle.client.createTaskwire({ url: 'sim:', transport: server.transport, surroundings: time });
      unmount = [];
    });

    afterEach(async () => {
      for (const one of unmount) {
        await one();
      }
      tw.close();
    });

    after(() => {
      closeDocument();
      remove();
    });

    const pass = (ms: number): Promise<void> => bundle.React.act(() => time.pass(ms));

    const tree = (node: ReactNode): ReactNode => {
      const { createElement, StrictMode } = bundle.React;
      return createElement(
        StrictMode,
        undefined,
        createElement(bundle.hooks.TaskwireProvider, { client: tw, children: node }),
      );
    };

    async function draw(
      node: ReactNode,
    ): Promise<{ text(): string; redraw(node: ReactNode): Promise<void>; leave(): Promise<void> }> {
      const { act } = bundle.React;
      const container = document.createElement('div');
      document.body.append(container);
      const root = bundle.dom.createRoot(container);
      await act(async () => root.render(tree(node)));
      let there = true;
      const leave = async (): Promise<void> => {
        if (there) {
          there = false;
          await act(async () => root.unmount());
        }
      };
      unmount.push(leave);
      return {
        text: () => container.textContent ?? '',
        redraw: (next) => act(async () => root.render(tree(next))),
        leave,
      };
    }

    const Job: FunctionComponent<{ id?: string; options?: RoomHookOptions<never, never> }> = ({
      id = '1',
      options,
    }) => {
      const { status, tasks } = bundle.hooks.useJobTasks(id, options as object);
      return `${status}:${tasks.map((task) => task.task_status).join(',')}`;
    };

    it('draw a job, follow it over a cut, and leave it', async () => {
      const page = await draw(bundle.React.createElement(Job));
      expect(page.text()).to.equal('loading:');
      await pass(1_000);
      expect(page.text()).to.equal('live:pending,pending');
      server.write(2, 'task_status', 'running');
      await pass(100);
      expect(page.text()).to.equal('live:pending,running');
      // StrictMode mounts everything twice: there is one connection all the same, and one SUBSCRIBE.
      expect(server.opened).to.equal(1);
      expect(server.asked).to.have.length(1);

      server.down = true;
      await bundle.React.act(async () => server.cut([...server.connections][0]!));
      expect(page.text()).to.equal('stale:pending,running');
      server.write(1, 'task_status', 'completed');
      server.down = false;
      await pass(60_000);
      expect(page.text()).to.equal('live:completed,running');
      expect(server.asked.at(-1)).to.deep.equal({
        room: 'job:1',
        since: 3,
        epoch: 'alice-1',
        snapshot: { parts: true },
      });

      await page.leave();
      await pass(5_000);
      expect(tw.connection.state).to.equal('idle');
    });

    it('share one room and one connection', async () => {
      const { createElement: h } = bundle.React;
      const page = await draw([h(Job, { key: 1 }), '|', h(Job, { key: 2 })]);
      await pass(1_000);
      expect(page.text()).to.equal('live:pending,pending|live:pending,pending');
      expect(server.asked).to.have.length(1);
      await page.redraw([h(Job, { key: 1 })]);
      server.write(1, 'task_status', 'running');
      await pass(5_000);
      expect(page.text()).to.equal('live:running,pending');
      expect(server.opened).to.equal(1);
    });

    it('ask for nothing unless they are enabled, and for another room with another id', async () => {
      server.addJob('2', 'bob');
      const { createElement: h } = bundle.React;
      const page = await draw(h(Job, { options: { enabled: false } }));
      await pass(1_000);
      expect(page.text()).to.equal('loading:');
      expect(server.opened).to.equal(0);
      await page.redraw(h(Job));
      await pass(1_000);
      expect(page.text()).to.equal('live:pending,pending');
      await page.redraw(h(Job, { id: '2' }));
      await pass(1_000);
      expect(page.text()).to.equal('live:');
    });

    it('draw anew only when what is selected is another', async () => {
      let draws = 0;
      const Done = () => {
        draws += 1;
        const done = bundle.hooks.useJobTasks('1', {
          select: ({ tasks }) => tasks.filter((task) => task.task_status === 'completed').map((task) => task.task_id),
        });
        return done.join();
      };
      const page = await draw(bundle.React.createElement(Done));
      await pass(1_000);
      const before = draws;
      server.write(1, 'task_error', 'nobody looks at it');
      server.write(2, 'task_status', 'running');
      await pass(100);
      expect(draws).to.equal(before);
      server.write(2, 'task_status', 'completed');
      await pass(100);
      expect(page.text()).to.equal('2');
    });

    it('draw the last state of a burst, throttled', async () => {
      let draws = 0;
      const Fee = () => {
        draws += 1;
        return String(bundle.hooks.useTask(1, { throttleMs: 30 }).task?.task_opx_cost);
      };
      const page = await draw(bundle.React.createElement(Fee));
      await pass(1_000);
      const before = draws;
      for (let fee = 1; fee <= 200; fee += 1) {
        server.write(1, 'task_opx_cost', fee);
        await time.pass(1);
      }
      await time.pass(100);
      await eventually(async () => {
        await pass(0);
        expect(page.text()).to.equal('200');
      });
      expect(draws - before).to.be.below(200);
    });

    it('tell events and transitions, to the callback of the last drawing', async () => {
      const items: string[] = [];
      const transitions: string[] = [];
      const Watcher = ({ mark }: { mark: string }) => {
        bundle.hooks.useTaskEvents('task:1', (item: StreamItem) => items.push(`${mark} ${item.type}`));
        bundle.hooks.useTaskTransition(1, ({ from, to }: TaskTransition) => transitions.push(`${mark} ${from} ${to}`), {
          to: 'completed',
        });
        return mark;
      };
      const { createElement: h } = bundle.React;
      const page = await draw(h(Watcher, { mark: 'a' }));
      await pass(1_000);
      server.write(1, 'task_status', 'running');
      await pass(100);
      await page.redraw(h(Watcher, { mark: 'b' }));
      server.write(1, 'task_status', 'completed');
      server.write(1, 'task_opx_cost', 5);
      await pass(100);
      expect(items).to.deep.equal(['a TASK_STATUS_CHANGED', 'b TASK_STATUS_CHANGED', 'b TASK_FEE_UPDATED']);
      expect(transitions).to.deep.equal(['b running completed']);

      // What the log has no more of is told by the rows.
      await bundle.React.act(async () => server.cut([...server.connections][0]!));
      server.write(1, 'task_status', 'running');
      server.write(1, 'task_status', 'completed');
      server.write(1, 'task_status', 'archived');
      server.trim('alice', 0);
      await pass(60_000);
      expect(items.slice(3)).to.deep.equal(['b RESYNC']);
      expect(transitions).to.have.length(1);
    });

    it('are drawn on a server with the rows that it has, and go on from their position', async () => {
      const { createElement: h, act } = bundle.React;
      const position = { seq: 2, epoch: 'alice-1' };
      const initialData = { tasks: server.rows('job:1'), position };
      server.write(1, 'task_status', 'running');
      const node = h(Job, { options: { initialData } as object });
      const html = bundle.ssr.renderToString(tree(node));
      expect(html).to.contain('stale:pending,pending');
      expect(server.opened).to.equal(0);

      const container = document.createElement('div');
      container.innerHTML = html;
      const errors: unknown[] = [];
      let root: ReturnType<typeof bundle.dom.hydrateRoot> | undefined;
      await act(async () => {
        root = bundle.dom.hydrateRoot(container, tree(node), { onRecoverableError: (error) => errors.push(error) });
      });
      unmount.push(() => act(async () => root!.unmount()));
      await pass(1_000);
      expect(container.textContent).to.equal('live:running,pending');
      expect(server.asked).to.deep.equal([{ room: 'job:1', since: 2, epoch: 'alice-1', snapshot: { parts: true } }]);
      expect(errors).to.deep.equal([]);
    });

    it('say what the connection does, and why', async () => {
      const Connection = () => {
        const { state, reason } = bundle.hooks.useConnection();
        return `${state} ${reason?.code ?? ''} ${bundle.hooks.useTask(1).status}`;
      };
      server.refusedForGood = 'INVALID_API_KEY';
      const page = await draw(bundle.React.createElement(Connection));
      await pass(1_000);
      expect(page.text()).to.equal('failed INVALID_API_KEY error');
      server.refusedForGood = undefined;
      await bundle.React.act(async () => tw.retry());
      await pass(1_000);
      expect(page.text()).to.equal('open  live');
    });
  });
}
