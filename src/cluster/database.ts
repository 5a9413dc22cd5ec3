import { chmodSync, rmSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from '../base/logger.js';
import type { Releasers } from '../base/releasers.js';
import { type Config, ConfigError } from '../config.js';
import { connectDatabase } from '../database/connect-database.js';
import { type EmbeddedDatabase, startEmbeddedDatabase } from '../embedded/embedded-database.js';
import { UnusableFolderError } from '../embedded/make-folder.js';
import { tokenSecret } from '../embedded/token-secret.js';
import { embeddedUrlFile } from '../embedded/url-file.js';
import { toTaskwireError } from '../protocol/errors.js';
import { migrate } from '../schema/migrate.js';

/** How long the database may stay away at the start, in milliseconds. */
const PATIENCE_MS = 60_000;
const RETRY_MS = 500;

export interface OpenDatabase {
  /** The configuration, with what an embedded database adds to it: its URL and the secret of tokens. */
  readonly config: Config;
  readonly url: string;
  readonly embedded: boolean;
}

/**
 * The database of this instance, schema up to date: the one that DATABASE_URL names, or an embedded one, which is started.
 */
export async function openDatabase(options: {
  config: Config;
  logger: Logger;
  releasers: Releasers;
}): Promise<OpenDatabase> {
  const { config, logger, releasers } = options;
  if (config.DATABASE_URL !== undefined) {
    await bringUpToDate(config.DATABASE_URL, config, logger);
    return { config, url: config.DATABASE_URL, embedded: false };
  }
  const { url, stop } = await openEmbedded(config, logger);
  releasers.push('embedded database', stop);
  // The command line finds the database of a running service by this file.
  const file = embeddedUrlFile(config.DATA_DIR);
  releasers.push('embedded database: its address', () => rmSync(file, { force: true }));
  writeFileSync(file, url, { mode: 0o600 });
  chmodSync(file, 0o600);
  await bringUpToDate(url, config, logger);
  const secrets = config.TOKEN_SECRET.length > 0 ? config.TOKEN_SECRET : [tokenSecret(config.DATA_DIR)];
  return { config: { ...config, DATABASE_URL: url, TOKEN_SECRET: secrets }, url, embedded: true };
}

/**
 * Starts the embedded database.
 * @throws ConfigError when nothing can be kept in DATA_DIR
 */
export async function openEmbedded({ DATA_DIR }: Config, logger: Logger): Promise<EmbeddedDatabase> {
  try {
    return await startEmbeddedDatabase({ dir: DATA_DIR, logger });
  } catch (error) {
    throw error instanceof UnusableFolderError
      ? new ConfigError(`DATA_DIR: got ${JSON.stringify(DATA_DIR)}; ${error.message}`)
      : error;
  }
}

/** Brings the schema up to date. It waits for a database that is still starting. */
async function bringUpToDate(url: string, { CAPTURE }: Config, logger: Logger): Promise<void> {
  const db = connectDatabase({ url, pool: 1, applicationName: 'taskwire migrate', statementMs: 600_000 });
  const end = performance.now() + PATIENCE_MS;
  try {
    for (let told = false; ; told = true) {
      try {
        const steps = await migrate(db, { capture: CAPTURE, onWarning: (message) => logger.warn(message) });
        if (steps.length > 0) {
          logger.info('schema brought up to date', { steps });
        }
        return;
      } catch (error) {
        if (toTaskwireError(error).code !== 'DATABASE_UNAVAILABLE' || performance.now() > end) {
          throw error;
        }
        if (!told) {
          logger.warn('waiting for the database', { error });
        }
        await sleep(RETRY_MS);
      }
    }
  } finally {
    await db.destroy();
  }
}
