import { type AuthData, parseAuth } from '../protocol/auth.js';
import { TaskwireError } from '../protocol/errors.js';
import type { Room } from '../protocol/rooms.js';
import type { Identity } from '../protocol/tasks.js';
import type { Connection } from './connection.js';
import type { Success } from './reply.js';

export interface CredentialPorts {
  /**
   * Says who somebody is by the data of an AUTH message, and counts the request.
   * @param before who it was until now
   * @returns who it is, and a last check before the credentials are used
   */
  authenticate(data: AuthData, before: Identity): Promise<{ readonly identity: Identity; confirm(): Promise<void> }>;
  /** Checks that somebody may see a room. */
  resolve(identity: Identity, room: Room): Promise<unknown>;
}

/** A timer's longest time, in milliseconds. */
const MAX_TIMER = 2_147_483_647;

/** The answer to a good AUTH message. */
export const authenticated = ({ owner, token }: Identity): Success => ({
  type: 'SUCCESS',
  message: 'Authenticated',
  data: { user: owner, expires_at: token === undefined ? null : new Date(token.expiresAt).toISOString() },
});

/**
 * The credentials of one connection while it lives: a token ends at its time, and with it the connection, unless an AUTH
 * message has brought other credentials by then.
 */
export class CredentialLife {
  private timer: NodeJS.Timeout | undefined;
  private ended = false;

  constructor(
    private readonly connection: Connection,
    private readonly ports: CredentialPorts,
  ) {
    this.watch();
  }

  /**
   * Takes the credentials of an AUTH message for those that the connection had. They must show every room that it is in;
   * otherwise nothing changes.
   * @param rooms the rooms that the connection is in
   * @throws TaskwireError INVALID_MESSAGE, ACCESS_DENIED or NOT_FOUND (a room), what `authenticate` throws
   */
  async renew(data: unknown, rooms: () => readonly Room[]): Promise<Success> {
    const { identity, confirm } = await this.ports.authenticate(parseAuth(data), this.connection.identity);
    await Promise.all(
      rooms().map(async (room) => {
        try {
          await this.ports.resolve(identity, room);
        } catch (error) {
          const { code } = error as TaskwireError;
          throw code === 'ACCESS_DENIED' || code === 'NOT_FOUND'
            ? new TaskwireError(code, { message: `These credentials do not show ${room.name}: leave it first` })
            : error;
        }
      }),
    );
    await confirm();
    if (!this.ended) {
      this.connection.identity = identity;
      this.watch();
    }
    return authenticated(identity);
  }

  end(): void {
    this.ended = true;
    clearTimeout(this.timer);
  }

  private watch(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    const expiresAt = this.connection.identity.token?.expiresAt;
    if (expiresAt === undefined) {
      return;
    }
    // By a timer also when it has ended already: the caller gets the session before its connection is closed.
    const left = Math.max(0, expiresAt - Date.now());
    this.timer = setTimeout(() => this.look(expiresAt), Math.min(left, MAX_TIMER)).unref();
  }

  private look(expiresAt: number): void {
    if (Date.now() >= expiresAt) {
      this.connection.close('TOKEN_EXPIRED');
    } else {
      this.watch();
    }
  }
}
