import { join } from 'node:path';

/** The file in which a running primary says where its embedded database is, for commands of the same user. */
export const embeddedUrlFile = (dir: string): string => join(dir, 'database-url');
