import type { Router } from 'express';
import { z } from 'zod';
import { TaskwireError } from '../protocol/errors.js';
import type { ApiKeyRecord, ApiKeyRepository } from '../repository/api-key-repository.js';
import { parseInput, userIdInput } from '../repository/task-input.js';
import { assertRole } from './authenticate.js';
import type { Endpoint } from './endpoint.js';
import { objectOf } from './input.js';
import { resource } from './resource.js';

export interface KeyRoutePorts {
  readonly apiKeys: Pick<ApiKeyRepository, 'create' | 'list' | 'disable'>;
  /** Requests per minute of a key that is made without a limit of its own. */
  readonly defaultRateLimit: number;
  /** Tells all workers that a key is no longer valid; never rejects. */
  readonly announceRevoked: (keyId: string) => Promise<void>;
}

const keyBody = z.object({
  owner: userIdInput,
  role: z.enum(['user', 'service', 'admin']).default('user'),
  rate_limit: z.number().int().positive().max(2_147_483_647).optional(),
  name: z
    .string()
    .max(128)
    .regex(/^\P{C}*$/u, 'wants printable characters')
    .optional(),
});

const KEY_ID = /^[\w-]{1,64}$/;

/** API keys, managed by keys of role `admin`. */
export function keyRoutes(router: Router, endpoint: Endpoint, ports: KeyRoutePorts): void {
  const { apiKeys, defaultRateLimit, announceRevoked } = ports;

  resource(router, '/api/keys', {
    get: endpoint(async ({ identity }) => {
      assertRole(identity, 'admin');
      return { body: { keys: (await apiKeys.list()).map(wireForm) } };
    }),
    post: endpoint(async ({ identity, body }) => {
      assertRole(identity, 'admin');
      const { owner, role, rate_limit = defaultRateLimit, name } = parseInput(keyBody, objectOf(body));
      const { key, record } = await apiKeys.create({ owner, role, rateLimit: rate_limit, name });
      return { status: 201, body: { key, ...wireForm(record) } };
    }),
  });

  resource(router, '/api/keys/:key_id', {
    delete: endpoint(async ({ identity, params }) => {
      assertRole(identity, 'admin');
      const keyId = params['key_id']!;
      if (!KEY_ID.test(keyId) || !(await apiKeys.disable(keyId))) {
        throw new TaskwireError('NOT_FOUND');
      }
      await announceRevoked(keyId);
      return { body: { key_id: keyId, active: false } };
    }),
  });
}

function wireForm(record: ApiKeyRecord): Record<string, unknown> {
  const { keyId, prefix, owner, role, name, rateLimit, active, createdAt, lastUsedAt } = record;
  return {
    key_id: keyId,
    prefix,
    owner,
    role,
    name,
    rate_limit: rateLimit,
    active,
    created_at: createdAt,
    last_used_at: lastUsedAt,
  };
}
