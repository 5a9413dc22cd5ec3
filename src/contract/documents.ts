import { readFileSync } from 'node:fs';
import { asyncApi } from './asyncapi.js';
import { openApi } from './openapi.js';
import { documentPage } from './page.js';

/** Of the package. */
const { version } = JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')) as {
  version: string;
};

/** Make the documents of the interfaces of this version, and a page that shows both. */
export const documents = {
  openapi: () => openApi(version),
  asyncapi: () => asyncApi(version),
  page: () => documentPage(openApi(version), asyncApi(version)),
} as const;
