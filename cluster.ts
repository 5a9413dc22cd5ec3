// First and alone: an older Node.js cannot even link the rest, and would say so in words about modules.
import './src/base/node-version.js';
import { fileURLToPath } from 'node:url';

const { run } = await import('./src/cluster/run.js');
await run(fileURLToPath(import.meta.url));
