import { isIP } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { type DatabaseTarget, parseDatabaseUrl, type SessionKind } from '../base/database-url.js';
import { askServer, type Place } from './ask-server.js';
import { addressesOf, socketTo } from './named-address.js';

/** What a new session says about itself. */
export interface SessionFacts {
  readonly standby: boolean;
  readonly readOnly: boolean;
  /** When its server was started, in microseconds since 1970: by this, two servers are told apart. */
  readonly startedAt: string;
  /** One of the settings that sessions are opened with. */
  readonly seqscan: string;
}

/** SQL of the identity of a server: when it was started, in microseconds since 1970. */
export const STARTED_AT = '(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint::text';

/** SQL that asks for `SessionFacts`. */
export const SESSION_FACTS = `SELECT pg_is_in_recovery() AS standby,
  current_setting('transaction_read_only')::boolean AS "readOnly",
  ${STARTED_AT} AS "startedAt", current_setting('enable_seqscan') AS seqscan`;

/** Whether a session is of the kind that is wanted. */
export function suits(kind: SessionKind, { standby, readOnly }: SessionFacts): boolean {
  switch (kind) {
    case 'read-write':
      return !standby && !readOnly;
    case 'read-only':
      return standby || readOnly;
    case 'primary':
      return !standby;
    case 'standby':
      return standby;
    default:
      return true;
  }
}

/** An error that says that this server is not the one that is wanted; Postgres' own code for it. */
export const wrongServer = (message: string): Error => Object.assign(new Error(message), { code: '25006' });

/** When a server that suits has answered, those that come before it get so much longer, in milliseconds. */
const HESITATION_MS = 500;
/** When any server has answered, the others get so much longer. */
const PATIENCE_MS = 1_500;

/** It is looked by a new connection where the address leads, each so many examinations. */
const EXAMINATIONS_PER_LOOK = 12;

/** What came of the question to one server. */
interface Answer {
  readonly facts?: SessionFacts;
  readonly error?: unknown;
}

/** What came of a search. */
interface Choice {
  /** The server that suits. */
  readonly found?: Place | undefined;
  /** One that answers and does not suit. */
  readonly other?: Place | undefined;
  /** Why there is none that suits. */
  readonly failure?: unknown;
}

/** Whether a host of a URL is a name, of which there may be several addresses. */
const isName = (host: string): boolean =>
  host !== '' && !host.startsWith('/') && isIP(host.replace(/^\[|\]$/g, '')) === 0;

/**
 * Knows to which server of a database URL new connections go, and which connections are older than the last failover. All
 * pools of a process share one: what one of them meets counts for the others.
 *
 * Example: a primary fails over and its address moves. The first statement that is answered "read-only" calls `leave`. From
 * then on each pool gives up its older connections instead of using them, and new ones go to the new primary.
 */
export class ServerFinder {
  /** Number of the current search. Connections of earlier ones are not used any more. */
  generation = 0;
  readonly kind: SessionKind;
  private readonly target: DatabaseTarget;
  readonly prepare: boolean;
  readonly options: string | undefined;
  /** The places that are there to choose from without asking anybody; undefined: names have to be looked up. */
  private readonly fixed: readonly Place[] | undefined;
  /** How many there were to choose from when they were looked for last. */
  private choices: number;
  private place: Place | undefined;
  private search: Promise<Choice> | undefined;
  private lastServer: string | undefined;
  /** Whether connections to a server of another kind are in use, as there was none of the wanted kind. */
  private makesDo = false;
  /** Whether a server was left since one suited. */
  private left = false;
  private examinations = 0;

  /**
   * @param kind what is wanted when the URL does not say it
   * @param connectMs how long a server may take to answer, in milliseconds
   * @throws Error when the URL cannot be read
   */
  constructor(
    url: string,
    kind: SessionKind,
    private readonly connectMs: number,
  ) {
    this.target = parseDatabaseUrl(url);
    const { target } = this;
    this.kind = target.session ?? kind;
    this.prepare = target.prepare;
    this.options = target.options;
    // Where any server will do, the system tries the addresses of a name one after the other.
    const named = this.kind !== 'any' && target.hosts.some(isName);
    this.fixed = named ? undefined : target.servers.map((server) => ({ url: server }));
    this.choices = target.servers.length;
    this.place = this.only;
  }

  /** With one server there is nothing to choose. Each connection checks whether the server suits. */
  private get only(): Place | undefined {
    return this.fixed?.length === 1 ? this.fixed[0] : undefined;
  }

  /** When the server was started that suited last: its identity. */
  get server(): string | undefined {
    return this.lastServer;
  }

  /** The server that suits, where it is known. Otherwise it has to be looked for before the next connection. */
  get found(): Place | undefined {
    return this.place;
  }

  /** Gives up all present connections: their server may not be the wanted one any more. */
  lookAgain(): void {
    this.generation += 1;
    this.place = this.only;
  }

  /**
   * A connection has broken, or was refused a write: the others of its time lead to the same server.
   * @param generation the connection's: what an older one meets is no news
   * @returns whether it is the first one that was left since a server suited
   */
  leave(generation: number): boolean {
    if (generation !== this.generation) {
      return false;
    }
    this.lookAgain();
    const first = !this.left;
    this.left = true;
    return first;
  }

  /**
   * A new connection leads to a server of the wanted kind. Older ones are given up when they lead to another server: the
   * address was moved, and the server of before may still answer.
   */
  suited({ startedAt }: SessionFacts): void {
    if (this.makesDo || (this.isOne && this.server !== undefined && this.server !== startedAt)) {
      this.generation += 1;
    }
    this.lastServer = startedAt;
    this.makesDo = false;
    this.left = false;
  }

  /** A new connection leads to a server of another kind, and is used for reading until one of the wanted kind is there. */
  makeDo(): void {
    this.makesDo = true;
    if (this.choices > 1) {
      this.place = undefined;
    }
  }

  /**
   * Looks whether the server of the present connections is still the wanted one. Otherwise all of them are given up. To be
   * called every few seconds: nobody tells those who only read that a server was demoted, or that the address was moved
   * while the server of before still answers.
   * @param ask gives what the session of a present connection says
   */
  async examine(ask: () => Promise<SessionFacts>): Promise<void> {
    this.check(await ask());
    this.examinations += 1;
    if (this.isOne && this.examinations % EXAMINATIONS_PER_LOOK === 0) {
      // When nobody can be reached, the present connections are all there is.
      await this.look().catch(() => {});
    }
  }

  /** Looks by a connection of its own where the address leads now. */
  private async look(): Promise<void> {
    const facts = await this.factsOf(await this.find());
    if (suits(this.kind, facts)) {
      this.suited(facts);
    } else {
      this.check(facts);
    }
  }

  /**
   * What a session says of its server: one that does not suit is left, with all connections. Those that are made do with
   * stay: nothing better is known.
   */
  check(facts: SessionFacts): void {
    if (!suits(this.kind, facts) && !this.makesDo) {
      this.lookAgain();
    }
  }

  /** Whether there is one server of the wanted kind. A pooler may lead each session to another one. */
  private get isOne(): boolean {
    return this.prepare && (this.kind === 'read-write' || this.kind === 'primary');
  }

  /** A server may be gone. Where there are several, the one that is wanted is looked for again. */
  noteGone(): void {
    if (this.choices > 1) {
      this.lookAgain();
    }
  }

  /**
   * @param makesDo whether a server of another kind will do when there is none of the wanted kind
   * @returns the server that suits
   * @throws Error the first server's own when none can be reached, or one that says that none is of the wanted kind
   */
  async find(makesDo = false): Promise<Place> {
    if (this.place !== undefined) {
      return this.place;
    }
    this.search ??= this.choose().finally(() => {
      this.search = undefined;
    });
    const { found, other, failure } = await this.search;
    const place = found ?? (makesDo ? other : undefined);
    if (place === undefined) {
      throw failure;
    }
    return place;
  }

  /** Asks all servers at once, and takes the first one in the URL's order that suits. */
  private async choose(): Promise<Choice> {
    const { places, failure } = await this.places();
    this.choices = places.length;
    const choice =
      places.length === 1 && failure === undefined ? { found: places[0]! } : await this.ask(places, failure);
    this.place = choice.found;
    return choice;
  }

  /** All servers, in the URL's order and each name's addresses in the system's; and why a name was not found. */
  private async places(): Promise<{ readonly places: readonly Place[]; readonly failure?: unknown }> {
    if (this.fixed !== undefined) {
      return { places: this.fixed };
    }
    const { servers, hosts } = this.target;
    const found = await Promise.allSettled(servers.map((url, index) => placesOf(url, hosts[index]!)));
    const failed = found.find((answer) => answer.status === 'rejected');
    const places = found.flatMap((answer) => (answer.status === 'fulfilled' ? answer.value : []));
    return failed === undefined ? { places } : { places, failure: failed.reason };
  }

  private async ask(places: readonly Place[], failure: unknown): Promise<Choice> {
    const answers: Array<Answer | undefined> = places.map(() => undefined);
    const asked = places.map(async (place, index) => {
      const facts = await this.factsOf(place).catch((error: unknown) => {
        answers[index] = { error };
        throw error;
      });
      answers[index] = { facts };
      return facts;
    });
    const suitable = asked.map(async (answer) => {
      if (!suits(this.kind, await answer)) {
        throw wrongServer(`The database server is not ${this.kind} now`);
      }
    });
    const all = Promise.allSettled(suitable);
    // One that hangs does not hold up whoever waits for a connection.
    const enough = Promise.any(suitable).then(() => sleep(HESITATION_MS, undefined, { ref: false }));
    const some = Promise.any(asked).then(() => sleep(PATIENCE_MS, undefined, { ref: false }));
    await Promise.race([all, enough.catch(() => all), some.catch(() => all)]);
    return this.best(places, answers, failure);
  }

  private best(places: readonly Place[], answers: ReadonlyArray<Answer | undefined>, failure: unknown): Choice {
    const reached = answers.flatMap((answer, index) =>
      answer?.facts === undefined ? [] : [{ place: places[index]!, facts: answer.facts }],
    );
    const standby = this.kind === 'prefer-standby' ? reached.find(({ facts }) => facts.standby) : undefined;
    const found = standby ?? reached.find(({ facts }) => suits(this.kind, facts));
    const failed = answers.find((answer) => answer?.error !== undefined)?.error ?? failure;
    return {
      found: found?.place,
      other: reached[0]?.place,
      failure:
        reached.length === 0 && failed !== undefined
          ? failed
          : wrongServer(`None of the database's ${places.length} servers is ${this.kind} now`),
    };
  }

  private async factsOf(place: Place): Promise<SessionFacts> {
    const [facts] = await askServer<SessionFacts>(place, 'taskwire server finder', this.connectMs, SESSION_FACTS);
    return facts!;
  }
}

/** The servers of one URL: one, or one for each address of its host's name. */
async function placesOf(url: string, host: string): Promise<Place[]> {
  const addresses = isName(host) ? await addressesOf(host) : [];
  return addresses.length > 1 ? addresses.map((address) => ({ url, stream: () => socketTo(address) })) : [{ url }];
}
