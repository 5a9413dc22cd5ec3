import { hash, randomBytes } from 'node:crypto';

/** 32 random bytes in base64url, and a checksum of six characters. Keys of earlier versions have no checksum. */
const FORM = /^(tw_[A-Za-z0-9_-]{43})([A-Za-z0-9_-]{6})?$/;
const CHECK_LENGTH = 6;

const checkOf = (text: string): string => hash('sha256', text, 'base64url').slice(0, CHECK_LENGTH);

/** A new API key. */
export function newApiKey(): string {
  const text = `tw_${randomBytes(32).toString('base64url')}`;
  return `${text}${checkOf(text)}`;
}

/**
 * Whether a text can be an API key. The checksum shows mistyped and invented ones without a look-up. It is no secret: an
 * attacker who knows it can invent keys that have to be looked up.
 */
export function canBeApiKey(text: string): boolean {
  const [, key, check] = FORM.exec(text) ?? [];
  return key !== undefined && (check === undefined || check === checkOf(key));
}
