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

/** The status of a task that nobody has touched yet. */
export const INITIAL_TASK_STATUS = 'pending';

export type Role = 'user' | 'service' | 'admin';
export const ROLES: readonly Role[] = ['user', 'service', 'admin'];

/** Who is asking: what an API key stands for. */
export interface Identity {
  readonly keyId: string;
  /** User id of the key's owner. */
  readonly owner: string;
  readonly role: Role;
  /** Requests per minute. */
  readonly rateLimit: number;
}

/** Whether the key may see and write what belongs to `userId`. */
export function mayAccess(identity: Identity, userId: string): boolean {
  return identity.role !== 'user' || identity.owner === userId;
}
