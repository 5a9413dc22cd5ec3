import { z } from 'zod';
import { ROLE_SCOPES, ROLES, type Role, SCOPES, type Scope } from '../protocol/tasks.js';
import { userIdInput } from './task-input.js';

/** Requests per minute of a key that is made without a limit of its own. */
export const DEFAULT_RATE_LIMIT = 600;

/** Requests per minute. */
export const rateLimitInput = z.number().int().positive().max(2_147_483_647);

/** Seconds for which a key and its successor are both valid: up to 30 days. */
export const overlapInput = z.number().int().min(0).max(2_592_000);

/** What a key is made of, checked. */
export const apiKeyInput = z
  .strictObject({
    owner: userIdInput,
    role: z.enum(ROLES as [Role, ...Role[]]).default('user'),
    rate_limit: rateLimitInput.default(DEFAULT_RATE_LIMIT),
    name: z
      .string()
      .max(128)
      .regex(/^\P{C}*$/u, 'wants printable characters')
      .optional(),
    scopes: z
      .array(z.enum(SCOPES as [Scope, ...Scope[]]))
      .min(1)
      .optional(),
    expires_at: z.iso
      .datetime({ offset: true, message: 'wants an RFC 3339 date and time' })
      .refine((text) => new Date(text).getTime() > Date.now(), { message: 'wants a time in the future' })
      .optional(),
  })
  .refine(({ role, scopes }) => scopes === undefined || scopes.every((scope) => ROLE_SCOPES[role].includes(scope)), {
    path: ['scopes'],
    message: 'wants scopes that the role has',
  });
