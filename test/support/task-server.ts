import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { silentLogger } from '../../src/base/logger.js';
import { type Config, loadConfig } from '../../src/config.js';
import { connectDatabase } from '../../src/database/connect-database.js';
import { type EmbeddedDatabase, startEmbeddedDatabase } from '../../src/embedded/embedded-database.js';
import { migrate } from '../../src/schema/migrate.js';
import { createServer, type TaskServer } from '../../src/server.js';
import { FakeBrokers } from './fake-broker.js';

/** An embedded database in a folder of its own, migrated. */
export async function embeddedForTest(): Promise<{ url: string; stop(): Promise<void> }> {
  const dir = mkdtempSync(join(tmpdir(), 'taskwire-test-'));
  const database: EmbeddedDatabase = await startEmbeddedDatabase({ dir, logger: silentLogger });
  const db = connectDatabase({ url: database.url, pool: 1 });
  await migrate(db);
  await db.destroy();
  return {
    url: database.url,
    stop: async () => {
      await database.stop();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

/** One worker in this process: everything is real but the broker, which lives here too. */
export class InProcessServer {
  readonly broker = new FakeBrokers().add('n1');
  readonly config: Config;
  readonly server: TaskServer;

  constructor(databaseUrl: string, environment: Readonly<Record<string, string>> = {}) {
    // A replica is named beside its primary.
    const primary = 'DATABASE_READ_URL' in environment ? { DATABASE_URL: databaseUrl } : {};
    this.config = loadConfig({ MAX_CONNECTIONS_PER_IP: '1000', ...primary, ...environment });
    this.server = createServer({ config: this.config, databaseUrl, broker: this.broker, logger: silentLogger });
  }

  get url(): string {
    return `http://127.0.0.1:${(this.server.http.address() as AddressInfo).port}`;
  }

  async start(): Promise<void> {
    await this.server.start();
    this.server.http.listen(0, '127.0.0.1');
    await once(this.server.http, 'listening');
  }

  async stop(): Promise<void> {
    this.server.http.close();
    await this.server.stop();
  }
}
