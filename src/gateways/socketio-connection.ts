import type { Writable } from 'node:stream';
import type { Socket } from 'socket.io';
import { CONFIRM, unsentBytes } from '../base/unsent.js';
import type { Admission } from '../door/door.js';
import type { Outgoing } from '../hub/connection.js';
import type { Success } from '../hub/reply.js';
import { type ErrorCode, errorEntry, TaskwireError } from '../protocol/errors.js';
import { controlText, errorText } from '../protocol/messages.js';
import { type Connections, type GatewayConnection, PROBE_MS } from './connections.js';
import { costOfAnswer, costOfMessage, costOfRooms } from './cost.js';
import { cutOff, type EngineConnection, type EngineSession } from './engine.js';
import { socketioFrame, socketioPacket } from './frame.js';
import { MessageConnection, type MessageConnectionOptions } from './message-connection.js';
import { tooMuch } from './meter.js';
import { CLOSE_MS, SLOW_CLOSE_MS } from './metered-socket.js';

export interface SocketioConnectionOptions extends MessageConnectionOptions {
  readonly connections: Connections;
}

const WS_OPEN = 1;

/** About the bytes of an acknowledgement, and of each room in it. */
const ACK_BYTES = 200;
const ACK_ROOM_BYTES = 250;

const EXTRA_ARGUMENTS =
  'An event takes one argument, the data, as in emit("SUBSCRIBE", { room: "job:123" }), and an acknowledgement';

export type Ack = (answer: unknown) => void;

export interface SocketData {
  connection?: SocketioConnection;
}

export type TaskSocket = Socket<Record<string, never>, Record<string, never>, Record<string, never>, SocketData>;

/** A connection that is in the namespace, or about to be. */
export class SocketioConnection extends MessageConnection implements GatewayConnection {
  readonly transport = 'socket.io';
  readonly id: string;
  private admission: Admission | undefined;
  /** Bytes given to Engine.IO since its queue was last empty. */
  private queued = 0;
  private closing = false;

  constructor(
    private readonly socket: TaskSocket,
    private readonly engine: EngineConnection,
    admission: Admission,
    private readonly session: EngineSession,
    protected override readonly options: SocketioConnectionOptions,
  ) {
    super(admission.identity, session.meter, options);
    session.listener = this;
    this.id = socket.id;
    this.admission = admission;
  }

  begin(): void {
    if (this.admission !== undefined) {
      this.place = this.options.connections.enter(this, this.admission);
      this.admission = undefined;
    }
  }

  end(): void {
    this.closing = true;
    this.place?.release();
    this.admission?.release();
    this.admission = undefined;
  }

  get backlog(): number {
    if (this.engine.writeBuffer.length === 0) {
      this.queued = 0;
    }
    return (this.rawSocket?.writableLength ?? 0) + this.queued + (this.pending?.length ?? 0);
  }

  protected get waiting(): number {
    return this.backlog;
  }

  get unsent(): number {
    const { rawSocket } = this;
    return (rawSocket === undefined ? 0 : unsentBytes(rawSocket)) + this.queued + (this.pending?.length ?? 0);
  }

  deliver(message: Outgoing): void {
    if (this.closing) {
      return;
    }
    this.meter.spend(costOfMessage(message));
    if (this.direct) {
      this.options.writer.add(this, socketioFrame(message));
      return;
    }
    this.options.writer.flush(this);
    const packet = socketioPacket(message);
    if (this.admits(packet.length)) {
      this.queued += packet.length;
      this.engine.write(packet, { compress: false });
      this.watch();
    }
  }

  writeFrames(bytes: Buffer): void {
    const { rawSocket } = this;
    if (rawSocket !== undefined && this.admits(bytes.length)) {
      rawSocket.write(bytes);
      this.watch();
    }
  }

  close(code: ErrorCode): void {
    if (this.closing) {
      return;
    }
    const { close, retry } = errorEntry(code);
    this.options.writer.flush(this);
    if (this.closing) {
      // Too much was waiting, and the flush has closed it.
      return;
    }
    if (retry === 'never') {
      // A client that is disconnected by the server does not come back by itself.
      this.send('ERROR', errorText(new TaskwireError(code).body));
      this.options.writer.flush(this);
      this.closing = true;
      this.socket.disconnect(true);
    } else {
      if (code === 'TOKEN_EXPIRED') {
        // The end of the transport alone does not say that a new token is needed.
        this.send('ERROR', errorText(new TaskwireError(code).body));
        this.options.writer.flush(this);
      }
      this.closing = true;
      const ws = this.engine.transport.socket;
      if (ws !== undefined && (code === 'SLOW_CONSUMER' || this.engine.writeBuffer.length === 0)) {
        // Engine.IO would give no reason, and would wait for its queue, which is stuck for a slow reader.
        ws.close(close, code);
      } else if (ws !== undefined) {
        // What waits goes out first.
        this.engine.once('drain', () => ws.close(close, code));
      } else {
        this.engine.close();
      }
    }
    setTimeout(() => this.terminate(), code === 'SLOW_CONSUMER' ? SLOW_CLOSE_MS : CLOSE_MS).unref();
  }

  confirm(done: () => void): void {
    this.options.writer.flush(this);
    const ws = this.engine.transport.socket;
    if (ws === undefined || this.engine.upgrading) {
      // A client sends the next poll when the answer to the one before has arrived.
      setImmediate(done);
      return;
    }
    const onPong = (data: Buffer): void => {
      if (data.toString('latin1') === CONFIRM) {
        ws.off('pong', onPong);
        done();
      }
    };
    ws.on('pong', onPong);
    ws.ping(CONFIRM);
  }

  terminate(): void {
    this.closing = true;
    cutOff(this.engine);
  }

  probe(): void {
    const asked = performance.now();
    this.engine.sendPacket('ping');
    setTimeout(() => {
      if (this.session.heardAt < asked) {
        this.terminate();
      }
    }, PROBE_MS).unref();
  }

  receive(type: string, args: readonly unknown[], ack: Ack | undefined): void {
    const answer = (outcome: Success | TaskwireError): void => {
      this.meter.spend(costOfAnswer(outcome));
      if (ack !== undefined) {
        // What was delivered before comes first.
        this.options.writer.flush(this);
        if (this.admits(ackBytes(outcome))) {
          this.queued += ackBytes(outcome);
          ack(outcome instanceof TaskwireError ? { error: outcome.body } : outcome.data);
        }
      } else if (outcome instanceof TaskwireError) {
        this.send('ERROR', errorText(outcome.body));
      } else {
        this.send(outcome.type, envelopeOf(outcome));
      }
    };
    if (args.length > 1) {
      answer(new TaskwireError('INVALID_MESSAGE', { message: EXTRA_ARGUMENTS }));
    } else {
      this.meter.spend(costOfRooms(args[0], this.options.limits.MAX_ROOMS_PER_CONNECTION));
      this.place?.session.handle(type, args[0], answer);
    }
  }

  onSlowed(retryAfterMs: number): void {
    this.send('ERROR', errorText(tooMuch(retryAfterMs).body));
  }

  private send(type: Outgoing['type'], text: string): void {
    this.deliver({ type, payload: Buffer.from(text) });
  }

  /** Whether a frame written to the socket keeps its place among what Engine.IO has written and will write. */
  private get direct(): boolean {
    const { engine } = this;
    return (
      this.options.limits.DIRECT_FRAMES &&
      engine.readyState === 'open' &&
      engine.transport.name === 'websocket' &&
      !engine.upgrading &&
      engine.writeBuffer.length === 0 &&
      this.rawSocket !== undefined
    );
  }

  private get rawSocket(): Writable | undefined {
    const ws = this.engine.transport.socket;
    return ws?.readyState === WS_OPEN ? (ws._socket ?? undefined) : undefined;
  }
}

function ackBytes(outcome: Success | TaskwireError): number {
  const { rooms, positions } = (outcome instanceof TaskwireError ? {} : outcome.data) as Record<string, unknown>;
  const list = rooms ?? positions;
  return ACK_BYTES + (Array.isArray(list) ? list.length * ACK_ROOM_BYTES : 0);
}

const envelopeOf = ({ type, message, data }: Success): string =>
  controlText(type, message === undefined ? data : { message, data });
