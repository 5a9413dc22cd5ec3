import type { RequestHandler, Router } from 'express';
import { resource } from './resource.js';

export interface DocumentRoutePorts {
  /** Make the documents that describe the interfaces. Each is made once, at the first request. */
  readonly documents: { readonly openapi: () => object; readonly asyncapi: () => object };
}

/** Machine-readable documents of the interfaces. They are public. */
export function documentRoutes(router: Router, { documents }: DocumentRoutePorts): void {
  resource(router, '/api/openapi.json', { get: serve(documents.openapi) });
  resource(router, '/api/asyncapi.json', { get: serve(documents.asyncapi) });
}

function serve(make: () => object): RequestHandler {
  let text: string | undefined;
  return (_request, response) => {
    text ??= JSON.stringify(make());
    response.type('json').send(text);
  };
}
