import type { Router } from 'express';
import { z } from 'zod';
import type { Logger } from '../base/logger.js';
import { auditKey, type KeyEvent, keySummary } from '../door/key-audit.js';
import { TaskwireError } from '../protocol/errors.js';
import type { Identity } from '../protocol/tasks.js';
import type { ApiKeyInput, ApiKeyRepository } from '../repository/api-key-repository.js';
import { parseInput, userIdInput } from '../repository/task-input.js';
import type { Endpoint } from './endpoint.js';
import { invalidField, objectOf, queryFields } from './input.js';
import { resource } from './resource.js';

export interface KeyRoutePorts {
  readonly apiKeys: Pick<ApiKeyRepository, 'create' | 'list' | 'disable' | 'disableByOwner' | 'alter' | 'rotate'>;
  /** Requests per minute of a key that is made without a limit of its own. */
  readonly defaultRateLimit: number;
  /** Tells all workers that a key is no longer valid; never rejects. */
  readonly announceRevoked: (keyId: string) => Promise<void>;
  /** Tells all workers that a key has changed and is to be looked up again; never rejects. */
  readonly announceChanged: (keyId: string) => Promise<void>;
  readonly logger: Logger;
}

const KEY_ID = /^[\w-]{1,64}$/;
/** Default overlap, in seconds: a day in which everybody who uses the key can change to the new one. */
const OVERLAP_SECONDS = 86_400;

export const rotateBody = z.strictObject({ overlap_seconds: z.number().int().min(0).optional() });
export const changeBody = z.strictObject({
  rate_limit: z.number().int().positive().optional(),
  active: z.boolean().optional(),
});

/** API keys, managed by keys of role `admin`. */
export function keyRoutes(router: Router, endpoint: Endpoint, ports: KeyRoutePorts): void {
  const { apiKeys, defaultRateLimit, announceRevoked, announceChanged, logger } = ports;

  const audit = (event: KeyEvent, { keyId, owner }: Identity, fields: Readonly<Record<string, unknown>>): void =>
    auditKey(logger, { by: keyId, by_owner: owner }, event, fields);

  resource(router, '/api/keys', {
    get: endpoint(async () => ({ body: { keys: await apiKeys.list() } }), 'keys'),

    post: endpoint(async ({ identity, body }) => {
      const { key, record } = await apiKeys.create({
        rate_limit: defaultRateLimit,
        ...(objectOf(body) as unknown as ApiKeyInput),
      });
      audit('key created', identity, keySummary(record));
      return { status: 201, body: { key, ...record } };
    }, 'keys'),

    delete: endpoint(async ({ identity, query }) => {
      const { owner } = queryFields(query, ['owner']);
      if (owner === undefined) {
        throw invalidField('owner', 'wants ?owner=USER_ID: all keys of that user are disabled');
      }
      const key_ids = await apiKeys.disableByOwner(parseInput(userIdInput, owner));
      audit('keys disabled', identity, { owner, key_ids });
      for (const keyId of key_ids) {
        await announceRevoked(keyId);
      }
      return { body: { owner, key_ids, active: false } };
    }, 'keys'),
  });

  resource(router, '/api/keys/:key_id', {
    put: endpoint(async ({ identity, params, body }) => {
      const keyId = keyIdOf(params);
      const { rate_limit, active } = parseInput(changeBody, objectOf(body));
      if (rate_limit === undefined && active === undefined) {
        throw new TaskwireError('INVALID_REQUEST', { message: 'Nothing to change: send rate_limit or active' });
      }
      const record = found(await apiKeys.alter(keyId, { rate_limit, active }));
      audit('key changed', identity, { key_id: keyId, rate_limit, active });
      await (active === false ? announceRevoked(keyId) : announceChanged(keyId));
      return { body: record };
    }, 'keys'),

    delete: endpoint(async ({ identity, params }) => {
      const keyId = keyIdOf(params);
      found((await apiKeys.disable(keyId)) || undefined);
      audit('key disabled', identity, { key_id: keyId });
      await announceRevoked(keyId);
      return { body: { key_id: keyId, active: false } };
    }, 'keys'),
  });

  resource(router, '/api/keys/:key_id/rotate', {
    post: endpoint(async ({ identity, params, body }) => {
      const keyId = keyIdOf(params);
      const { overlap_seconds = OVERLAP_SECONDS } = parseInput(rotateBody, body === undefined ? {} : objectOf(body));
      const { key, record } = found(await apiKeys.rotate(keyId, overlap_seconds));
      audit('key rotated', identity, { ...keySummary(record), replaces: keyId, overlap_seconds });
      // No overlap: the old key may be in the wrong hands, so its connections are closed too.
      await (overlap_seconds === 0 ? announceRevoked(keyId) : announceChanged(keyId));
      return { status: 201, body: { key, ...record, replaces: keyId } };
    }, 'keys'),
  });
}

/** @throws TaskwireError NOT_FOUND */
function keyIdOf(params: Readonly<Record<string, string>>): string {
  const keyId = params['key_id']!;
  if (!KEY_ID.test(keyId)) {
    throw new TaskwireError('NOT_FOUND');
  }
  return keyId;
}

/** @throws TaskwireError NOT_FOUND when there is nothing */
function found<Value>(value: Value | undefined): Value {
  if (value === undefined) {
    throw new TaskwireError('NOT_FOUND');
  }
  return value;
}
