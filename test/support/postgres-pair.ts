import { eventually } from './eventually.js';
import { type PostgresServer, startPostgres } from './postgres.js';

/** A primary with a standby that has every commit before it is answered. They change places when the primary dies. */
export class PostgresPair {
  private constructor(
    /** The one that takes writes. */
    public primary: PostgresServer,
    public standby: PostgresServer,
  ) {}

  static async start(): Promise<PostgresPair> {
    const primary = await startPostgres();
    try {
      const pair = new PostgresPair(primary, await primary.startStandby());
      await pair.replicate();
      return pair;
    } catch (error) {
      await primary.stop();
      throw error;
    }
  }

  /** Ports of both, in an order that stays. */
  get ports(): number[] {
    return [this.primary.port, this.standby.port].sort((a, b) => a - b);
  }

  /**
   * The primary dies and the standby takes its place; then the old one comes back at its address, as a standby. An address that leads to
   * the primary is moved afterwards.
   */
  async failOver(): Promise<void> {
    const { primary: dead, standby: heir } = this;
    await dead.halt('immediate');
    await heir.promote();
    this.primary = heir;
    this.standby = dead;
    await dead.follow(heir);
    await this.replicate();
  }

  async stop(): Promise<void> {
    // The standby first: the primary waits for nobody when it is stopped at once.
    await this.standby.stop();
    await this.primary.stop();
  }

  /** From now on no commit is answered that the standby does not have. */
  private async replicate(): Promise<void> {
    await this.primary.admin(`ALTER SYSTEM SET synchronous_standby_names = '*'`);
    await this.primary.admin('SELECT pg_reload_conf()');
    await eventually(
      async () => {
        const { rows } = await this.primary.admin('SELECT sync_state FROM pg_stat_replication');
        if (rows[0]?.sync_state !== 'sync') {
          throw new Error(`not replicated yet: ${JSON.stringify(rows)}`);
        }
      },
      { timeoutMs: 30_000, intervalMs: 50 },
    );
  }
}
