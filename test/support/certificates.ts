import { execFileSync } from 'node:child_process';
import { join } from 'node:path';

/** A private authority, and certificates that it signs, in a folder. */
export class Certificates {
  readonly caFile: string;

  constructor(private readonly dir: string) {
    this.caFile = join(dir, 'ca.pem');
    this.openssl('req', '-x509', ...NEW_KEY, '-keyout', 'ca.key', '-out', 'ca.pem', '-days', '2', '-subj', '/CN=ca');
  }

  /** @param name such as `IP:127.0.0.1`  @param days until it ends; less than 0: it has ended */
  issue(file: string, name: string, days = 2): { readonly cert: string; readonly key: string } {
    const request = ['-keyout', `${file}.key`, '-out', `${file}.csr`, '-subj', '/CN=test'];
    this.openssl('req', ...NEW_KEY, ...request, '-addext', `subjectAltName=${name}`);
    const signing = ['-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-days', String(days)];
    this.openssl('x509', '-req', '-in', `${file}.csr`, ...signing, '-copy_extensions', 'copy', '-out', `${file}.pem`);
    return { cert: join(this.dir, `${file}.pem`), key: join(this.dir, `${file}.key`) };
  }

  private openssl(...args: string[]): void {
    execFileSync('openssl', args, { cwd: this.dir, stdio: 'ignore' });
  }
}

const NEW_KEY = ['-newkey', 'rsa:2048', '-nodes'];
