import pg from 'pg';
import { parseDatabaseUrl, type SessionKind } from '../base/database-url.js';

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
  readonly prepare: boolean;
  readonly options: string | undefined;
  private readonly servers: readonly string[];
  private found: string | undefined;
  private search: Promise<string> | undefined;

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
    const target = parseDatabaseUrl(url);
    this.servers = target.servers;
    this.kind = target.session ?? kind;
    this.prepare = target.prepare;
    this.options = target.options;
    // With one server there is nothing to choose. Each connection checks whether the server suits.
    this.found = target.servers.length === 1 ? target.servers[0] : undefined;
  }

  /** Whether it has to be looked for before the next connection. */
  get lost(): boolean {
    return this.found === undefined;
  }

  /** Gives up all present connections: their server may not be the wanted one any more. */
  lookAgain(): void {
    this.generation += 1;
    if (this.servers.length > 1) {
      this.found = undefined;
    }
  }

  /** A server may be gone. Where there are several, the one that is wanted is looked for again. */
  noteGone(): void {
    if (this.servers.length > 1) {
      this.lookAgain();
    }
  }

  /**
   * @returns the URL of the server that suits
   * @throws Error the first server's own when none can be reached, or one that says that none is of the wanted kind
   */
  find(): Promise<string> {
    if (this.found !== undefined) {
      return Promise.resolve(this.found);
    }
    this.search ??= this.ask().finally(() => {
      this.search = undefined;
    });
    return this.search;
  }

  /** Asks all servers at once, and takes the first one in the URL's order that suits. */
  private async ask(): Promise<string> {
    const answers = await Promise.allSettled(this.servers.map((server) => this.factsOf(server)));
    const reached = answers.flatMap((answer, index) =>
      answer.status === 'fulfilled' ? [{ server: this.servers[index]!, facts: answer.value }] : [],
    );
    const standby = this.kind === 'prefer-standby' ? reached.find(({ facts }) => facts.standby) : undefined;
    const suitable = standby ?? reached.find(({ facts }) => suits(this.kind, facts));
    if (suitable === undefined) {
      const failed = answers.find((answer) => answer.status === 'rejected');
      throw reached.length === 0 && failed !== undefined
        ? failed.reason
        : wrongServer(`None of the database's ${this.servers.length} servers is ${this.kind} now`);
    }
    this.found = suitable.server;
    return suitable.server;
  }

  private async factsOf(server: string): Promise<SessionFacts> {
    const client = new pg.Client({
      connectionString: server,
      application_name: 'taskwire server finder',
      connectionTimeoutMillis: this.connectMs,
      query_timeout: this.connectMs,
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
