/** SQL for the text of a time as it stands on the wire: ISO 8601, milliseconds, UTC. */
export const isoText = (column: string): string =>
  `to_char(${column} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`;

const COLUMNS = [
  'task_id',
  'job_id',
  'user_id',
  'task_number',
  'task_definition_id',
  'is_imua',
  'task_status',
  'task_error',
  'task_opx_cost',
  'execution_timestamp',
  'execution_tx_hash',
  'proof_of_task',
  'task_performer_id',
  'task_attester_ids',
  'tp_signature',
  'ta_signature',
  'task_submission_tx_hash',
  'is_successful',
  'is_accepted',
  'tx_url',
  'converted_arguments',
  'created_at',
];

/** Columns that are sent in another form. A job id is text because JSON numbers cannot keep 78 digits. */
const SPECIAL: Readonly<Record<string, (t: string) => string>> = {
  job_id: (t) => `${t}.job_id::text`,
  execution_timestamp: (t) => isoText(`${t}.execution_timestamp`),
  is_accepted: (t) => `${t}.is_successful`,
  created_at: (t) => isoText(`${t}.created_at`),
};

/**
 * SQL for the JSON of a task as clients see it (`TaskRow`), made where the row is: a snapshot of thousands is carried
 * from the database to the socket as text. (`row_to_json` writes no spaces, `json_build_object` does.)
 * @param t alias of the tasks table
 */
export const taskJson = (t: string): string => {
  const columns = COLUMNS.map((column) => `${SPECIAL[column]?.(t) ?? `${t}.${column}`} AS ${column}`);
  return `(SELECT row_to_json(task) FROM (SELECT ${columns.join(', ')}) AS task)`;
};
