import type { Logger } from '../base/logger.js';
import type { PrimaryChannel } from '../base/process-messages.js';
import { TurnBatch } from '../base/turn-batch.js';
import { ChangeListener } from '../database/change-listener.js';

/** Somebody who is told of events that nobody publishes. */
export interface ChangeTarget {
  /** Some were committed. @param users whose; undefined: anybody's */
  look(users: readonly string[] | undefined): void;
  /** Whether `look` is called from now on. */
  setListening(listening: boolean): void;
}

/** Most users that are told by name. For more, workers check all streams. */
const MAX_USERS = 1_000;

/**
 * Tells the workers of this instance which streams have events that nobody publishes: changes that other programs made.
 * One connection to the database serves all workers.
 */
export class DatabaseChanges {
  private readonly targets = new Set<ChangeTarget>();
  private readonly news: TurnBatch<string | undefined>;
  private readonly listener: ChangeListener;
  private listening = false;

  constructor(url: string, logger: Logger) {
    this.news = new TurnBatch((users) => this.tell(users));
    this.listener = new ChangeListener({
      url,
      logger,
      onChange: (userId) => this.news.add(userId),
      onState: (listening) => {
        this.listening = listening;
        for (const target of this.targets) {
          target.setListening(listening);
        }
      },
    });
    this.listener.start();
  }

  add(target: ChangeTarget): void {
    this.targets.add(target);
    target.setListening(this.listening);
  }

  /** Tells a worker, as soon as it can serve and until it ends. */
  addWorker(channel: PrimaryChannel): void {
    const send: PrimaryChannel['send'] = (message) => {
      try {
        channel.send(message);
      } catch {
        // The worker is gone, and its successor starts anew.
      }
    };
    const target: ChangeTarget = {
      look: (users) => send({ type: 'taskwire:changed', users }),
      setListening: (listening) => send({ type: 'taskwire:listening', listening }),
    };
    channel.onMessage((message) => {
      if (message.type === 'taskwire:ready') {
        this.add(target);
      }
    });
    channel.onClose(() => this.targets.delete(target));
  }

  stop(): Promise<void> {
    return this.listener.stop();
  }

  private tell(news: ReadonlyArray<string | undefined>): void {
    const named = new Set<string>();
    for (const userId of news) {
      if (userId !== undefined) {
        named.add(userId);
      }
    }
    const users = named.size > MAX_USERS || news.includes(undefined) ? undefined : [...named];
    for (const target of this.targets) {
      target.look(users);
    }
  }
}
