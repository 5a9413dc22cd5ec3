import type { RequestHandler, Router } from 'express';
import { resource } from './resource.js';

export interface DocumentRoutePorts {
  /** Make the documents that describe the interfaces; each is made once, when somebody asks for it. */
  readonly documents: { readonly openapi: () => object; readonly asyncapi: () => object };
}

/** What machines read of the interfaces. They are no secret: everybody may. */
export function documentRoutes(router: Router, { documents }: DocumentRoutePorts): void {
  resource(router, '/api/openapi.json', { get: serve(documents.openapi) });
  resource(router, '/api/asyncapi.json', { get: serve(documents.asyncapi) });
}

function serve(make: () => object): RequestHandler {
  // One for all: what somebody does not read costs no memory of its own.
  let bytes: Buffer | undefined;
  return (_request, response) => {
    bytes ??= Buffer.from(JSON.stringify(make()));
    response.type('json').send(bytes);
  };
}
