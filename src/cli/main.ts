#!/usr/bin/env node
import '../base/node-version.js';
import { failUnwritten, outliveReaders } from '../base/standard-streams.js';
import { ConfigError, EXIT_CONFIG } from '../config.js';
import { causeText, isReadOnly } from '../database/database-errors.js';
import { TaskwireError } from '../protocol/errors.js';
import { end } from './end.js';
import { createProgram } from './program.js';

/** What went wrong, and why. What the database said stands without the statement that it was said to. */
function wordsOf(error: unknown): string {
  if (error instanceof TaskwireError) {
    const { code, message, cause } = error;
    const advice = isReadOnly(cause ?? error) ? ' (it is a standby, or default_transaction_read_only is on)' : '';
    return `${code}: ${message}${cause instanceof Error ? `: ${causeText(cause)}${advice}` : ''}`;
  }
  return error instanceof Error && 'severity' in error ? causeText(error) : (error as Error).message;
}

outliveReaders();
if (process.argv[2] !== 'start') {
  failUnwritten();
}
try {
  await createProgram().parseAsync();
} catch (error) {
  process.stderr.write(`${wordsOf(error)}\n`);
  end(error instanceof ConfigError ? EXIT_CONFIG : 1);
}
