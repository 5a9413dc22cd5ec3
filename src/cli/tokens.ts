import { Command } from 'commander';
import { loadClientConfig } from '../config.js';
import { addressOf, json, list, print, seconds, url } from './options.js';
import { askToken } from './remote.js';

/** `taskwire tokens create`: what `POST /api/tokens` does. */
export function tokensCommand(): Command {
  const create = new Command('create')
    .description('make a token for a browser: it reads, for a time, and shows no more than the key does')
    .option('--rooms <rooms>', 'the rooms that it shows, such as job:1,task:7', list)
    .option('--user <id>', 'instead: all rooms of this user')
    .option('--expires-in <time>', 'how long it is valid, such as 90, 15m or 12h', seconds, 900)
    .option('--api-key <key>', 'the key that makes it (default: TASKWIRE_API_KEY)')
    .addOption(url())
    .addOption(json())
    .action(
      async (options: {
        rooms?: string[];
        user?: string;
        expiresIn: number;
        apiKey?: string;
        url?: string;
        json?: boolean;
      }) => {
        const { apiKey = loadClientConfig().TASKWIRE_API_KEY, rooms, user, expiresIn } = options;
        if (apiKey === undefined) {
          throw new Error('A token is made with a key: give --api-key or TASKWIRE_API_KEY');
        }
        const made = await askToken(addressOf(options), apiKey, {
          ...(rooms === undefined ? {} : { rooms }),
          ...(user === undefined ? {} : { user }),
          expires_in: expiresIn,
        });
        print(options.json ? JSON.stringify(made) : made.token);
      },
    );
  return new Command('tokens').description('make tokens for browsers, by a running service').addCommand(create);
}
