import type { Knex } from 'knex';

/** Counts the statements that a pool begins, answered or not. */
export class Statements {
  count = 0;
  /** Called before a statement gets its connection, with its number from 1. */
  before: (count: number) => void = () => {};

  constructor(db: Knex) {
    const client = db.client as { acquireConnection(): Promise<unknown> };
    const acquire = client.acquireConnection.bind(client);
    client.acquireConnection = () => {
      this.count += 1;
      this.before(this.count);
      return acquire();
    };
  }
}
