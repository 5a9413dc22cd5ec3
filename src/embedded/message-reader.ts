/** Longest message that is taken: far above what a statement of this program needs. */
const MAX_MESSAGE_BYTES = 64 * 1024 * 1024;

const PROTOCOL_3 = 3;
const SSL_REQUEST = 80_877_103;
const GSS_REQUEST = 80_877_104;

/** A message of the Postgres protocol, as far as the server distinguishes them. */
export type Frame =
  /** Asks for encryption, which is answered with one byte. */
  | { readonly kind: 'encryption' }
  /** Asks to cancel a statement of another connection, which is not possible here. */
  | { readonly kind: 'cancel' }
  /** The first message of a session. */
  | { readonly kind: 'startup'; readonly bytes: Buffer }
  /** A message with its type. */
  | { readonly kind: 'message'; readonly type: string; readonly bytes: Buffer };

/** The client does not speak the protocol; its connection is closed. */
export class ProtocolError extends Error {
  override readonly name = 'ProtocolError';
}

/** Puts the chunks of one connection together and cuts them into frames. */
export class MessageReader {
  private chunks: Buffer[] = [];
  private length = 0;
  private started = false;

  push(chunk: Buffer): void {
    this.chunks.push(chunk);
    this.length += chunk.length;
  }

  /**
   * @returns the next whole frame; undefined when more bytes are needed
   * @throws ProtocolError
   */
  next(): Frame | undefined {
    // A startup message has no type before its length.
    const typeBytes = this.started ? 1 : 0;
    if (this.length < typeBytes + 4) {
      return undefined;
    }
    const length = typeBytes + this.joined().readInt32BE(typeBytes);
    if (length < typeBytes + 4 || length > MAX_MESSAGE_BYTES) {
      throw new ProtocolError(`a message of ${length} bytes`);
    }
    if (this.length < length) {
      return undefined;
    }
    const bytes = this.take(length);
    return this.started
      ? { kind: 'message', type: String.fromCharCode(bytes[0]!), bytes }
      : this.opening(bytes, length < 8 ? 0 : bytes.readInt32BE(4));
  }

  private opening(bytes: Buffer, code: number): Frame {
    if (code === SSL_REQUEST || code === GSS_REQUEST) {
      return { kind: 'encryption' };
    }
    if (code === SSL_REQUEST - 1) {
      return { kind: 'cancel' };
    }
    if (code >> 16 !== PROTOCOL_3) {
      throw new ProtocolError('not a startup message of protocol 3');
    }
    this.started = true;
    return { kind: 'startup', bytes };
  }

  private joined(): Buffer {
    if (this.chunks.length > 1) {
      this.chunks = [Buffer.concat(this.chunks)];
    }
    return this.chunks[0]!;
  }

  private take(length: number): Buffer {
    const all = this.joined();
    this.chunks = length === all.length ? [] : [all.subarray(length)];
    this.length -= length;
    return all.subarray(0, length);
  }
}
