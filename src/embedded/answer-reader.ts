const HEAD_BYTES = 5;
const ERROR = 'E'.charCodeAt(0);

/**
 * Reads what the database answers, in whatever pieces, and finds in it that it has given up.
 *
 * A Postgres that cannot go on says PANIC and ends; a new one recovers from its journal. The embedded one says it and goes
 * on, in a state in which it answers nothing but errors. Example: the disk is full, and its journal needs a new file.
 */
export class AnswerReader {
  /** The beginning of a message whose rest has not come. */
  private rest: Buffer = Buffer.alloc(0);
  /** Bytes of a message that nobody looks at which have not come. */
  private left = 0;

  /** @returns what the database has said when it gave up, if these bytes complete that */
  push(data: Uint8Array): string | undefined {
    const bytes =
      this.rest.length === 0
        ? Buffer.from(data.buffer, data.byteOffset, data.byteLength)
        : Buffer.concat([this.rest, data]);
    let at = Math.min(this.left, bytes.length);
    this.left -= at;
    let panic: string | undefined;
    while (bytes.length - at >= HEAD_BYTES) {
      const end = at + 1 + bytes.readUInt32BE(at + 1);
      if (bytes[at] === ERROR) {
        if (end > bytes.length) {
          break;
        }
        panic ??= panicIn(bytes.toString('utf8', at + HEAD_BYTES, end));
      }
      this.left = Math.max(0, end - bytes.length);
      at = Math.min(end, bytes.length);
    }
    // The database reuses its output buffer.
    this.rest = Buffer.from(bytes.subarray(at));
    return panic;
  }
}

/** @param fields of an error, each a letter and a text that ends with a zero */
function panicIn(fields: string): string | undefined {
  const all = fields.split('\0');
  return all.includes('VPANIC') ? (all.find((field) => field.startsWith('M'))?.slice(1) ?? '') : undefined;
}
