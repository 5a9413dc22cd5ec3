import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

const hex = (port: number): string => port.toString(16).toUpperCase().padStart(4, '0');

/**
 * Which of some processes has the server's end of a TCP connection of this machine.
 * @param port of the server
 * @param clientPort of the other end
 * @returns undefined when none has it
 */
export function holderOf(port: number, clientPort: number, pids: readonly number[]): number | undefined {
  const line = readFileSync('/proc/net/tcp', 'utf8')
    .split('\n')
    .map((text) => text.trim().split(/\s+/))
    .find(([, local, remote]) => local?.endsWith(`:${hex(port)}`) && remote?.endsWith(`:${hex(clientPort)}`));
  const inode = line?.[9];
  return pids.find((pid) =>
    readdirSync(`/proc/${pid}/fd`).some((fd) => {
      try {
        return readlinkSync(`/proc/${pid}/fd/${fd}`) === `socket:[${inode}]`;
      } catch {
        return false;
      }
    }),
  );
}
