import { expect } from 'chai';
import fc from 'fast-check';
import { type Frame, MessageReader, ProtocolError } from '../../src/embedded/message-reader.js';

const int32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32BE(value);
  return bytes;
};
const opening = (code: number, body = ''): Buffer =>
  Buffer.concat([int32(8 + body.length), int32(code), Buffer.from(body)]);
const message = (type: string, body: Uint8Array): Buffer =>
  Buffer.concat([Buffer.from(type), int32(4 + body.length), body]);

const STARTUP = opening(3 << 16, 'user\0me\0\0');
const SSL = opening(80_877_103);

function readAll(reader: MessageReader): Frame[] {
  const frames: Frame[] = [];
  for (let frame = reader.next(); frame !== undefined; frame = reader.next()) {
    frames.push(frame);
  }
  return frames;
}

describe('MessageReader', () => {
  it('cuts the same frames out of any chunks', () => {
    const messages = fc.array(fc.tuple(fc.constantFrom('Q', 'P', 'B', 'S'), fc.uint8Array({ maxLength: 300 })));
    fc.assert(
      fc.property(messages, fc.array(fc.integer({ min: 1, max: 50 })), (said, cuts) => {
        const whole = Buffer.concat([SSL, STARTUP, ...said.map(([type, body]) => message(type, body))]);
        const reader = new MessageReader();
        const frames: Frame[] = [];
        let start = 0;
        for (const cut of [...cuts, whole.length]) {
          if (start < whole.length) {
            reader.push(whole.subarray(start, start + cut));
            frames.push(...readAll(reader));
            start += cut;
          }
        }
        const [ssl, startup, ...rest] = frames;
        expect(ssl).to.deep.equal({ kind: 'encryption' });
        expect(startup).to.deep.equal({ kind: 'startup', bytes: STARTUP });
        expect(rest).to.deep.equal(said.map(([type, body]) => ({ kind: 'message', type, bytes: message(type, body) })));
      }),
    );
  });

  it('refuses what is not the protocol', () => {
    for (const bytes of [Buffer.from('GET / HTTP/1.1\r\n\r\n'), opening(2 << 16), int32(3), int32(-5)]) {
      const reader = new MessageReader();
      reader.push(bytes);
      expect(() => reader.next()).to.throw(ProtocolError);
    }
    const reader = new MessageReader();
    reader.push(Buffer.concat([STARTUP, Buffer.from('Q'), int32(0x7fff_ffff)]));
    reader.next();
    expect(() => reader.next()).to.throw(ProtocolError);
  });
});
