import type { IncomingMessage, RequestListener } from 'node:http';
import express, { type Express } from 'express';
import type { Logger } from '../base/logger.js';
import type { CheckOrigin } from '../door/origin.js';
import { TaskwireError } from '../protocol/errors.js';
import { accessLog } from './access-log.js';
import { type AuthenticatePorts, createAuthenticate, createCountMore } from './authenticate.js';
import { cors } from './cors.js';
import { type DocumentRoutePorts, documentRoutes } from './document-routes.js';
import { createEndpoint } from './endpoint.js';
import { errorHandler } from './error-handler.js';
import { type EventRoutePorts, eventRoutes } from './events-routes.js';
import { type JobRoutePorts, jobRoutes } from './jobs-routes.js';
import { jsonReader } from './json-body.js';
import { type KeyRoutePorts, keyRoutes } from './keys-routes.js';
import { noSuchPath } from './no-such-path.js';
import type { RestQueues } from './queues.js';
import { routesOf } from './resource.js';
import { endStalledAnswers } from './stalled-answers.js';
import { type SystemRoutePorts, systemRoutes } from './system-routes.js';
import { type TaskRoutePorts, taskRoutes } from './tasks-routes.js';
import { type TokenRoutePorts, tokenRoutes } from './tokens-routes.js';
import { userRoutes } from './users-routes.js';

export interface AppOptions
  extends AuthenticatePorts,
    TaskRoutePorts,
    JobRoutePorts,
    EventRoutePorts,
    KeyRoutePorts,
    TokenRoutePorts,
    DocumentRoutePorts,
    Omit<SystemRoutePorts, 'authenticate'> {
  readonly queues: RestQueues;
  readonly checkOrigin: CheckOrigin;
  /** Most bytes of a body. */
  readonly maxBodyBytes: number;
  /** How long a client may take nothing of its answer, in milliseconds. */
  readonly stallMs: number;
  readonly logger: Logger;
}

/** The REST interface. It only translates: repositories write, and publish what they have committed. */
export function createApp(options: AppOptions): Express {
  const { maxBodyBytes, stallMs, logger } = options;
  const app = express();
  app.disable('x-powered-by');
  app.disable('etag');
  app.set('query parser', 'simple');

  app.use(accessLog(logger));
  app.use(endStalledAnswers(stallMs));
  app.use((_request, response, next) => {
    response.set({ 'Cache-Control': 'no-store', 'X-Content-Type-Options': 'nosniff' });
    next();
  });
  app.use(cors(options));
  app.use((request, _response, next) => {
    if (expectsMore(request)) {
      throw new TaskwireError('INVALID_REQUEST', { message: 'Expect: only 100-continue is known here' });
    }
    next();
  });

  const authenticate = createAuthenticate(options);
  const endpoint = createEndpoint({
    authenticate,
    countMore: createCountMore(options),
    readJson: jsonReader(maxBodyBytes),
    queues: options.queues,
  });
  systemRoutes(app, { ...options, authenticate });
  jobRoutes(app, endpoint, options);
  taskRoutes(app, endpoint, options);
  userRoutes(app, endpoint, options);
  eventRoutes(app, endpoint, options);
  keyRoutes(app, endpoint, options);
  tokenRoutes(app, endpoint, options);
  documentRoutes(app, options);

  app.use((request) => {
    throw noSuchPath(request, routesOf(app));
  });
  app.use(errorHandler(logger));
  return app;
}

const CONTINUE = /(?:^|\W)100-continue(?:$|\W)/i;

/** Whether a request expects what no server here does. In HTTP/1.0 the header has no meaning. */
const expectsMore = ({ headers: { expect }, httpVersion }: IncomingMessage): boolean =>
  expect !== undefined && httpVersion !== '1.0' && !CONTINUE.test(expect);

/** What answers the requests of a server, those too whose target Express cannot read (`http://[::/`). */
export function requestListener(app: Express): RequestListener {
  const handle = app as unknown as (...args: [...Parameters<RequestListener>, next: () => void]) => void;
  return (request, response) =>
    handle(request, response, () => {
      if (response.headersSent) {
        // Half of an answer must not look like a whole one.
        request.socket.destroy();
      } else {
        // Express would answer with a page. No middleware has seen the request yet: it goes again, to a path that nobody serves.
        request.url = '/';
        app(request, response);
      }
    });
}
