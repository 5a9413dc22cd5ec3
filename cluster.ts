import { fileURLToPath } from 'node:url';
import { run } from './src/cluster/run.js';

await run(fileURLToPath(import.meta.url));
