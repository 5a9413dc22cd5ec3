import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from '../base/logger.js';
import { addressGroup } from '../door/client-address.js';
import type { Admission } from '../door/door.js';
import type { Connection } from '../hub/connection.js';
import type { OpenSession, Session } from '../hub/session.js';
import type { ErrorCode } from '../protocol/errors.js';
import type { StreamFormat } from '../protocol/event-stream.js';
import { keyBehind } from '../protocol/tasks.js';

/** A connection that a gateway has let in. */
export interface GatewayConnection extends Connection {
  readonly transport: 'websocket' | 'socket.io' | StreamFormat;
  /** Closes it at once; the client is told nothing. */
  terminate(): void;
  /** Pings the client, and terminates the connection without an answer within three seconds. Absent where there are no pings. */
  probe?(): void;
}

/** How long a client may take to answer such a ping, in milliseconds. */
export const PROBE_MS = 3_000;

/** A place in the registry, from admission to the end. */
export interface Place {
  readonly session: Session;
  /** Gives back whatever the connection held; idempotent. */
  release(): void;
}

/** Closes are spread over a drain in steps of this many milliseconds. */
const DRAIN_STEP_MS = 50;
/** How long the last connections may take to close before they are terminated, in milliseconds. */
const FAREWELL_MS = 2_000;

/** All connections of this worker, whatever their transport. */
export class Connections {
  /** The address group of each connection (`addressGroup`). */
  private readonly all = new Map<GatewayConnection, string>();
  private drainingNow = false;

  constructor(
    private readonly open: OpenSession,
    private readonly logger: Logger,
  ) {}

  get size(): number {
    return this.all.size;
  }

  /** Whether new connections are refused. */
  get draining(): boolean {
    return this.drainingNow;
  }

  enter(connection: GatewayConnection, admission: Admission): Place {
    this.all.set(connection, addressGroup(admission.address));
    const session = this.open(connection);
    this.logger.debug('connected', {
      connection: connection.id,
      transport: connection.transport,
      user: admission.identity.owner,
      address: admission.address,
    });
    return new TakenPlace(this, connection, session, admission);
  }

  /** Forgets a connection whose place was given back. */
  forget(connection: GatewayConnection): void {
    this.all.delete(connection);
    this.logger.debug('disconnected', { connection: connection.id });
  }

  /** Ids of the keys that have connections here, by themselves or by a token that they made. */
  keyIds(): string[] {
    return [...new Set([...this.all.keys()].flatMap(({ identity }) => keyBehind(identity) ?? []))];
  }

  /** Checks by a ping whether the connections of a key from one address are alive. */
  probe(keyId: string, group: string): void {
    for (const [connection, where] of this.all) {
      if (where === group && connection.identity.keyId === keyId) {
        connection.probe?.();
      }
    }
  }

  closeByKey(keyId: string, code: ErrorCode): void {
    for (const connection of [...this.all.keys()]) {
      if (keyBehind(connection.identity) === keyId) {
        connection.close(code);
      }
    }
  }

  /** Closes all connections, spread evenly over some seconds so that they do not all reconnect at once. */
  async drain(seconds: number): Promise<void> {
    this.drainingNow = true;
    const waiting = [...this.all.keys()];
    const steps = Math.max(1, Math.floor((seconds * 1_000) / DRAIN_STEP_MS));
    for (let step = 0; step < steps && this.all.size > 0; step += 1) {
      const share = Math.ceil(waiting.length / (steps - step));
      for (const connection of waiting.splice(0, share)) {
        connection.close('SERVER_DRAINING');
      }
      if (waiting.length === 0) {
        break;
      }
      await sleep(DRAIN_STEP_MS);
    }
    const end = performance.now() + FAREWELL_MS;
    while (this.all.size > 0 && performance.now() < end) {
      await sleep(DRAIN_STEP_MS);
    }
    for (const connection of [...this.all.keys()]) {
      connection.terminate();
    }
  }
}

class TakenPlace implements Place {
  constructor(
    private readonly connections: Connections,
    private readonly connection: GatewayConnection,
    readonly session: Session,
    private admission: Admission | undefined,
  ) {}

  release(): void {
    const { admission } = this;
    if (admission !== undefined) {
      this.admission = undefined;
      this.connections.forget(this.connection);
      this.session.close();
      admission.release();
    }
  }
}
