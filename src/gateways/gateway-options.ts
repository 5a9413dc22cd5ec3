import type { Server } from 'node:http';
import type { Approach } from '../door/approach.js';
import type { Admit } from '../door/door.js';
import type { Connections } from './connections.js';
import type { MessageConnectionOptions } from './message-connection.js';
import type { Meters } from './meter.js';

/** What the gateways of both message transports are made of. */
export interface GatewayOptions extends MessageConnectionOptions {
  readonly server: Server;
  readonly connections: Connections;
  readonly approach: Pick<Approach, 'check' | 'wait'>;
  readonly admit: Admit;
  readonly meters: Meters;
  readonly limits: MessageConnectionOptions['limits'] & {
    readonly MAX_MESSAGE_BYTES: number;
    readonly PING_INTERVAL_MS: number;
    readonly PING_TIMEOUT_MS: number;
  };
}
