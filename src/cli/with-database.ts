import type { Knex } from 'knex';
import { silentLogger } from '../base/logger.js';
import { openEmbedded } from '../cluster/database.js';
import { type Config, loadConfig } from '../config.js';
import { connectDatabase } from '../database/connect-database.js';
import { FolderInUseError } from '../embedded/folder-lock.js';
import { findEmbeddedUrl } from '../embedded/url-file.js';

/**
 * Runs a command on the database that the service uses here: the one that DATABASE_URL names, that of a service that runs
 * on DATA_DIR, or, when none does, the embedded database itself for as long as the command takes.
 */
export async function withDatabase(command: (db: Knex, config: Config) => Promise<void>): Promise<void> {
  const config = loadConfig();
  const { url, stop } = await findDatabase(config);
  const db = connectDatabase({ url, pool: 1, applicationName: 'taskwire command', statementMs: 600_000 });
  try {
    await command(db, config);
  } finally {
    await db.destroy();
    await stop?.();
  }
}

async function findDatabase(config: Config): Promise<{ url: string; stop?: () => Promise<void> }> {
  const { DATABASE_URL, DATA_DIR } = config;
  if (DATABASE_URL !== undefined) {
    return { url: DATABASE_URL };
  }
  try {
    return await openEmbedded(config, silentLogger);
  } catch (error) {
    if (!(error instanceof FolderInUseError)) {
      throw error;
    }
    const url = findEmbeddedUrl(DATA_DIR);
    if (url === undefined) {
      throw new Error(
        `${error.folder} is in use by ${error.holder}, whose database cannot be reached from here. ` +
          'If it is only just starting, try again; otherwise run this command where it runs (docker exec), or stop it first.',
      );
    }
    return { url };
  }
}
