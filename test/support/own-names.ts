import dns from 'node:dns';
import { syncBuiltinESMExports } from 'node:module';

/** The variable that says where processes ask that this module is loaded into (`preload` of an instance). */
export const NAME_SERVER_PORT = 'TEST_NAME_SERVER_PORT';

/**
 * Has this process ask a DNS server of the test for names that end in `.test`, where it would ask the system.
 * @returns ends that
 */
export function askNameServer(port: number): () => void {
  const { lookup } = dns;
  const resolver = new dns.Resolver({ timeout: 1_000, tries: 2 });
  resolver.setServers([`127.0.0.1:${port}`]);
  const ours = (host: string, options: dns.LookupOptions, done: (...answer: unknown[]) => void): void => {
    if (!host.endsWith('.test')) {
      lookup(host, options, done);
      return;
    }
    resolver.resolve4(host, (error, addresses) => {
      const found = (addresses ?? []).map((address) => ({ address, family: 4 }));
      if (error !== null) {
        // The system's words for it.
        done(Object.assign(new Error(`getaddrinfo ENOTFOUND ${host}`), { code: 'ENOTFOUND', hostname: host }));
      } else if (options.all === true) {
        done(null, found);
      } else {
        done(null, found[0]!.address, 4);
      }
    });
  };
  dns.lookup = ours as unknown as typeof dns.lookup;
  syncBuiltinESMExports();
  return () => {
    dns.lookup = lookup;
    syncBuiltinESMExports();
  };
}

const port = process.env[NAME_SERVER_PORT];
if (port !== undefined) {
  askNameServer(Number(port));
}
