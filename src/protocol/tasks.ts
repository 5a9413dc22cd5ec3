/** A task as clients see it: in REST answers and in snapshots. Field names are those of `changes`. */
export interface TaskRow {
  task_id: number;
  job_id: string;
  user_id: string;
  task_number: number | null;
  task_definition_id: number;
  is_imua: boolean;
  task_status: string;
  task_error: string | null;
  task_opx_cost: number | null;
  execution_timestamp: string | null;
  execution_tx_hash: string | null;
  proof_of_task: string | null;
  task_performer_id: number | null;
  task_attester_ids: number[] | null;
  tp_signature: string | null;
  ta_signature: string | null;
  task_submission_tx_hash: string | null;
  is_successful: boolean | null;
  /** `is_successful` under the name that snapshot readers know. */
  is_accepted: boolean | null;
  tx_url: string | null;
  converted_arguments: unknown;
  created_at: string;
}

/** The status of a new task. */
export const INITIAL_TASK_STATUS = 'pending';

/**
 * What a key may do. `reader` sees what belongs to its owner and writes nothing; `user` writes it too; `service` sees and
 * writes everything; `admin` manages keys as well.
 */
export type Role = 'reader' | 'user' | 'service' | 'admin';
export const ROLES: readonly Role[] = ['reader', 'user', 'service', 'admin'];

/** Parts of what a role may do: a key can be made with some of them only. */
export type Scope = 'read' | 'write' | 'tokens' | 'stats' | 'keys';
export const SCOPES: readonly Scope[] = ['read', 'write', 'tokens', 'stats', 'keys'];

/** Everything that a role may do. */
export const ROLE_SCOPES: Readonly<Record<Role, readonly Scope[]>> = {
  reader: ['read', 'tokens'],
  user: ['read', 'write', 'tokens'],
  service: ['read', 'write', 'tokens', 'stats'],
  admin: ['read', 'write', 'tokens', 'stats', 'keys'],
};

/** What a token allows: to read, for some time. */
export interface TokenGrant {
  /** The rooms that it shows; undefined: all of its user. */
  readonly rooms?: ReadonlySet<string> | undefined;
  /** The user whose rooms it may show; undefined: everybody's, of those that it names. */
  readonly user?: string | undefined;
  /** Milliseconds since 1970. */
  readonly expiresAt: number;
  /** The key that made it; undefined: another issuer did. */
  readonly keyId?: string | undefined;
}

/** Who is asking: what an API key or a token stands for. */
export interface Identity {
  /** Who is limited: the id of the key, or a name for the token. */
  readonly keyId: string;
  /** User id of the key's owner. */
  readonly owner: string;
  readonly role: Role;
  /** Requests per minute. */
  readonly rateLimit: number;
  /** What it may do; undefined: all that its role may. */
  readonly scopes?: readonly Scope[] | undefined;
  /** Set when it came with a token: it may do nothing but read, and see no more than this. */
  readonly token?: TokenGrant | undefined;
}

/** The key that has to be valid for an identity; undefined when there is none. */
export const keyBehind = ({ keyId, token }: Identity): string | undefined =>
  token === undefined ? keyId : token.keyId;

/** Whether somebody sees everything, and may be told that something does not exist. */
export const seesAll = ({ role, token }: Identity): boolean =>
  token === undefined && (role === 'service' || role === 'admin');

/** Whether somebody may do a kind of thing at all. */
export function mayDo({ role, scopes, token }: Identity, scope: Scope): boolean {
  return token === undefined ? (scopes ?? ROLE_SCOPES[role]).includes(scope) : scope === 'read';
}

/** Whether somebody may see all that belongs to `userId`, and write it if its role writes. */
export function mayAccess(identity: Identity, userId: string): boolean {
  const { owner, token } = identity;
  if (token !== undefined) {
    return token.rooms === undefined && token.user === userId;
  }
  return seesAll(identity) || owner === userId;
}

/**
 * Whether somebody may see a room.
 * @param owner the user whose stream it is in
 */
export function maySee(identity: Identity, room: string, owner: string): boolean {
  const { token } = identity;
  return token?.rooms === undefined
    ? mayAccess(identity, owner)
    : token.rooms.has(room) && (token.user === undefined || token.user === owner);
}

/** The refusal for something missing or foreign: the same for both, unless the caller sees everything. */
export const refusalOf = (identity: Identity): 'ACCESS_DENIED' | 'NOT_FOUND' =>
  seesAll(identity) ? 'NOT_FOUND' : 'ACCESS_DENIED';
