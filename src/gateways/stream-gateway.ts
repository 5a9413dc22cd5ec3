import type { IncomingMessage, ServerResponse } from 'node:http';
import { OccasionalTimer } from '../base/occasional-timer.js';
import type { Admission, Admit } from '../door/door.js';
import type { Outgoing } from '../hub/connection.js';
import type { Success } from '../hub/reply.js';
import { type ErrorCode, errorEntry, TaskwireError, toTaskwireError } from '../protocol/errors.js';
import {
  eventIdOf,
  farewell,
  isEventType,
  retryLine,
  STREAM_CONTENT_TYPES,
  type StreamFormat,
  type StreamRequest,
} from '../protocol/event-stream.js';
import { controlText, type Positions, type SubscribeResult } from '../protocol/messages.js';
import type { Identity } from '../protocol/tasks.js';
import type { Connections, GatewayConnection, Place } from './connections.js';
import { costOfMessage, costOfReplayed } from './cost.js';
import { ndjsonFrame, sseFrame } from './frame.js';
import type { FrameChain, FrameSink, FrameWriter } from './frame-writer.js';
import type { Meter, MeterListener, Meters } from './meter.js';

export interface StreamGatewayOptions {
  readonly connections: Connections;
  readonly admit: Admit;
  readonly writer: FrameWriter;
  readonly meters: Meters;
  readonly limits: { readonly MAX_BUFFERED_BYTES: number; readonly PING_INTERVAL_MS: number };
}

export interface StreamGateway {
  /**
   * Answers a request with the messages of one room, as they come, until one side ends it.
   * @returns when the stream is live or has ended already
   * @throws TaskwireError when it is refused and nothing has been answered: those of the door, and those of a SUBSCRIBE
   */
  open(request: IncomingMessage, response: ServerResponse, wanted: StreamRequest): Promise<void>;
  /** Ends timers; connections are ended by the registry. */
  stop(): void;
}

/** How long a closed connection may take to read what was sent before, in milliseconds. */
const CLOSE_MS = 5_000;

/** Server-Sent Events and NDJSON: a room's messages as an HTTP answer that does not end. */
export function createStreamGateway(options: StreamGatewayOptions): StreamGateway {
  const { connections, admit, limits } = options;
  const open = new Set<StreamConnection>();
  let lastId = 0;

  const timer = new OccasionalTimer(Math.min(1_000, limits.PING_INTERVAL_MS), () => {
    const now = performance.now();
    for (const connection of open) {
      connection.beat(now);
    }
  });

  /** Throws when this worker is draining, or when the client has gone meanwhile. */
  const assertOpen = (response: ServerResponse): void => {
    if (connections.draining || response.destroyed) {
      throw new TaskwireError('SERVER_DRAINING');
    }
  };

  async function enter(request: IncomingMessage, response: ServerResponse, wanted: StreamRequest): Promise<void> {
    assertOpen(response);
    const admission = await admit({ request, query: 'token' });
    try {
      assertOpen(response);
    } catch (error) {
      admission.release();
      throw error;
    }
    lastId += 1;
    const connection = new StreamConnection(`s${process.pid}.${lastId}`, admission, response, wanted, options);
    open.add(connection);
    timer.start();
    response.once('close', () => {
      open.delete(connection);
      if (open.size === 0) {
        timer.stop();
      }
      connection.end();
    });
    response.on('error', () => {
      // A close follows, and that is handled.
    });
    await connection.begin();
  }

  return {
    async open(request, response, wanted) {
      try {
        await enter(request, response, wanted);
      } catch (thrown) {
        const error = toTaskwireError(thrown);
        if (wanted.format !== 'sse' || !passes(error.code) || response.headersSent) {
          throw error;
        }
        // A browser's EventSource never comes back after another status than 200.
        writeHead(response, 'sse');
        response.end(farewell('sse', error));
      }
    },
    stop: () => timer.stop(),
  };
}

/** Whether the same request may succeed later. One with an expired token will not. */
function passes(code: ErrorCode): boolean {
  const { status, retry } = errorEntry(code);
  return retry === 'later' && status >= 429;
}

function writeHead(response: ServerResponse, format: StreamFormat): void {
  response.writeHead(200, {
    'Content-Type': STREAM_CONTENT_TYPES[format],
    'Cache-Control': 'no-store, no-transform',
    // nginx passes on each piece at once, whatever its settings.
    'X-Accel-Buffering': 'no',
  });
  response.flushHeaders();
}

class StreamConnection implements GatewayConnection, FrameSink, MeterListener {
  readonly transport: StreamFormat;
  readonly identity: Identity;
  pending: FrameChain | undefined;
  private readonly place: Place;
  /** What it costs is its key's to pay, with the messages of the key's other connections. */
  private readonly meter: Meter;
  /** Events before the stream was live. */
  private replayed = 0;
  private live = false;
  /** Events that may still be sent. */
  private left: number;
  private ending = false;
  private writtenAt = performance.now();
  private settle: (error?: TaskwireError) => void = () => {};

  constructor(
    readonly id: string,
    admission: Admission,
    private readonly response: ServerResponse,
    private readonly wanted: StreamRequest,
    private readonly options: StreamGatewayOptions,
  ) {
    this.transport = wanted.format;
    this.identity = admission.identity;
    this.left = wanted.limit ?? Number.POSITIVE_INFINITY;
    this.place = options.connections.enter(this, admission);
    this.meter = options.meters.stranger();
    this.meter.listener = this;
    options.meters.admit(this.meter, admission.identity);
  }

  /**
   * Subscribes to the room, when the key's allowance is there.
   * @throws TaskwireError when that is refused before anything was sent
   */
  async begin(): Promise<void> {
    const settled = new Promise<void>((resolve, reject) => {
      this.settle = (error) => (error === undefined ? resolve() : reject(error));
    });
    if (this.meter.ask(() => this.subscribe())) {
      this.subscribe();
    }
    try {
      await settled;
    } catch (error) {
      this.end();
      throw error;
    }
  }

  private subscribe(): void {
    const { room, since, epoch, snapshot = true } = this.wanted;
    const data = { room, ...(since === undefined ? {} : { since }), ...(epoch === undefined ? {} : { epoch }) };
    // A stream has no end, so a snapshot need not fit into one message.
    this.place.session.handle('SUBSCRIBE', { ...data, snapshot: snapshot ? { parts: true } : false }, (outcome) =>
      this.joined(outcome),
    );
  }

  onSlowed(): void {
    // Nothing has been answered yet: the client waits for the head.
  }

  onExceeded(): void {
    this.settle(new TaskwireError('RATE_LIMIT_EXCEEDED', { message: 'Too many messages of this key' }));
  }

  /** Gives back what the connection held. Idempotent. */
  end(): void {
    this.ending = true;
    this.meter.stop();
    this.place.release();
    this.settle();
  }

  get backlog(): number {
    return this.response.writableLength + (this.pending?.length ?? 0);
  }

  deliver(message: Outgoing): void {
    if (this.ending) {
      return;
    }
    this.meter.spend(costOfMessage(message));
    if (isEventType(message.type)) {
      if (!this.live) {
        this.replayed += 1;
        this.meter.spend(costOfReplayed(this.replayed));
      }
      if (this.wanted.types?.includes(message.type) === false) {
        return;
      }
      this.left -= 1;
    }
    this.add(this.transport === 'sse' ? sseFrame(message) : ndjsonFrame(message));
    if (this.left === 0) {
      this.options.writer.flush(this);
      this.finish('');
    }
  }

  writeFrames(bytes: Buffer): void {
    if (this.ending) {
      return;
    }
    this.writtenAt = performance.now();
    this.writeHead();
    this.response.write(bytes);
    if (this.response.writableLength > this.options.limits.MAX_BUFFERED_BYTES) {
      // The hub holds further events back, and closes a connection that reads nothing.
      this.place.session.fallBehind();
    }
  }

  close(code: ErrorCode): void {
    if (this.ending) {
      return;
    }
    if (code === 'SLOW_CONSUMER') {
      // An error would wait behind what the client does not read. It comes back with the last id that it has.
      this.terminate();
      return;
    }
    this.options.writer.flush(this);
    this.finish(farewell(this.transport, new TaskwireError(code)));
  }

  terminate(): void {
    this.ending = true;
    this.response.destroy();
  }

  /** Sends the position to a client that got nothing for a while: it shows that the stream is alive. */
  beat(now: number): void {
    if (!this.ending && this.response.headersSent && now - this.writtenAt >= this.options.limits.PING_INTERVAL_MS) {
      this.writtenAt = now;
      this.place.session.handle('PING', undefined, (outcome) => this.tellPosition(outcome));
    }
  }

  private tellPosition(outcome: Success | TaskwireError): void {
    const positions = outcome instanceof TaskwireError ? [] : (outcome.data as Positions).positions;
    if (this.transport === 'ndjson') {
      this.add(Buffer.from(`${controlText('POSITION', { positions })}\n`));
      return;
    }
    // An id without data moves the browser's position and is no message.
    const [position] = positions;
    this.add(Buffer.from(`: still here\n${position === undefined ? '' : `id: ${eventIdOf(position)}\n`}\n`));
  }

  /** The room is live: everything before has been delivered, in this turn or before it. */
  private joined(outcome: Success | TaskwireError): void {
    if (!(outcome instanceof TaskwireError)) {
      this.live = true;
      const { seq, epoch } = outcome.data as SubscribeResult;
      const text = controlText('SUCCESS', { message: outcome.message, data: outcome.data });
      this.deliver({ type: 'SUCCESS', payload: Buffer.from(text), seq, epoch });
      this.settle();
    } else if (!this.response.headersSent && this.pending === undefined) {
      this.settle(outcome);
    } else {
      this.options.writer.flush(this);
      this.finish(farewell(this.transport, outcome));
    }
  }

  private add(frame: Buffer): void {
    if (!this.ending) {
      this.options.writer.add(this, frame);
    }
  }

  private writeHead(): void {
    if (!this.response.headersSent) {
      writeHead(this.response, this.transport);
      if (this.transport === 'sse') {
        this.response.write(`${retryLine()}\n`);
      }
    }
  }

  /** Ends the answer with a last text. */
  private finish(text: string): void {
    if (this.ending) {
      return;
    }
    this.ending = true;
    this.writeHead();
    this.response.end(text);
    setTimeout(() => this.response.destroy(), CLOSE_MS).unref();
    this.settle();
  }
}
