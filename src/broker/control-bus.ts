import type { Logger } from '../base/logger.js';
import { CONTROL_CHANNEL, type Publishing, type PubSub } from './broker.js';

/** Messages between workers, by type. Unknown fields and types are ignored, so that versions can be mixed. */
export interface ControlMessages {
  /** Asks every worker for its statistics, to be answered on a channel of the asking one. */
  stats: {
    readonly id: string;
    readonly replyTo: string;
    /** Whether rooms are wanted by name: all, or this one. */
    readonly rooms: boolean;
    readonly room?: string | undefined;
  };
  /** A key is no longer valid: forget it and close its connections. */
  'key-revoked': { readonly keyId: string };
  /** A client found all places of its address taken: check whether the connections of its key there are still alive. */
  'place-claimed': { readonly keyId: string; readonly group: string };
  /** A key was changed: forget what is known of it. */
  'key-changed': { readonly keyId: string };
}

type ControlType = keyof ControlMessages;
type Handler = (message: Readonly<Record<string, unknown>>) => void | Promise<void>;

/** @throws when the message could not be handed to the transport */
export function sendControl<Type extends ControlType>(
  transport: Publishing,
  type: Type,
  message: ControlMessages[Type],
): Promise<void> {
  return transport.publish(CONTROL_CHANNEL, Buffer.from(JSON.stringify({ type, ...message })));
}

/**
 * Messages to all workers, as JSON on one channel of the broker. They may be lost, so nothing may depend on them alone.
 * A worker receives its own messages too.
 */
export class ControlBus {
  private readonly handlers = new Map<string, Handler[]>();

  constructor(
    private readonly broker: PubSub,
    private readonly logger: Logger,
  ) {}

  /**
   * Adds a handler for a type. It must check what it is given: other processes wrote it. What it throws is logged.
   */
  on(type: ControlType, handler: Handler): void {
    this.handlers.set(type, [...(this.handlers.get(type) ?? []), handler]);
  }

  /** @throws when the message could not be handed to the transport */
  send<Type extends ControlType>(type: Type, message: ControlMessages[Type]): Promise<void> {
    return sendControl(this.broker, type, message);
  }

  start(): Promise<void> {
    return this.broker.subscribe(CONTROL_CHANNEL, (batch) => {
      for (const bytes of batch) {
        this.receive(bytes);
      }
    });
  }

  stop(): Promise<void> {
    return this.broker.unsubscribe(CONTROL_CHANNEL);
  }

  private receive(bytes: Buffer): void {
    const message = parseObject(bytes);
    const type = message?.['type'];
    if (message === undefined || typeof type !== 'string') {
      this.logger.warn('control message is not a JSON object with a type', { bytes: bytes.length });
      return;
    }
    for (const handler of this.handlers.get(type) ?? []) {
      this.run(handler, message).catch((error) => {
        this.logger.error('control message failed', { type, error });
      });
    }
  }

  private async run(handler: Handler, message: Readonly<Record<string, unknown>>): Promise<void> {
    await handler(message);
  }
}

/** Parses bytes as a JSON object. @returns undefined when they are none */
export function parseObject(bytes: Buffer): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(bytes.toString());
    return typeof value === 'object' && value !== null && !Array.isArray(value)
      ? (value as Record<string, unknown>)
      : undefined;
  } catch {
    return undefined;
  }
}
