import { Argument, Command, Option } from 'commander';
import { createLogger } from '../base/logger.js';
import type { Config } from '../config.js';
import { auditKey, commandLineEditor, type KeyEvent, keySummary } from '../door/key-audit.js';
import { ROLES, type Role, SCOPES, type Scope } from '../protocol/tasks.js';
import { type ApiKeyRecord, ApiKeyRepository } from '../repository/api-key-repository.js';
import { migrate } from '../schema/migrate.js';
import { announceKey } from './announce.js';
import { json, list, positive, print, seconds, warn } from './options.js';
import { table } from './table.js';
import { withDatabase } from './with-database.js';

const ID = new Argument('<id>', 'from `taskwire keys list`');
/** Default overlap, in seconds: a day in which everybody who uses the key can change to the new one. */
const OVERLAP_SECONDS = 86_400;

/** `taskwire keys ...`: what the keys' routes do, in the database itself. */
export function keysCommand(): Command {
  return new Command('keys')
    .description('make, list, change and disable API keys, in the database itself')
    .addCommand(createCommand())
    .addCommand(listCommand())
    .addCommand(rotateCommand())
    .addCommand(limitCommand())
    .addCommand(enableCommand())
    .addCommand(disableCommand());
}

/** Writes the line of the log that the service writes when it changes a key. */
type Audit = (event: KeyEvent, fields: Readonly<Record<string, unknown>>) => void;

const onKeys = (work: (keys: ApiKeyRepository, config: Config, audit: Audit) => Promise<void>): Promise<void> =>
  withDatabase(async (db, config) => {
    await migrate(db, { onWarning: warn });
    const logger = createLogger({ level: config.LOG_LEVEL, format: config.LOG_FORMAT });
    const editor = commandLineEditor();
    await work(new ApiKeyRepository(db), config, (event, fields) => auditKey(logger, editor, event, fields));
  });

function createCommand(): Command {
  return new Command('create')
    .description('make a key; it is printed this once')
    .requiredOption('--owner <id>', 'the user whose tasks it shows')
    .addOption(new Option('--role <role>', 'reader only reads').choices(ROLES).default('user'))
    .option(
      '--rate-limit <requests>',
      'REST requests and connections per minute (default: DEFAULT_RATE_LIMIT)',
      positive,
    )
    .option('--name <name>', 'a note for the list')
    .option('--scopes <scopes>', `some of what the role may do, such as read,write (of ${SCOPES.join(', ')})`, list)
    .option('--expires-in <time>', 'when it ends, such as 12h or 30d (default: never)', seconds)
    .addOption(json())
    .action(
      (options: {
        owner: string;
        role: Role;
        rateLimit?: number;
        name?: string;
        scopes?: Scope[];
        expiresIn?: number;
        json?: boolean;
      }) =>
        onKeys(async (keys, config, audit) => {
          const { owner, role, name, scopes, rateLimit = config.DEFAULT_RATE_LIMIT, expiresIn } = options;
          const expires_at =
            expiresIn === undefined ? undefined : new Date(Date.now() + expiresIn * 1_000).toISOString();
          const { key, record } = await keys.create({ owner, role, rate_limit: rateLimit, name, scopes, expires_at });
          audit('key created', keySummary(record));
          print(options.json ? JSON.stringify({ key, ...record }) : key);
        }),
    );
}

function listCommand(): Command {
  return new Command('list')
    .description('list all keys, oldest first; a key itself is known only to whoever made it')
    .addOption(json())
    .action((options: { json?: boolean }) =>
      onKeys(async (keys) => {
        const records = await keys.list();
        if (options.json) {
          print(JSON.stringify(records));
          return;
        }
        const rows = records.map((record) => [
          record.key_id,
          `${record.prefix}...`,
          record.owner,
          record.role,
          String(record.rate_limit),
          stateOf(record),
          record.last_used_at ?? 'never',
          record.name ?? '',
        ]);
        print(table(['ID', 'KEY', 'OWNER', 'ROLE', 'PER MINUTE', 'STATE', 'LAST USED', 'NAME'], rows));
      }),
    );
}

function stateOf({ active, expires_at }: ApiKeyRecord): string {
  if (!active) {
    return 'disabled';
  }
  if (expires_at === null) {
    return 'active';
  }
  return Date.parse(expires_at) <= Date.now() ? 'expired' : `until ${expires_at}`;
}

function rotateCommand(): Command {
  return new Command('rotate')
    .description('replace a key by a new one, which is printed this once; both are valid for a time')
    .addArgument(ID)
    .option('--overlap <time>', 'how long the old one stays valid, such as 0, 15m or 7d', seconds, OVERLAP_SECONDS)
    .addOption(json())
    .action((id: string, options: { overlap: number; json?: boolean }) =>
      onKeys(async (keys, config, audit) => {
        const { key, record } = found(id, await keys.rotate(id, options.overlap));
        audit('key rotated', { ...keySummary(record), replaces: id, overlap_seconds: options.overlap });
        print(options.json ? JSON.stringify({ key, ...record, replaces: id }) : key);
        await tell(config, options.overlap === 0 ? 'key-revoked' : 'key-changed', id);
      }),
    );
}

function limitCommand(): Command {
  return new Command('limit')
    .description('change how many REST requests and connections a key has per minute')
    .addArgument(ID)
    .argument('<requests>', 'per minute', positive)
    .action((id: string, requests: number) =>
      onKeys(async (keys, config, audit) => {
        found(id, await keys.limit(id, requests));
        audit('key changed', { key_id: id, rate_limit: requests });
        print(`${id} has ${requests} requests per minute.`);
        await tell(config, 'key-changed', id);
      }),
    );
}

function enableCommand(): Command {
  return new Command('enable')
    .description('make a disabled key valid again')
    .addArgument(ID)
    .action((id: string) =>
      onKeys(async (keys, config, audit) => {
        found(id, await keys.enable(id));
        audit('key changed', { key_id: id, active: true });
        print(`Enabled ${id}.`);
        await tell(config, 'key-changed', id);
      }),
    );
}

function disableCommand(): Command {
  return new Command('disable')
    .description(
      'disable a key, or all of an owner; their connections are closed at once with Redis, otherwise within about API_KEY_CACHE_MS',
    )
    .argument('[id]', 'from `taskwire keys list`')
    .option('--owner <id>', 'all keys of this user instead')
    .action((id: string | undefined, { owner }: { owner?: string }) =>
      onKeys(async (keys, config, audit) => {
        if ((id === undefined) === (owner === undefined)) {
          throw new Error('Name a key or an --owner');
        }
        let disabled: readonly string[];
        if (id !== undefined) {
          found(id, (await keys.disable(id)) || undefined);
          audit('key disabled', { key_id: id });
          disabled = [id];
        } else {
          disabled = await keys.disableByOwner(owner!);
          audit('keys disabled', { owner, key_ids: disabled });
        }
        for (const keyId of disabled) {
          print(`Disabled ${keyId}.`);
          await tell(config, 'key-revoked', keyId);
        }
      }),
    );
}

function found<Value>(id: string, value: Value | undefined): Value {
  if (value === undefined) {
    throw new Error(`There is no key with the ID ${JSON.stringify(id)}; see taskwire keys list`);
  }
  return value;
}

async function tell(config: Config, type: 'key-revoked' | 'key-changed', keyId: string): Promise<void> {
  await announceKey(config, type, keyId).catch((error) => {
    const { message } = error as Error;
    process.stderr.write(
      `Redis could not be told (${message}): the workers notice the change within about API_KEY_CACHE_MS.\n`,
    );
  });
}
