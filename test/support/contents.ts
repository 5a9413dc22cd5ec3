import { createHash } from 'node:crypto';
import { type EventEnvelope, envelopeText } from '../../src/protocol/events.js';
import type { EventLog } from '../../src/repository/event-log.js';

const PAGE = 1_000;

/** What events say, as it came to whoever got them: one event says the same to everybody. */
export class Contents {
  /** Digests by `user seq`. */
  private readonly digests = new Map<string, string>();

  /** @returns whether the same was said before, or nothing */
  agrees(event: EventEnvelope): boolean {
    const name = `${event.data.user_id} ${event.seq}`;
    const digest = digestOf(event);
    const before = this.digests.get(name);
    if (before === undefined) {
      this.digests.set(name, digest);
    }
    return before === undefined || before === digest;
  }

  /** Events that somebody got and that are not those of the log. */
  async wrong(log: EventLog, userIds: readonly string[]): Promise<string[]> {
    const logged = new Map<string, string>();
    for (const userId of userIds) {
      for (let after = 0; ; ) {
        const rooms = [{ kind: 'user', id: userId, after }] as const;
        const { events, complete } = await log.read({ userId, rooms, limit: PAGE });
        for (const event of events) {
          logged.set(`${userId} ${event.seq}`, digestOf(JSON.parse(envelopeText(event)) as EventEnvelope));
          after = event.seq;
        }
        if (complete) {
          break;
        }
      }
    }
    return [...this.digests]
      .filter(([name, digest]) => logged.get(name) !== digest)
      .map(([name]) => `${name} was told and is ${logged.has(name) ? 'another one in' : 'not in'} the log`);
  }
}

/** Texts of one event may differ in how they print a number, and nothing else. */
const digestOf = (event: EventEnvelope): string =>
  createHash('sha1').update(JSON.stringify(event)).digest('base64').slice(0, 16);
