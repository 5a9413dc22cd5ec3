import type { Writable } from 'node:stream';
import { errorEntry, type TaskwireError } from '../protocol/errors.js';
import type { Meter, MeterListener, Meters } from './meter.js';
import { MeteredPolling, type PollingTransport } from './metered-polling.js';
import { CLOSE_MS, type MeteredSocket } from './metered-socket.js';

/** What the gateway uses of an Engine.IO connection, of Engine.IO's own and of `EngineWebsocket`. */
export interface EngineConnection {
  readonly id: string;
  readonly readyState: 'opening' | 'open' | 'closing' | 'closed';
  readonly upgrading: boolean;
  readonly writeBuffer: readonly unknown[];
  readonly transport: {
    readonly name: string;
    /** The `ws` socket of a WebSocket transport. */
    readonly socket?: EngineSocket;
  };
  request: unknown;
  write(packet: string, options: { compress: boolean }): void;
  close(discard?: boolean): void;
  sendPacket(type: 'ping'): void;
  /** It has ended, it goes on with another transport, or a packet came. */
  on(event: 'close' | 'upgrade' | 'packet', listener: () => void): void;
  /** A packet is about to join the queue. */
  on(event: 'packetCreate', listener: (packet: { data?: unknown }) => void): void;
  /** All packets of the queue were handed to the transport. */
  once(event: 'drain', listener: () => void): void;
}

/** A WebSocket, with the part of `ws` that its frames are written to. */
export type EngineSocket = MeteredSocket & { readonly _socket: Writable | null };

/** Closes a connection when what waits is sent, or after a while. */
export function closeEngine(engine: EngineConnection): void {
  engine.close();
  cutOffLater(engine);
}

function cutOffLater(engine: EngineConnection): void {
  setTimeout(cutOff, CLOSE_MS, engine).unref();
}

export function cutOff(engine: EngineConnection): void {
  // Engine.IO may have closed already while its WebSocket still waits for the client's close frame.
  engine.transport.socket?.terminate();
  if (engine.readyState !== 'closed') {
    engine.close(true);
  }
}

/** State of a connection from its beginning, before its owner is known. */
export class EngineSession implements MeterListener {
  readonly meter: Meter;
  /** When a packet came last. */
  heardAt = performance.now();
  /** Gets the calls of the meter after the connection was admitted. */
  listener: MeterListener | undefined;
  private polling: MeteredPolling | undefined;

  constructor(
    private readonly engine: EngineConnection,
    meters: Meters,
    /** Leaves the waiting room. */
    private readonly leave: () => void,
  ) {
    const { socket } = engine.transport;
    this.meter = socket?.meter ?? meters.stranger();
    this.meter.listener = this;
    if (socket === undefined) {
      this.polling = new MeteredPolling(engine.transport as unknown as PollingTransport, this.meter);
    }
  }

  /** Its owner is known. */
  admitted(): void {
    this.leave();
  }

  /** It goes on over a WebSocket. */
  upgraded(): void {
    this.polling?.end();
    this.polling = undefined;
    const { socket } = this.engine.transport;
    if (socket !== undefined) {
      socket.meter = this.meter;
    }
  }

  /** It has ended. */
  end(): void {
    this.leave();
    this.polling?.end();
    // It counts for nobody any more, so a client that does not confirm the end is not waited for.
    const { socket } = this.engine.transport;
    if (socket !== undefined && socket.readyState !== socket.CLOSED) {
      cutOffLater(this.engine);
    }
  }

  /**
   * Ends the transport, so that a client that listens to nothing comes back by itself. One that listens finds the reason in
   * the details of its `disconnect`: the close code of a WebSocket, or the status and the body of a poll.
   */
  turnAway(error: TaskwireError): void {
    const { engine, polling } = this;
    const { socket } = engine.transport;
    const { status, close = errorEntry('INTERNAL_ERROR').close } = errorEntry(error.code);
    cutOffLater(engine);
    if (socket !== undefined) {
      socket.close(close, error.code);
    } else if (polling !== undefined) {
      polling.refuse(status, JSON.stringify({ error: error.body }), () => engine.close(true));
    } else {
      engine.close(true);
    }
  }

  onSlowed(retryAfterMs: number): void {
    this.listener?.onSlowed(retryAfterMs);
  }

  onExceeded(): void {
    if (this.listener === undefined) {
      cutOff(this.engine);
    } else {
      this.listener.onExceeded();
    }
  }
}
