import type { Duplex } from 'node:stream';
import { type RawData, WebSocket } from 'ws';
import { CONFIRM, unsentBytes } from '../base/unsent.js';
import type { Outgoing } from '../hub/connection.js';
import type { Success } from '../hub/reply.js';
import { binaryMessage, type ClientMessage, readClientMessage } from '../protocol/client-message.js';
import { type ErrorCode, errorEntry, TaskwireError } from '../protocol/errors.js';
import { controlText, errorText } from '../protocol/messages.js';
import type { Identity } from '../protocol/tasks.js';
import { type GatewayConnection, PROBE_MS } from './connections.js';
import { costOfAnswer, costOfMessage, costOfRooms } from './cost.js';
import { plainFrame } from './frame.js';
import { MessageConnection, type MessageConnectionOptions } from './message-connection.js';
import { tooMuch } from './meter.js';
import { CLOSE_MS, type MeteredSocket } from './metered-socket.js';

/** A plain WebSocket that has been let in. */
export class PlainConnection extends MessageConnection implements GatewayConnection {
  readonly transport = 'websocket';
  heardAt = performance.now();
  pingedAt = 0;
  private confirming: (() => void) | undefined;

  constructor(
    readonly id: string,
    identity: Identity,
    private readonly ws: MeteredSocket,
    private readonly socket: Duplex,
    options: MessageConnectionOptions,
  ) {
    super(identity, ws.meter!, options);
    this.meter.listener = this;
  }

  get backlog(): number {
    return this.socket.writableLength + (this.pending?.length ?? 0);
  }

  protected get waiting(): number {
    return this.socket.writableLength;
  }

  get unsent(): number {
    return unsentBytes(this.socket) + (this.pending?.length ?? 0);
  }

  deliver(message: Outgoing): void {
    if (this.ws.readyState !== WebSocket.OPEN) {
      return;
    }
    this.meter.spend(costOfMessage(message));
    if (this.options.limits.DIRECT_FRAMES) {
      this.options.writer.add(this, plainFrame(message));
    } else if (this.admits(message.payload.length)) {
      this.ws.send(message.payload, { binary: false });
      this.watch();
    }
  }

  writeFrames(bytes: Buffer): void {
    if (this.ws.readyState === WebSocket.OPEN && this.admits(bytes.length)) {
      this.socket.write(bytes);
      this.watch();
    }
  }

  close(code: ErrorCode): void {
    const { close = errorEntry('INTERNAL_ERROR').close } = errorEntry(code);
    if (this.ws.readyState === WebSocket.OPEN) {
      this.options.writer.flush(this);
    }
    this.ws.close(close, code);
    if (code !== 'SLOW_CONSUMER') {
      setTimeout(() => this.terminate(), CLOSE_MS).unref();
    }
  }

  terminate(): void {
    this.ws.terminate();
  }

  confirm(done: () => void): void {
    this.confirming = done;
    if (this.ws.readyState === WebSocket.OPEN) {
      this.options.writer.flush(this);
      this.ws.ping(CONFIRM);
    }
  }

  /** A pong has come: to the heartbeat, or to `confirm`. */
  answered(data: Buffer): void {
    this.heard();
    if (data.toString('latin1') === CONFIRM) {
      const { confirming } = this;
      this.confirming = undefined;
      confirming?.();
    }
  }

  heard(): void {
    this.heardAt = performance.now();
    this.pingedAt = 0;
  }

  ping(): void {
    this.pingedAt = performance.now();
    if (this.ws.readyState === WebSocket.OPEN) {
      this.ws.ping();
    }
  }

  unanswered(): void {
    this.terminate();
  }

  probe(): void {
    const asked = performance.now();
    this.ping();
    setTimeout(() => {
      if (this.heardAt < asked) {
        this.terminate();
      }
    }, PROBE_MS).unref();
  }

  receive(data: RawData, isBinary: boolean): void {
    this.heard();
    this.handle(isBinary ? binaryMessage() : readClientMessage(String(data)));
  }

  handle(message: ClientMessage): void {
    if (message.error !== undefined) {
      this.answer(message.error, message.requestId);
    } else {
      this.meter.spend(costOfRooms(message.data, this.options.limits.MAX_ROOMS_PER_CONNECTION));
      this.place?.session.handle(message.type, message.data, (outcome) => {
        this.meter.spend(costOfAnswer(outcome));
        this.answer(outcome, message.requestId);
      });
    }
  }

  onSlowed(retryAfterMs: number): void {
    this.answer(tooMuch(retryAfterMs), undefined);
  }

  answer(outcome: Success | TaskwireError, requestId: string | undefined): void {
    const [type, text] =
      outcome instanceof TaskwireError
        ? (['ERROR', errorText(outcome.body, requestId)] as const)
        : ([outcome.type, successText(outcome, requestId)] as const);
    this.deliver({ type, payload: Buffer.from(text) });
  }
}

function successText({ type, message, data }: Success, requestId: string | undefined): string {
  return controlText(type, message === undefined ? data : { message, data }, { requestId });
}
