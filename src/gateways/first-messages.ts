import type { RawData, WebSocket } from 'ws';
import { type AuthData, authFirst, parseAuth } from '../protocol/auth.js';
import { binaryMessage, type ClientMessage, readClientMessage } from '../protocol/client-message.js';
import { TaskwireError } from '../protocol/errors.js';

/** Most messages that may come in the same read as the first one. */
const MAX_WAITING = 256;

/**
 * Reads the first message of a WebSocket that was opened without credentials: it has to bring them. Messages that come in
 * the same read behind it are kept for the connection. Nothing more is read until its owner is known.
 */
export class FirstMessages {
  private readonly messages: ClientMessage[] = [];
  private asked = false;
  private readonly onMessage = (data: RawData, isBinary: boolean): void => {
    this.ws.pause();
    if (this.messages.length < MAX_WAITING) {
      this.messages.push(isBinary ? binaryMessage() : readClientMessage(String(data)));
      this.wake?.();
    } else {
      this.ws.terminate();
    }
  };
  private wake: (() => void) | undefined;

  /** @param timeoutMs how long the first message may take */
  constructor(
    private readonly ws: WebSocket,
    private readonly timeoutMs: number,
  ) {}

  /** @throws TaskwireError MISSING_API_KEY, INVALID_MESSAGE */
  async auth(): Promise<AuthData> {
    const { ws } = this;
    this.asked = true;
    let timer: NodeJS.Timeout | undefined;
    ws.on('message', this.onMessage);
    try {
      await new Promise<void>((resolve, reject) => {
        this.wake = resolve;
        timer = setTimeout(() => reject(authFirst(`none came within ${this.timeoutMs} ms`)), this.timeoutMs).unref();
        ws.once('close', () => reject(new TaskwireError('MISSING_API_KEY')));
        ws.resume();
      });
      const { type, data, error } = this.messages[0]!;
      if (error !== undefined) {
        throw error;
      }
      if (type !== 'AUTH') {
        throw authFirst('the connection was opened without one');
      }
      return parseAuth(data);
    } catch (error) {
      ws.off('message', this.onMessage);
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** The `request_id` of the first message. */
  get requestId(): string | undefined {
    return this.messages[0]?.requestId;
  }

  /** The first message when it brought the credentials, and those behind it; nothing more is kept from now on. */
  take(): readonly [ClientMessage, ...ClientMessage[]] | undefined {
    this.ws.off('message', this.onMessage);
    return this.asked ? (this.messages as [ClientMessage, ...ClientMessage[]]) : undefined;
  }
}
