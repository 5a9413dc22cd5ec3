import type { RequestHandler, Router } from 'express';
import { resource } from './resource.js';

export interface DocumentRoutePorts {
  /** Make the documents that describe the interfaces, and the page that shows them. Each is made once, at the first request. */
  readonly documents: {
    readonly openapi: () => object;
    readonly asyncapi: () => object;
    readonly page: () => string;
  };
}

/** The page has no script and takes nothing from elsewhere, whatever stands in it. */
const PAGE_POLICY =
  "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/** Documents of the interfaces, for machines and for people. They are public. */
export function documentRoutes(router: Router, { documents }: DocumentRoutePorts): void {
  resource(router, '/api/openapi.json', { get: serve('json', () => JSON.stringify(documents.openapi())) });
  resource(router, '/api/asyncapi.json', { get: serve('json', () => JSON.stringify(documents.asyncapi())) });
  const page = serve('html', documents.page);
  resource(router, '/api/docs', {
    get: (request, response, next) => {
      response.set('Content-Security-Policy', PAGE_POLICY);
      return page(request, response, next);
    },
  });
}

function serve(type: string, make: () => string): RequestHandler {
  // One for all: what somebody does not read costs no memory of its own.
  let bytes: Buffer | undefined;
  return (_request, response) => {
    bytes ??= Buffer.from(make());
    response.type(type).send(bytes);
  };
}
