import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { silentLogger } from '../../src/base/logger.js';
import { connectDatabase } from '../../src/database/connect-database.js';
import { startEmbeddedDatabase } from '../../src/embedded/embedded-database.js';
import { migrate } from '../../src/schema/migrate.js';
import { POSTGRES_PROGRAMS, sharedPostgres } from '../support/postgres.js';
import { describeWith } from '../support/programs.js';
import { batchSuite } from './batch.suite.js';
import { boundsSuite } from './bounds.suite.js';
import { captureSuite } from './capture.suite.js';
import { foreignTriggersSuite } from './foreign-triggers.suite.js';
import { onceSuite } from './once.suite.js';
import { repositorySuite, type SuiteDatabase } from './repository.suite.js';
import { snapshotSuite } from './snapshot.suite.js';

async function openPostgres(): Promise<SuiteDatabase> {
  const server = await sharedPostgres();
  return { url: await server.createDatabase(), stop: async () => {} };
}

async function openEmbedded(): Promise<SuiteDatabase> {
  const dir = mkdtempSync(join(tmpdir(), 'taskwire-embedded-'));
  const { url, stop } = await startEmbeddedDatabase({ dir, logger: silentLogger });
  const db = connectDatabase({ url, pool: 1 });
  await migrate(db);
  await db.destroy();
  return {
    url,
    stop: async () => {
      await stop();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

describeWith(POSTGRES_PROGRAMS, 'repositories over Postgres', () => repositorySuite(openPostgres));
describeWith(POSTGRES_PROGRAMS, 'batches over Postgres', () => batchSuite(openPostgres));
describeWith(POSTGRES_PROGRAMS, 'capture over Postgres', () => captureSuite(openPostgres));
describeWith(POSTGRES_PROGRAMS, 'bounds of capture over Postgres', () => boundsSuite(openPostgres));
describeWith(POSTGRES_PROGRAMS, 'triggers of the operator over Postgres', () => foreignTriggersSuite(openPostgres));
describeWith(POSTGRES_PROGRAMS, 'writes under keys over Postgres', () => onceSuite(openPostgres));
describeWith(POSTGRES_PROGRAMS, 'snapshots over Postgres', () => snapshotSuite(openPostgres));

describe('repositories over the embedded database', () => repositorySuite(openEmbedded));
describe('batches over the embedded database', () => batchSuite(openEmbedded));
describe('capture over the embedded database', () => captureSuite(openEmbedded));
describe('bounds of capture over the embedded database', () => boundsSuite(openEmbedded));
describe('triggers of the operator over the embedded database', () => foreignTriggersSuite(openEmbedded));
describe('writes under keys over the embedded database', () => onceSuite(openEmbedded));
describe('snapshots over the embedded database', () => snapshotSuite(openEmbedded));
