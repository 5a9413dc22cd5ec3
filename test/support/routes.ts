import { silentLogger } from '../../src/base/logger.js';
import { documents } from '../../src/contract/documents.js';
import { type AppOptions, createApp } from '../../src/http/app.js';
import { restQueues } from '../../src/http/queues.js';
import { type Route, routesOf } from '../../src/http/resource.js';

/** The route table of the REST interface, made as the server makes it, with nothing behind the routes. */
export const servedRoutes = (): readonly Route[] =>
  routesOf(
    createApp({
      queues: restQueues({ writes: 1, reads: 1 }),
      checkOrigin: () => {},
      maxBodyBytes: 1,
      documents,
      logger: silentLogger,
    } as unknown as AppOptions),
  );
