import { expect } from 'chai';
import WebSocket from 'ws';
import { eventually } from '../support/eventually.js';
import { Instance } from '../support/instance.js';
import { Subscriber } from '../support/subscriber.js';

const keyOf = (instance: Instance, kind: 'user' | 'service'): string =>
  new RegExp(`${kind} key +(tw_\\S+)`).exec(instance.output)![1]!;

describe('the log of a service in production', function () {
  this.timeout(60_000);

  it('is JSON; at level debug it shows what clients do, and never their keys', async () => {
    const instance = await Instance.start({
      workers: 1,
      env: { NODE_ENV: 'production', LOG_FORMAT: undefined, LOG_LEVEL: 'debug' },
    });
    let subscriber: Subscriber | undefined;
    try {
      await eventually(() => expect(instance.output).to.include('/api/ws/stats'), { timeoutMs: 30_000 });
      const [user, service] = [keyOf(instance, 'user'), keyOf(instance, 'service')];
      subscriber = new Subscriber('socket.io', instance.url, user, ['job:1']);
      await eventually(() => expect(subscriber?.live).to.equal(true));

      // Keys where browsers and careless people put them.
      const socket = new WebSocket(`${instance.url.replace(/^http/, 'ws')}/api/ws/tasks?api_key=${user}`);
      await new Promise((resolve) => socket.once('open', resolve));
      socket.send(JSON.stringify({ type: 'SUBSCRIBE', data: { room: 'job:1' }, request_id: user }));
      socket.send(JSON.stringify({ type: 'UNSUBSCRIBE', data: { room: 'job:1' } }));
      socket.send(JSON.stringify({ type: user, data: { room: user } }));
      const jobs = '/api/tasks/job/1';
      // REST takes no key from there, and it is not to be read in the log all the same.
      expect((await instance.get(`${jobs}?api_key=${service}`)).status).to.equal(401);
      expect((await instance.get(`${jobs}?%61pi_key=${service}`)).status).to.equal(401);
      expect((await instance.get(jobs, { 'x-api-key': user, 'x-request-id': service })).status).to.equal(200);
      expect((await instance.get(`/api/${service}`, { 'x-api-key': user })).status).to.equal(404);

      const said = (message: string) => instance.log.filter((line) => line.message === message);
      await eventually(() => expect(said('unsubscribe').map(({ room }) => room)).to.deep.equal(['job:1']));
      socket.close();
      subscriber.close();
      await eventually(() => expect(said('disconnected')).to.have.length(2));
      await eventually(() => expect(said('request').length).to.be.at.least(4));
      expect(said('connected').map(({ transport, user }) => [transport, user])).to.deep.equal([
        ['socket.io', 'demo'],
        ['websocket', 'demo'],
      ]);
      expect(said('subscribe').map(({ room }) => room)).to.deep.equal(['job:1', 'job:1']);
      expect(said('request').map(({ path }) => path)).to.include(jobs);

      expect(await instance.stop()).to.equal(0);
      for (const line of instance.log) {
        expect(Object.keys(line), JSON.stringify(line)).to.include.members(['level', 'message', 'timestamp', 'pid']);
      }
      const text = JSON.stringify(instance.log);
      for (const key of [user, service]) {
        expect(
          text.includes(key.slice(3, 20)),
          text.slice(text.indexOf(key.slice(3, 20)) - 200).slice(0, 300),
        ).to.equal(false);
      }
    } finally {
      subscriber?.close();
      await instance.kill();
    }
  });
});
