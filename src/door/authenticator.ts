import type { Identity } from '../protocol/tasks.js';
import type { ApiKeyAuth } from './api-key.js';
import { type Credentials, credentialOf } from './credentials.js';
import type { Tokens } from './tokens.js';

/** Says who somebody is, by an API key or a token. */
export interface Authenticate {
  /** Rises when a key is dropped from the cache. An authentication that began before has to be repeated. */
  readonly revision: number;
  /** @throws TaskwireError those of `credentialOf`, `ApiKeyAuth.authenticate` and `Tokens.verify` */
  authenticate(credentials: Credentials): Promise<Identity>;
}

export class Authenticator implements Authenticate {
  constructor(
    private readonly keys: Pick<ApiKeyAuth, 'authenticateKey' | 'revision'>,
    private readonly tokens: Pick<Tokens, 'verify'>,
  ) {}

  get revision(): number {
    return this.keys.revision;
  }

  async authenticate(credentials: Credentials): Promise<Identity> {
    const credential = credentialOf(credentials);
    return 'key' in credential ? this.keys.authenticateKey(credential.key) : this.tokens.verify(credential.token);
  }
}
