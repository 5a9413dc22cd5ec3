import { type Cluster, type Redis, ReplyError } from 'ioredis';
import { BatchQueue, GATHER_MS } from '../../base/batch-queue.js';
import { garbled } from './redis-faults.js';

/**
 * Counts requests of keys, and takes places of addresses.
 *
 * A place: sums those that live nodes hold of an address, forgets the dead nodes, and gives as many of the wanted ones as
 * there are left. What cannot be counted is answered with its error, and the rest is counted.
 *
 * KEYS: the leases of nodes, one key for each rate, one for each address.
 * ARGV: how many rates, their window in milliseconds, this node, milliseconds until a count expires; for each rate the
 * requests; for each address the places that this node holds, those that it wants, and the limit of all.
 * @returns for each rate how many there were in this window and its milliseconds that are left; for each address the places
 * that were given
 */
const COUNT = `
local rates, window, node, expiry = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function rate(key, requests)
  local count = redis.pcall('INCRBY', key, requests)
  if type(count) == 'table' then return count.err end
  local left = redis.call('PTTL', key)
  if left < 0 then
    redis.call('PEXPIRE', key, window)
    left = window
  end
  return { count, left }
end
local function place(key, held, wanted, limit)
  local counts = redis.pcall('HGETALL', key)
  if counts.err then return counts.err end
  local left = limit - held
  for i = 1, #counts, 2 do
    if counts[i] ~= node then
      local lease = redis.pcall('ZSCORE', KEYS[1], counts[i])
      if type(lease) == 'table' then return lease.err end
      if lease and tonumber(lease) > now then
        left = left - tonumber(counts[i + 1])
      else
        redis.call('HDEL', key, counts[i])
      end
    end
  end
  local given = math.max(0, math.min(wanted, left))
  if given > 0 then
    local written = redis.pcall('HSET', key, node, held + given)
    if type(written) == 'table' then return written.err end
    redis.call('PEXPIRE', key, expiry)
  end
  return { given }
end
local answers = {}
for i = 1, rates do
  answers[i] = rate(KEYS[1 + i], ARGV[4 + i])
end
for i = rates + 1, #KEYS - 1 do
  local at = 4 + rates + (i - rates - 1) * 3
  answers[i] = place(KEYS[1 + i], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]))
end
return answers`;

/** Requests are counted over this time. */
export const WINDOW_MS = 60_000;
/** Counts of an address expire after this time unless they are written again. */
export const COUNT_MS = 3_600_000;

/** Most counts of one command. */
const MAX_BATCH = 500;

/** The numbers that the script answers with, or the text of an error. */
type Answer = readonly number[] | string;

/** Requests of one key, or places of one address, that are counted together. */
interface Group {
  readonly key: string;
  readonly args: readonly number[];
  take(answer: Answer | Error): void;
}

interface Waiter<Value> {
  readonly name: string;
  /** Requests, or the limit of places. */
  readonly amount: number;
  resolve(value: Value): void;
  reject(error: unknown): void;
}
type RateWaiter = Waiter<Counted> & { readonly kind: 'rate' };
type PlaceWaiter = Waiter<boolean> & { readonly kind: 'place' };

/**
 * Whether nobody but new connections waits: each takes a place, and is a request of its key. They come together, and none of
 * them notices a moment. A request over REST, which takes no place, does not wait for that.
 */
function isArrival(waiting: ReadonlyArray<RateWaiter | PlaceWaiter>): boolean {
  const places = waiting.reduce((count, { kind }) => count + (kind === 'place' ? 1 : 0), 0);
  return places > 0 && places >= waiting.length - places;
}

/** Requests of a window, the asking one included, and the milliseconds until it ends. */
export interface Counted {
  readonly count: number;
  readonly left: number;
}

type ScriptedRedis = Redis & { countAll(keys: number, ...args: Array<string | number>): Promise<Answer[]> };

export interface CountsOptions {
  readonly prefix: string;
  readonly nodeId: string;
}

/**
 * Counts on the server. What is asked for while the command before is under way is one command, in which the requests of
 * one API key are one count, and the places of one address too. All keys share one hash tag, so that a script may use them
 * together on a cluster.
 */
export class RedisCounts {
  private readonly redis: ScriptedRedis;
  private readonly waiting = new BatchQueue<RateWaiter | PlaceWaiter>((batch) => this.count(batch), {
    max: MAX_BATCH,
    gatherMs: GATHER_MS,
    isSignOfMany: isArrival,
    mayWait: isArrival,
  });
  /** Places of this node by address, with those that the server was asked for. */
  private readonly places = new Map<string, number>();

  constructor(
    redis: Redis | Cluster,
    private readonly options: CountsOptions,
  ) {
    // The script is called by its hash; its text is sent once.
    redis.defineCommand('countAll', { lua: COUNT });
    this.redis = redis as unknown as ScriptedRedis;
  }

  /** Counts requests of a key. Rejects when the server cannot count. */
  consume(name: string, requests: number): Promise<Counted> {
    return new Promise((resolve, reject) => {
      this.waiting.add({ kind: 'rate', name, amount: requests, resolve, reject });
    });
  }

  /**
   * Takes a place of an address, if not all nodes together hold `limit` already; the caller gives it back with `leave`.
   * Rejects when the server cannot count; then the place is taken nevertheless.
   */
  occupy(name: string, limit: number): Promise<boolean> {
    return new Promise((resolve, reject) => {
      this.waiting.add({ kind: 'place', name, amount: limit, resolve, reject });
    });
  }

  /** Gives a place of an address back; the server is not told. */
  leave(address: string): void {
    const count = this.held(address) - 1;
    if (count <= 0) {
      this.places.delete(address);
    } else {
      this.places.set(address, count);
    }
  }

  /** Places of an address that this node holds. */
  held(address: string): number {
    return this.places.get(address) ?? 0;
  }

  /** Addresses that this node holds places of. */
  get addresses(): Iterable<string> {
    return this.places.keys();
  }

  get nodesKey(): string {
    return `{${this.options.prefix}}:nodes`;
  }

  addressKey(address: string): string {
    return `{${this.options.prefix}}:connections:${address}`;
  }

  private async count(batch: ReadonlyArray<RateWaiter | PlaceWaiter>): Promise<void> {
    const ratesOf = new Map<string, RateWaiter[]>();
    const placesOf = new Map<string, PlaceWaiter[]>();
    for (const waiter of batch) {
      if (waiter.kind === 'rate') {
        join(ratesOf, waiter.name, waiter);
      } else {
        join(placesOf, `${waiter.amount} ${waiter.name}`, waiter);
      }
    }
    const rates = Array.from(ratesOf.values(), (waiters) => this.rateOf(waiters));
    const places = Array.from(placesOf.values(), (waiters) => this.placeOf(waiters));
    const groups = [...rates, ...places];
    const keys = [this.nodesKey, ...groups.map(({ key }) => key)];
    const args = [rates.length, WINDOW_MS, this.options.nodeId, COUNT_MS, ...groups.flatMap((group) => group.args)];
    try {
      const answers = await this.redis.countAll(keys.length, ...keys, ...args);
      const known = (answer: unknown): boolean => Array.isArray(answer) || typeof answer === 'string';
      if (!Array.isArray(answers) || answers.length !== groups.length || !answers.every(known)) {
        throw garbled();
      }
      for (const [index, group] of groups.entries()) {
        group.take(answers[index]!);
      }
    } catch (error) {
      for (const group of groups) {
        group.take(error as Error);
      }
    }
  }

  private rateOf(waiters: readonly RateWaiter[]): Group {
    const total = waiters.reduce((sum, { amount }) => sum + amount, 0);
    return {
      key: `{${this.options.prefix}}:rate:${waiters[0]!.name}`,
      args: [total],
      take: answered(waiters, ([last = 0, left = 0]) => {
        let count = last - total;
        for (const { amount, resolve } of waiters) {
          count += amount;
          resolve({ count, left });
        }
      }),
    };
  }

  private placeOf(waiters: readonly PlaceWaiter[]): Group {
    const [{ name: address, amount: limit }] = waiters as readonly [PlaceWaiter, ...PlaceWaiter[]];
    const held = this.held(address);
    // Raised before the answer: whoever writes the count meanwhile writes these places too.
    this.places.set(address, held + waiters.length);
    return {
      key: this.addressKey(address),
      args: [held, waiters.length, limit],
      take: answered(waiters, ([given = 0]) => {
        for (const [place, { resolve }] of waiters.entries()) {
          resolve(place < given);
        }
      }),
    };
  }
}

/** Adds to those that are counted as one, in the order in which they came. */
function join<Item>(groups: Map<string, Item[]>, name: string, item: Item): void {
  const group = groups.get(name);
  if (group === undefined) {
    groups.set(name, [item]);
  } else {
    group.push(item);
  }
}

/** Hands on the numbers of an answer, or rejects all who wait for it. */
function answered(
  waiters: ReadonlyArray<{ reject(error: unknown): void }>,
  take: (numbers: readonly number[]) => void,
): (answer: Answer | Error) => void {
  return (answer) => {
    if (answer instanceof Error || typeof answer === 'string') {
      const error = typeof answer === 'string' ? new ReplyError(answer) : answer;
      for (const { reject } of waiters) {
        reject(error);
      }
    } else {
      take(answer);
    }
  };
}
