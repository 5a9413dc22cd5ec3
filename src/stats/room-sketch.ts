/** Hashes of a sketch: up to so many rooms a count is exact, beyond it is off by about 1/sqrt(4096), 1.6 %. */
const SIZE = 4_096;
const RANGE = 2 ** 53;

/**
 * The smallest hashes of a set of names. Sketches of many workers, merged, tell how many different rooms there are without
 * the rooms' names being sent: where the hashes are spread evenly, the n-th smallest of them tells how many there are.
 */
export class RoomSketch {
  private constructor(
    private readonly hashes: Float64Array,
    private readonly complete: boolean,
  ) {}

  static of(names: Iterable<string>): RoomSketch {
    return RoomSketch.smallest(Float64Array.from(names, hash), true);
  }

  /** The sketch of the union of the sets. */
  static merge(sketches: readonly RoomSketch[]): RoomSketch {
    const all = new Set(sketches.flatMap(({ hashes }) => [...hashes]));
    return RoomSketch.smallest(
      Float64Array.from(all),
      sketches.every(({ complete }) => complete),
    );
  }

  /** @returns undefined when the text is none that `encode` made */
  static decode(text: unknown): RoomSketch | undefined {
    const bytes = typeof text === 'string' ? Buffer.from(text, 'base64') : undefined;
    if (bytes === undefined || bytes.length % 8 !== 0 || bytes.length > SIZE * 8) {
      return undefined;
    }
    const hashes = new Float64Array(bytes.length / 8);
    hashes.forEach((_, index) => {
      hashes[index] = bytes.readDoubleLE(index * 8);
    });
    return hashes.every((value) => value >= 0 && value < RANGE)
      ? new RoomSketch(hashes, hashes.length < SIZE)
      : undefined;
  }

  encode(): string {
    const bytes = Buffer.alloc(this.hashes.length * 8);
    this.hashes.forEach((value, index) => {
      bytes.writeDoubleLE(value, index * 8);
    });
    return bytes.toString('base64');
  }

  /** Number of different names: exact for fewer than 4,096, an estimate beyond. */
  get count(): number {
    const { hashes, complete } = this;
    return complete ? hashes.length : Math.round(((hashes.length - 1) / hashes.at(-1)!) * RANGE);
  }

  private static smallest(hashes: Float64Array, complete: boolean): RoomSketch {
    hashes.sort();
    return new RoomSketch(hashes.slice(0, SIZE), complete && hashes.length < SIZE);
  }
}

/** A quick hash of 53 bits (cyrb53), well spread; it withstands no attacker and need not. */
function hash(text: string): number {
  let h1 = 0xdeadbeef;
  let h2 = 0x41c6ce57;
  for (let index = 0; index < text.length; index += 1) {
    const unit = text.charCodeAt(index);
    h1 = Math.imul(h1 ^ unit, 2_654_435_761);
    h2 = Math.imul(h2 ^ unit, 1_597_334_677);
  }
  h1 = Math.imul(h1 ^ (h1 >>> 16), 2_246_822_507) ^ Math.imul(h2 ^ (h2 >>> 13), 3_266_489_909);
  h2 = Math.imul(h2 ^ (h2 >>> 16), 2_246_822_507) ^ Math.imul(h1 ^ (h1 >>> 13), 3_266_489_909);
  return 4_294_967_296 * (2_097_151 & h2) + (h1 >>> 0);
}
