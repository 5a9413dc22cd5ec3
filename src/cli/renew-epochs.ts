import { Command } from 'commander';
import { EventLog } from '../repository/event-log.js';
import { migrate } from '../repository/migrate.js';
import { withDatabase } from './with-database.js';

/** What to do with a database that came from a backup, before the service starts on it. */
export function renewEpochsCommand(): Command {
  return new Command('renew-epochs')
    .description('after a restore from a backup: have clients that were here before start from snapshots')
    .action(() =>
      withDatabase(async (db) => {
        await migrate(db);
        process.stdout.write(`New epochs: ${await new EventLog(db).renewEpochs()}.\n`);
      }),
    );
}
