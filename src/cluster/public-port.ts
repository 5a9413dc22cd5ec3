import type { Server } from 'node:net';
import type { Logger } from '../base/logger.js';
import { closePort, listen, type PortAddress } from '../base/port.js';

/**
 * The public port of the primary. It is open while a worker can serve, and closed otherwise: a proxy whose connection is refused knows
 * that nothing was sent, and asks another instance.
 */
export class PublicPort {
  private wanted = false;
  private changing: Promise<void> = Promise.resolve();

  /** @param onError told when the port cannot be opened */
  constructor(
    private readonly server: Server,
    private address: PortAddress,
    private readonly logger: Logger,
    private readonly onError: (error: unknown) => void,
  ) {
    server.on('error', (error) => {
      if (server.listening) {
        logger.error('a connection could not be accepted', { error });
      }
    });
  }

  /** Opens or closes it. */
  set(open: boolean): void {
    this.wanted = open;
    this.changing = this.changing.then(() => this.change()).catch(this.onError);
  }

  /** Resolves when the port is open or closed, as it was set last. */
  settled(): Promise<void> {
    return this.changing;
  }

  private async change(): Promise<void> {
    const { server, address } = this;
    if (this.wanted && !server.listening) {
      await listen(server, address);
      // PORT=0 takes a free port. When it opens again, clients expect the same one.
      this.address = { ...address, port: (server.address() as { port: number }).port };
      this.logger.info('port opened', { port: this.address.port });
    } else if (!this.wanted && server.listening) {
      await closePort(server);
      this.logger.info('port closed', { port: this.address.port });
    }
  }
}
