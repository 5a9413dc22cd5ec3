import type { RequestHandler, Router } from 'express';
import { TaskwireError } from '../protocol/errors.js';

type Method = 'get' | 'post' | 'put' | 'delete';

/** A path that is served, with names such as `:id`, and its methods. */
export interface Route {
  readonly path: string;
  readonly methods: readonly string[];
}

const tables = new WeakMap<Router, Route[]>();

/** Every path that `resource` serves on a router, in order. */
export const routesOf = (router: Router): readonly Route[] => tables.get(router) ?? [];

/** Serves a path with a handler per method; other methods are refused and told which there are. */
export function resource(router: Router, path: string, handlers: Partial<Record<Method, RequestHandler>>): void {
  const methods = Object.keys(handlers) as Method[];
  const allow = methods
    .flatMap((method) => (method === 'get' ? ['GET', 'HEAD'] : [method.toUpperCase()]))
    .concat('OPTIONS')
    .join(', ');
  const table = tables.get(router) ?? [];
  tables.set(router, [...table, { path, methods: methods.map((method) => method.toUpperCase()) }]);
  const route = router.route(path);
  for (const method of methods) {
    route[method](handlers[method]!);
  }
  route.options((_request, response) => {
    response.set('Allow', allow).status(204).end();
  });
  route.all((_request, response) => {
    response.set('Allow', allow);
    throw new TaskwireError('METHOD_NOT_ALLOWED');
  });
}
