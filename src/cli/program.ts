import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Command, InvalidArgumentError, Option } from 'commander';
import { run } from '../cluster/run.js';
import { loadClientConfig, loadConfig } from '../config.js';
import { ROLES, type Role } from '../protocol/tasks.js';
import { ApiKeyRepository } from '../repository/api-key-repository.js';
import { migrate } from '../repository/migrate.js';
import { announceRevoked } from './announce.js';
import { askHealth, askStats, localUrl } from './remote.js';
import { renewEpochsCommand } from './renew-epochs.js';
import { table } from './table.js';
import { withDatabase } from './with-database.js';

/** The program that the primary and its workers run. */
const CLUSTER = fileURLToPath(new URL('../../cluster.js', import.meta.url));
const { version } = JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')) as {
  version: string;
};

const json = (): Option => new Option('--json', 'print JSON, for scripts');
const url = (): Option =>
  new Option('--url <url>', 'address of the service (default: TASKWIRE_URL; without it this machine, at PORT)');

/** Where the service is that a command asks. */
const addressOf = (options: { url?: string }): string =>
  options.url ?? loadClientConfig().TASKWIRE_URL ?? localUrl(loadConfig());

/** The command line: `taskwire start | migrate | renew-epochs | stats | health | keys`. */
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
        const steps = await migrate(db);
        print(steps.length === 0 ? 'The schema is up to date.' : `Done: ${steps.join(', ')}.`);
      }),
    );

  program.addCommand(renewEpochsCommand());

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
  return program;
}

function keysCommand(): Command {
  const keys = new Command('keys').description('make, list and disable API keys, in the database itself');

  keys
    .command('create')
    .description('make a key; it is printed this once')
    .requiredOption('--owner <id>', 'the user whose tasks it shows')
    .addOption(new Option('--role <role>').choices(ROLES).default('user'))
    .option(
      '--rate-limit <requests>',
      'REST requests and connections per minute (default: DEFAULT_RATE_LIMIT)',
      positive,
    )
    .option('--name <name>', 'a note for the list')
    .addOption(json())
    .action((options: { owner: string; role: Role; rateLimit?: number; name?: string; json?: boolean }) =>
      withDatabase(async (db, config) => {
        await migrate(db);
        const { owner, role, name, rateLimit = config.DEFAULT_RATE_LIMIT } = options;
        const { key, record } = await new ApiKeyRepository(db).create({ owner, role, rateLimit, name });
        print(options.json ? JSON.stringify({ key, ...record }) : key);
      }),
    );

  keys
    .command('list')
    .description('list all keys, oldest first; a key itself is known only to whoever made it')
    .addOption(json())
    .action((options: { json?: boolean }) =>
      withDatabase(async (db) => {
        await migrate(db);
        const records = await new ApiKeyRepository(db).list();
        if (options.json) {
          print(JSON.stringify(records));
          return;
        }
        const rows = records.map(({ keyId, prefix, owner, role, rateLimit, active, lastUsedAt, name }) => [
          keyId,
          `${prefix}...`,
          owner,
          role,
          String(rateLimit),
          active ? 'active' : 'disabled',
          lastUsedAt ?? 'never',
          name ?? '',
        ]);
        print(table(['ID', 'KEY', 'OWNER', 'ROLE', 'PER MINUTE', 'STATE', 'LAST USED', 'NAME'], rows));
      }),
    );

  keys
    .command('disable')
    .description(
      'end a key for good; its connections are closed at once with REDIS_URL, otherwise within about API_KEY_CACHE_MS',
    )
    .argument('<id>', 'from `taskwire keys list`')
    .action((id: string) =>
      withDatabase(async (db, config) => {
        await migrate(db);
        if (!(await new ApiKeyRepository(db).disable(id))) {
          throw new Error(`There is no key with the ID ${JSON.stringify(id)}; see taskwire keys list`);
        }
        print(`Disabled ${id}.`);
        await announceRevoked(config, id).catch((error) => {
          const { message } = error as Error;
          process.stderr.write(
            `Redis did not take the news (${message}); workers notice within about API_KEY_CACHE_MS.\n`,
          );
        });
      }),
    );

  return keys;
}

function positive(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1) {
    throw new InvalidArgumentError('It wants a positive whole number.');
  }
  return value;
}

function print(text: string): void {
  process.stdout.write(`${text}\n`);
}
