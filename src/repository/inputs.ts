/** What makes a job. */
export interface JobInput {
  /** Unsigned integer of up to 78 digits; a number only when it is exact. */
  readonly job_id: string | number | bigint;
  /** 1 to 128 printable ASCII characters without space, double quotes, `\`, `<` and `>`. A new user is made with its first job. */
  readonly user_id: string;
}

/** What makes a task. */
export interface CreateTaskInput {
  /** The job that it belongs to, which must exist; as in `JobInput`. */
  readonly job_id: string | number | bigint;
  /** Integer from 0. */
  readonly task_definition_id: number;
  /** false when absent. */
  readonly is_imua?: boolean | undefined;
}

/** Fields of both updates; each is set only when it is there. */
export interface OutcomeInput {
  /** 1 to 32 letters, digits, `-` or `_`. */
  readonly task_status?: string | undefined;
  /** Up to 4,096 characters; null removes it. */
  readonly task_error?: string | null | undefined;
  /** Up to 2,048 characters; null removes it. */
  readonly tx_url?: string | null | undefined;
}

/** An execution of a task: at least one field. Text has no NUL and no half of a surrogate pair. */
export interface ExecutionInput extends OutcomeInput {
  /** Integer from 0. */
  readonly task_performer_id?: number | undefined;
  /** RFC 3339, from 1970 on; kept in UTC, with milliseconds. */
  readonly execution_timestamp?: string | undefined;
  /** Up to 256 characters. */
  readonly execution_tx_hash?: string | undefined;
  /** Up to 65,536 characters. */
  readonly proof_of_task?: string | undefined;
  /** The cost, in the unit of the fee; finite. */
  readonly task_opx_cost?: number | undefined;
  /** JSON of up to 65,536 characters, nested up to 32 deep. */
  readonly converted_arguments?: unknown;
}

/** An attestation of a task: at least one field. */
export interface AttestationInput extends OutcomeInput {
  /** Integer from 0. */
  readonly task_number?: number | undefined;
  /** Up to 1,000 integers from 0. */
  readonly task_attester_ids?: readonly number[] | undefined;
  /** Up to 4,096 characters. */
  readonly tp_signature?: string | undefined;
  /** Up to 4,096 characters. */
  readonly ta_signature?: string | undefined;
  /** Up to 256 characters. */
  readonly task_submission_tx_hash?: string | undefined;
  readonly is_successful?: boolean | undefined;
}

/** The fee of a task. */
export interface FeeInput {
  /** Finite; what `task_opx_cost` becomes. */
  readonly fee: number;
}

/** The status of a task. */
export interface StatusInput {
  /** 1 to 32 letters, digits, `-` or `_`. */
  readonly task_status: string;
  /** Integer from 0; null and absent leave it as it is. */
  readonly task_number?: number | null | undefined;
  /** Up to 256 characters; null and absent leave it as it is. */
  readonly task_submission_tx_hash?: string | null | undefined;
}
