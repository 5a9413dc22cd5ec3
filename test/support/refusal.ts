import { type ErrorCode, TaskwireError } from '../../src/protocol/errors.js';

/** The error that some work ends with; a failure when it does not, or with one that has no code. */
export async function refusal(work: () => unknown): Promise<TaskwireError> {
  try {
    await work();
  } catch (error) {
    if (error instanceof TaskwireError) {
      return error;
    }
    throw error;
  }
  throw new Error('was not refused');
}

/** The code of the error that some work ends with. */
export async function refusalCode(work: () => unknown): Promise<ErrorCode> {
  return (await refusal(work)).code;
}
