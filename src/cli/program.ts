import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Command } from 'commander';
import { run } from '../cluster/run.js';
import { loadClientConfig } from '../config.js';
import { migrate } from '../schema/migrate.js';
import { checkCommand } from './check.js';
import { keysCommand } from './keys.js';
import { addressOf, json, print, url, warn } from './options.js';
import { askHealth, askStats } from './remote.js';
import { renewEpochsCommand } from './renew-epochs.js';
import { table } from './table.js';
import { tokensCommand } from './tokens.js';
import { withDatabase } from './with-database.js';

/** The program that the primary and its workers run. */
const CLUSTER = fileURLToPath(new URL('../../cluster.js', import.meta.url));
const { version } = JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')) as {
  version: string;
};

/** The command line: `taskwire start | migrate | renew-epochs | check | stats | health | keys | tokens`. */
export function createProgram(): Command {
  const program = new Command('taskwire')
    .description(
      'Task data for frontends in real time. All settings come from the environment; .env.example lists them.',
    )
    .version(version)
    .showHelpAfterError();

  program
    .command('start')
    .description('start the service in the foreground')
    .action(() => run(CLUSTER));

  program
    .command('migrate')
    .description("bring the database's schema up to date; `start` does this too")
    .action(() =>
      withDatabase(async (db) => {
        const steps = await migrate(db, { onWarning: warn });
        print(steps.length === 0 ? 'The schema is up to date.' : `Done: ${steps.join(', ')}.`);
      }),
    );

  program.addCommand(renewEpochsCommand());
  program.addCommand(checkCommand());

  program
    .command('stats')
    .description('print clients and rooms of the whole cluster')
    .addOption(url())
    .option(
      '--api-key <key>',
      'key of role service or admin (default: TASKWIRE_API_KEY); on the same machine none is needed',
    )
    .option('--room <room>', 'only this room, such as job:42')
    .addOption(json())
    .action(async (options: { url?: string; apiKey?: string; room?: string; json?: boolean }) => {
      const { apiKey = loadClientConfig().TASKWIRE_API_KEY, room } = options;
      const stats = await askStats(addressOf(options), { apiKey, room });
      if (options.json) {
        print(JSON.stringify(stats));
        return;
      }
      const { total_clients, total_rooms, rooms, rooms_truncated, nodes, partial } = stats;
      print(
        `clients ${total_clients}   rooms ${total_rooms}   workers ${nodes}${partial ? '   (some did not answer)' : ''}`,
      );
      const rows = Object.entries(rooms).map(([room, members]) => [room, String(members)]);
      if (rows.length > 0) {
        print(`\n${table(['ROOM', 'CLIENTS'], rows)}${rooms_truncated ? '\n...' : ''}`);
      }
    });

  program
    .command('health')
    .description('print the state of the service; exits with 0 while it serves and with 1 when it does not')
    .addOption(url())
    .addOption(json())
    .action(async (options: { url?: string; json?: boolean }) => {
      const { serves, report } = await askHealth(addressOf(options));
      print(options.json ? JSON.stringify(report) : String(report['status']));
      process.exitCode = serves ? 0 : 1;
    });

  program.addCommand(keysCommand());
  program.addCommand(tokensCommand());
  return program;
}
