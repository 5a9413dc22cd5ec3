import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';

const PEM = /-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----/gs;

/** What is wrong with a file of certificates; TLS would take one that holds none, and then believe nobody. */
export function certificatesFault(path: string): string | undefined {
  let blocks: readonly string[];
  try {
    blocks = readFileSync(path, 'utf8').match(PEM) ?? [];
  } catch {
    return 'wants a file that can be read';
  }
  try {
    for (const block of blocks) {
      new X509Certificate(block);
    }
  } catch {
    return 'wants a file of certificates (PEM), and one in there is damaged';
  }
  return blocks.length === 0 ? 'wants a file of certificates (PEM), and there is none in it' : undefined;
}
