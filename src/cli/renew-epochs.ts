import { Command } from 'commander';
import { EventLog } from '../repository/event-log.js';
import { migrate } from '../schema/migrate.js';
import { warn } from './options.js';
import { withDatabase } from './with-database.js';

/** What to do with a database that came from a backup, before the service starts on it, and after changes that nobody heard of. */
export function renewEpochsCommand(): Command {
  return new Command('renew-epochs')
    .description('after a restore from a backup, or changes without capture: have all clients start from snapshots')
    .action(() =>
      withDatabase(async (db) => {
        await migrate(db, { onWarning: warn });
        process.stdout.write(`New epochs: ${await new EventLog(db).renewEpochs()}.\n`);
      }),
    );
}
