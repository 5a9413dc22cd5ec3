import type { Redis } from 'ioredis';
import { CONNECTING, type Fault } from '../condition.js';
import { CLOSED, faultOf, wordsOf } from './redis-faults.js';

/** The client's error when no Sentinel has answered well. What a Sentinel itself has said tells more. */
const SENTINELS_ASKED = /^All sentinels are unreachable/;

/** The code of a server that has as many clients as it may have. */
const NO_PLACE = 'MAX_CLIENTS';

/** Keeps the reason why a client has no connection: its own error at the end is always "Connection is closed.". */
export class ConnectionTrouble {
  /** Undefined while there is a connection. */
  fault: Fault | undefined = CONNECTING;
  private last: unknown;

  /**
   * @param client of one server, or of a cluster: both have these events
   * @param onChange told of each attempt that has failed
   */
  constructor(
    private readonly client: Pick<Redis, 'on' | 'once' | 'status'> & Partial<Pick<Redis, 'stream' | 'options'>>,
    onChange: () => void,
  ) {
    const failed = (): void => {
      const fault = this.last === undefined ? CLOSED : faultOf(this.last);
      // A server without a free place closes at once, and some of its refusals are lost on the way: nothing has changed.
      const again = this.fault?.code === NO_PLACE && (fault === CLOSED || fault.code === 'ECONNRESET');
      this.fault = again ? this.fault : fault;
      onChange();
    };
    client.on('connecting', () => {
      this.last = undefined;
    });
    let cause: Error | undefined;
    client.on('sentinelCause', (error: Error) => {
      cause = error;
    });
    client.on('sentinelError', ({ message }: Error) => {
      this.last = new Error(
        cause === undefined ? message : message.replace('Connection is closed.', () => wordsOf(cause)),
      );
      cause = undefined;
    });
    client.on('error', (error: unknown) => {
      this.note(error);
      if (client.status !== 'ready') {
        failed();
      }
    });
    client.on('connect', () => {
      // What Sentinels or nodes have said that were asked before this one is no reason any more.
      this.last = undefined;
      this.hearRefusal();
    });
    client.on('ready', () => {
      this.fault = undefined;
    });
    client.on('close', failed);
  }

  /** A server without a free place says so and closes at once. Its words are read before they are lost. */
  private hearRefusal(): void {
    this.client.stream?.once('data', (bytes: Buffer) => {
      const line = bytes.toString('latin1').split('\r\n', 1)[0]!;
      if (line.startsWith('-')) {
        // It may be the answer to the first command already, which has the password.
        const command = { name: 'auth', args: [this.client.options?.password ?? ''] };
        this.note(Object.assign(new Error(line.slice(1)), { command }));
      }
    });
  }

  /** Takes an error that tells why the present connection does not work. */
  note(error: unknown): void {
    if (this.last === undefined || !SENTINELS_ASKED.test((error as Error).message)) {
      this.last = error;
    }
  }

  /** The cause of a failed command, which may say no more than that there is no connection. */
  explain(error: unknown): Fault {
    if (this.fault !== undefined) {
      return this.fault;
    }
    const fault = faultOf(error);
    return (fault === CLOSED || fault.code === 'OTHER') && this.last !== undefined ? faultOf(this.last) : fault;
  }

  /** Resolves when the first attempt to connect has come to an end; later ones are the client's own. */
  async attempt(connect: () => Promise<unknown>): Promise<void> {
    const failed = new Promise<void>((resolve) => this.client.once('error', () => resolve()));
    // `fault` has the reason.
    await Promise.race([connect().catch(() => {}), failed]);
  }
}
