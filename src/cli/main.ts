#!/usr/bin/env node
import '../base/node-version.js';
import { outliveReaders } from '../base/standard-streams.js';
import { ConfigError, EXIT_CONFIG } from '../config.js';
import { TaskwireError } from '../protocol/errors.js';
import { createProgram } from './program.js';

outliveReaders();
try {
  await createProgram().parseAsync();
} catch (error) {
  process.stderr.write(`${error instanceof TaskwireError ? `${error.code}: ` : ''}${(error as Error).message}\n`);
  process.exitCode = error instanceof ConfigError ? EXIT_CONFIG : 1;
}
