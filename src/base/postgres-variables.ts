import { parseDatabaseUrl, SSL_MODES } from './database-url.js';

type Variables = Readonly<Record<string, string | undefined>>;

/** Values of PGSSLMODE that the driver knows. */
const DRIVER_MODES: readonly string[] = SSL_MODES.filter((mode) => mode !== 'allow');
/** Files that libpq reads by a variable, and the driver only by a parameter of the URL. */
const FILES = { PGSSLROOTCERT: 'sslrootcert', PGSSLCERT: 'sslcert', PGSSLKEY: 'sslkey' } as const;
/** Variables that say where libpq connects to, when the URL does not. */
const PLACES = ['PGHOSTADDR', 'PGSERVICE'];

/**
 * Variables of libpq that have no effect on the connections of a URL, though they would have one on psql's: the driver does
 * not read them, or does not know their value.
 *
 *     PGSSLROOTCERT is not read: write sslrootcert=FILE in DATABASE_URL
 *
 * @param variable where the URL stands
 */
export function postgresVariableFaults(url: string, variable: string, given: Variables): string[] {
  const { servers, hosts } = parseDatabaseUrl(url);
  const parameters = new URL(servers[0]!.replace(/^[^?]*/, 'postgres://host/')).searchParams;
  const own = parameters.get('sslmode') ?? parameters.get('ssl');
  const mode = own ?? given['PGSSLMODE'] ?? '';
  if (own === null && mode !== '' && !DRIVER_MODES.includes(mode)) {
    return [
      `PGSSLMODE=${mode} has no effect, and nothing is encrypted: write sslmode=${SSL_MODES.includes(mode) ? mode : 'verify-full'} in ${variable}`,
    ];
  }
  const encrypted = !['', 'disable', '0'].includes(mode);
  const faults = Object.entries(FILES).flatMap(([name, parameter]) =>
    given[name] && encrypted && !parameters.has(parameter) && !(name === 'PGSSLROOTCERT' && mode === 'no-verify')
      ? [`${name} is not read: write ${parameter}=FILE in ${variable}`]
      : [],
  );
  const places = hosts.every((host) => host === '') ? PLACES.filter((name) => given[name]) : [];
  return [...faults, ...places.map((name) => `${name} is not read: write the host in ${variable}`)];
}
