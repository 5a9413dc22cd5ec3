import { once } from 'node:events';
import { createServer, type Server as HttpServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Server } from 'socket.io';
import type { Admission, Admit } from '../../src/door/door.js';
import type { Connections, GatewayConnection } from '../../src/gateways/connections.js';
import { FrameWriter } from '../../src/gateways/frame-writer.js';
import { Meters } from '../../src/gateways/meter.js';
import { createSocketioGateway } from '../../src/gateways/socketio-gateway.js';
import type { TaskwireError } from '../../src/protocol/errors.js';

export const MAX_MESSAGE_BYTES = 32_768;
export const MAX_BUFFERED_BYTES = 100_000;

/** Of what is asked for and refused: a few of them are more than may wait. */
export const LONG_NAMESPACE = `/${'x'.repeat(30_000)}`;

/** Whom the door lets in when nothing else is said. */
export const ADMISSION: Admission = {
  identity: { keyId: 'k', owner: 'ada', role: 'user', rateLimit: 600 },
  address: '127.0.0.1',
  release() {},
};

/** The Socket.IO gateway alone, on a free port of 127.0.0.1, with a door and a hub that a test plays. */
export class SocketioGateway {
  /** Connections that were let in. */
  readonly entered: GatewayConnection[] = [];
  /** Type and data of what they asked. */
  readonly asked: unknown[][] = [];
  /** What the door says to a visitor. */
  admit: Admit = async () => ADMISSION;
  /** What it says before that; undefined: come near. */
  refusal: TaskwireError | undefined;
  readonly http: HttpServer = createServer();
  readonly io: Server;

  private constructor(pingMs: number, directFrames: boolean) {
    const session = {
      handle: (type: string, data: unknown) => this.asked.push([type, data]),
      fallBehind() {},
      close() {},
    };
    const connections: Pick<Connections, 'draining' | 'enter'> = {
      draining: false,
      enter: (connection, admission) => {
        this.entered.push(connection);
        return { session, release: () => admission.release() };
      },
    };
    const check = (): void => {
      if (this.refusal !== undefined) {
        throw this.refusal;
      }
    };
    this.io = createSocketioGateway({
      server: this.http,
      adapter: undefined,
      connections: connections as Connections,
      approach: { check, wait: () => () => {} },
      admit: (visitor) => this.admit(visitor),
      writer: new FrameWriter(),
      meters: new Meters({ MAX_MESSAGES_PER_SECOND: 1_000, MAX_MESSAGES_PER_SECOND_PER_KEY: 1_000 }),
      limits: {
        MAX_ROOMS_PER_CONNECTION: 256,
        MAX_MESSAGE_BYTES,
        MAX_BUFFERED_BYTES,
        PING_INTERVAL_MS: pingMs,
        PING_TIMEOUT_MS: pingMs,
        DIRECT_FRAMES: directFrames,
      },
    });
  }

  /** @param options `pingMs` interval and timeout of pings; `directFrames` whether frames go past Socket.IO */
  static async start({ pingMs = 60_000, directFrames = true } = {}): Promise<SocketioGateway> {
    const gateway = new SocketioGateway(pingMs, directFrames);
    gateway.http.listen(0, '127.0.0.1');
    await once(gateway.http, 'listening');
    return gateway;
  }

  get port(): number {
    return (this.http.address() as AddressInfo).port;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  async stop(): Promise<void> {
    this.io.engine.close();
    this.http.closeAllConnections();
    this.http.close();
    await once(this.http, 'close');
  }
}
