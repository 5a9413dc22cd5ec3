import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import type { Attack } from '../attack.js';
import { openPlain, ready } from '../flood.js';

const CONNECTIONS = 9;
const ROOMS = 256;
const EVERY_MS = 20;

const attack: Attack = {
  kind: 'messages',
  title: 'plain: 9 connections, 50 messages/s each, 256 of their own rooms a message',
  async run(target, outcome, stop) {
    const rooms = target.jobs.slice(0, ROOMS).map((job) => `job:${job}`);
    const text = JSON.stringify({ type: 'SUBSCRIBE', data: { rooms } });
    const one = async (): Promise<void> => {
      while (!stop.aborted) {
        const ws = openPlain(target);
        try {
          await ready(ws, outcome, undefined);
          while (ws.readyState === ws.OPEN && !stop.aborted) {
            ws.send(text);
            outcome.bytes += text.length;
            await sleep(EVERY_MS);
          }
        } catch {
          // It comes back.
        }
        ws.terminate();
        await sleep(EVERY_MS);
      }
    };
    await Promise.all(Array.from({ length: CONNECTIONS }, one));
  },
  verify: ({ closes }) => expect(closes).to.have.property('4029'),
};
export default attack;
