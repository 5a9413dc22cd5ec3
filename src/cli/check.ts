import { existsSync, readFileSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { Command } from 'commander';
import { examineRedis } from '../broker/redis/examine-redis.js';
import { describeSettings, redisSettings } from '../broker/redis/redis-settings.js';
import { type Config, loadClientConfig, loadConfig } from '../config.js';
import { checkDatabase } from './check-database.js';
import { end } from './end.js';
import type { Finding } from './finding.js';
import { json, print } from './options.js';
import { askHealth } from './remote.js';
import { table } from './table.js';

/** With fewer open files than this, connections soon use up all. */
const MIN_FILES = 10_000;
const ANSWER_MS = 5_000;

/** `taskwire check`: whether the service would work from here, with these settings. */
export function checkCommand(): Command {
  return new Command('check')
    .description(
      'tell whether the service would work from this machine with these settings; exits with 1 when something fails',
    )
    .option('--url <url>', 'also ask a running service here, as its clients reach it (default: TASKWIRE_URL)')
    .addOption(json())
    .action(async (options: { url?: string; json?: boolean }) => {
      const config = loadConfig();
      const address = options.url ?? loadClientConfig().TASKWIRE_URL;
      const findings = [
        ...(await checkDatabase(config)),
        ...(await checkRedis(config)),
        ...checkFiles(),
        ...(address === undefined ? [] : await checkService(address)),
      ];
      if (options.json) {
        print(JSON.stringify(findings));
      } else {
        const rows = findings.map(({ status, check, message, hint }) => [
          status,
          check,
          hint === undefined ? message : `${message}; ${hint}`,
        ]);
        print(table(['STATUS', 'CHECK', ''], rows));
      }
      end(findings.some(({ status }) => status === 'failed') ? 1 : 0);
    });
}

async function checkRedis(config: Config): Promise<Finding[]> {
  const settings = redisSettings(config);
  if (settings === undefined) {
    return [{ check: 'redis', status: 'ok', message: 'none: the workers of one instance need none' }];
  }
  const where = describeSettings(settings);
  const { faults, version, mode, maxmemoryPolicy } = await examineRedis(settings, config.REDIS_PREFIX);
  const findings: Finding[] = faults.map(({ lost, reason, hint }) => ({
    check: 'redis',
    status: 'failed',
    message: `${where}: ${lost}: ${reason}`,
    hint,
  }));
  if (faults.length === 0) {
    const named = version === undefined ? '' : `Redis ${version} (${mode}) `;
    findings.push({ check: 'redis', status: 'ok', message: `${named}at ${where}: publishes, listens, counts` });
  }
  if (mode === 'cluster' && settings.cluster === undefined) {
    findings.push({
      check: 'redis',
      status: 'failed',
      message: `${where} is a node of a cluster`,
      hint: 'set REDIS_CLUSTER',
    });
  }
  if (maxmemoryPolicy?.startsWith('allkeys')) {
    const message = `maxmemory-policy ${maxmemoryPolicy} may evict counts of limits`;
    findings.push({ check: 'redis', status: 'warning', message, hint: 'set noeviction or a volatile one' });
  }
  return findings;
}

/** Files that this process may open; a connection is one. */
function checkFiles(): Finding[] {
  const limits = '/proc/self/limits';
  if (!existsSync(limits)) {
    return [];
  }
  const soft = /^Max open files\s+(\S+)/m.exec(readFileSync(limits, 'utf8'))?.[1] ?? 'unlimited';
  const few = soft !== 'unlimited' && Number(soft) < MIN_FILES;
  const message = `${soft} files and connections may be open in a process`;
  return [{ check: 'files', status: few ? 'warning' : 'ok', message, hint: few ? 'raise ulimit -n' : undefined }];
}

/** Checks a running service at its public address, through the proxies before it. */
async function checkService(address: string): Promise<Finding[]> {
  try {
    const { serves, report } = await askHealth(address);
    const lost = (report['lost'] as string[] | undefined) ?? [];
    const status = report['status'] === 'healthy' ? 'ok' : serves ? 'warning' : 'failed';
    const message = `${address} is ${[report['status'], ...lost].join(', ')}`;
    return [{ check: 'service', status, message }, await checkUpgrade(address)];
  } catch (error) {
    return [{ check: 'service', status: 'failed', message: (error as Error).message }];
  }
}

/** Whether a request for a WebSocket arrives as one. It has no key: an upgrade and a refusal are both good signs. */
function checkUpgrade(address: string): Promise<Finding> {
  const target = new URL('/api/ws/tasks', address);
  const ask = target.protocol === 'https:' ? httpsRequest : httpRequest;
  return new Promise((resolve) => {
    const fail = (message: string): void =>
      resolve({ check: 'upgrade', status: 'failed', message, hint: 'let the proxy pass Upgrade and Connection on' });
    const pass = (): void => resolve({ check: 'upgrade', status: 'ok', message: 'WebSockets reach the service' });
    const request = ask(target, {
      headers: {
        Connection: 'Upgrade',
        Upgrade: 'websocket',
        'Sec-WebSocket-Version': '13',
        'Sec-WebSocket-Key': Buffer.from('taskwire check..').toString('base64'),
      },
    });
    request.setTimeout(ANSWER_MS, () => request.destroy(new Error('no answer')));
    request.on('upgrade', (_response, socket) => {
      socket.destroy();
      pass();
    });
    request.on('response', (response) => {
      response.resume();
      response.statusCode === 401 || response.statusCode === 429
        ? pass()
        : fail(`a WebSocket was answered with ${response.statusCode}`);
    });
    request.on('error', (error) => fail(`no WebSocket: ${error.message}`));
    request.end();
  });
}
