/** SQL for the text of a time as it stands on the wire: ISO 8601, milliseconds, UTC. */
export const isoText = (column: string): string =>
  `to_char(${column} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')`;

/**
 * SQL for the JSON of a task as clients see it (`TaskRow`), made where the row is: a snapshot of thousands is carried
 * from the database to the socket as text. Ids that JSON numbers cannot keep are text.
 * @param t alias of the tasks table
 */
export const taskJson = (t: string): string => `json_build_object(
  'task_id', ${t}.task_id, 'job_id', ${t}.job_id::text, 'user_id', ${t}.user_id, 'task_number', ${t}.task_number,
  'task_definition_id', ${t}.task_definition_id, 'is_imua', ${t}.is_imua, 'task_status', ${t}.task_status,
  'task_error', ${t}.task_error, 'task_opx_cost', ${t}.task_opx_cost,
  'execution_timestamp', ${isoText(`${t}.execution_timestamp`)}, 'execution_tx_hash', ${t}.execution_tx_hash,
  'proof_of_task', ${t}.proof_of_task, 'task_performer_id', ${t}.task_performer_id,
  'task_attester_ids', ${t}.task_attester_ids, 'tp_signature', ${t}.tp_signature, 'ta_signature', ${t}.ta_signature,
  'task_submission_tx_hash', ${t}.task_submission_tx_hash, 'is_successful', ${t}.is_successful,
  'is_accepted', ${t}.is_successful, 'tx_url', ${t}.tx_url, 'converted_arguments', ${t}.converted_arguments,
  'created_at', ${isoText(`${t}.created_at`)})`;
