import { isIP, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { type DatabaseTarget, parseDatabaseUrl, type SessionKind } from '../base/database-url.js';
import { addressesOf, socketTo } from './named-address.js';

/** What a new session says about itself. */
export interface SessionFacts {
  readonly standby: boolean;
  readonly readOnly: boolean;
}

/** SQL that asks for `SessionFacts`. */
export const SESSION_FACTS = `SELECT pg_is_in_recovery() AS standby,
  current_setting('transaction_read_only')::boolean AS "readOnly"`;

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

/** What came of the question to one server. */
interface Answer {
  readonly facts?: SessionFacts;
  readonly error?: unknown;
}

/** Where a connection goes. */
export interface Place {
  readonly url: string;
  /** For the driver, when the URL's host is a name of several servers: makes a socket that goes to one of them. */
  readonly stream?: () => Socket;
}

/** Whether a host of a URL is a name, of which there may be several addresses. */
const isName = (host: string): boolean =>
  host !== '' && !host.startsWith('/') && isIP(host.replace(/^\[|\]$/g, '')) === 0;

/**
 * Knows to which server of a database URL new connections go, and which connections are older than the last failover.
 *
 * Example: a primary fails over and its address moves. The first statement that is answered "read-only" calls `lookAgain`.
 * From then on the pool gives up each older connection instead of using it, and new ones go to the new primary.
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
  private found: Place | undefined;
  private search: Promise<Place> | undefined;

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
    this.found = this.only;
  }

  /** With one server there is nothing to choose. Each connection checks whether the server suits. */
  private get only(): Place | undefined {
    return this.fixed?.length === 1 ? this.fixed[0] : undefined;
  }

  /** Whether it has to be looked for before the next connection. */
  get lost(): boolean {
    return this.found === undefined;
  }

  /** Gives up all present connections: their server may not be the wanted one any more. */
  lookAgain(): void {
    this.generation += 1;
    this.found = this.only;
  }

  /** A server may be gone. Where there are several, the one that is wanted is looked for again. */
  noteGone(): void {
    if (this.choices > 1) {
      this.lookAgain();
    }
  }

  /**
   * @returns the server that suits
   * @throws Error the first server's own when none can be reached, or one that says that none is of the wanted kind
   */
  find(): Promise<Place> {
    if (this.found !== undefined) {
      return Promise.resolve(this.found);
    }
    this.search ??= this.choose().finally(() => {
      this.search = undefined;
    });
    return this.search;
  }

  /** Asks all servers at once, and takes the first one in the URL's order that suits. */
  private async choose(): Promise<Place> {
    const { places, failure } = await this.places();
    this.choices = places.length;
    this.found = places.length === 1 && failure === undefined ? places[0]! : await this.ask(places, failure);
    return this.found;
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

  private async ask(places: readonly Place[], failure: unknown): Promise<Place> {
    const answers: Array<Answer | undefined> = places.map(() => undefined);
    const suitable = places.map(async (place, index) => {
      const facts = await this.factsOf(place).catch((error: unknown) => {
        answers[index] = { error };
        throw error;
      });
      answers[index] = { facts };
      if (!suits(this.kind, facts)) {
        throw wrongServer(`The database server is not ${this.kind} now`);
      }
    });
    const all = Promise.allSettled(suitable);
    // One that hangs does not hold up whoever waits for a connection.
    const enough = Promise.any(suitable).then(() => sleep(HESITATION_MS, undefined, { ref: false }));
    await Promise.race([all, enough.catch(() => all)]);
    return this.best(places, answers, failure);
  }

  private best(places: readonly Place[], answers: ReadonlyArray<Answer | undefined>, failure: unknown): Place {
    const reached = answers.flatMap((answer, index) =>
      answer?.facts === undefined ? [] : [{ place: places[index]!, facts: answer.facts }],
    );
    const standby = this.kind === 'prefer-standby' ? reached.find(({ facts }) => facts.standby) : undefined;
    const found = standby ?? reached.find(({ facts }) => suits(this.kind, facts));
    if (found !== undefined) {
      return found.place;
    }
    const failed = answers.find((answer) => answer?.error !== undefined)?.error ?? failure;
    throw reached.length === 0 && failed !== undefined
      ? failed
      : wrongServer(`None of the database's ${places.length} servers is ${this.kind} now`);
  }

  private async factsOf({ url, stream }: Place): Promise<SessionFacts> {
    const client = new pg.Client({
      connectionString: url,
      application_name: 'taskwire server finder',
      connectionTimeoutMillis: this.connectMs,
      query_timeout: this.connectMs,
      ...(stream === undefined ? {} : { stream }),
    });
    // The query fails when the connection breaks. Without a listener for errors the process would end.
    client.on('error', () => {});
    try {
      await client.connect();
      const { rows } = await client.query<SessionFacts>(SESSION_FACTS);
      return rows[0]!;
    } finally {
      await client.end().catch(() => {});
    }
  }
}

/** The servers of one URL: one, or one for each address of its host's name. */
async function placesOf(url: string, host: string): Promise<Place[]> {
  const addresses = isName(host) ? await addressesOf(host) : [];
  return addresses.length > 1 ? addresses.map((address) => ({ url, stream: () => socketTo(address) })) : [{ url }];
}
