import { expect } from 'chai';
import { AnswerReader } from '../../src/embedded/answer-reader.js';

function message(type: string, body: string): Buffer {
  const head = Buffer.alloc(5);
  head.write(type);
  head.writeUInt32BE(4 + Buffer.byteLength(body), 1);
  return Buffer.concat([head, Buffer.from(body)]);
}

const error = (severity: string, text: string): Buffer =>
  message('E', `S${severity}\0V${severity}\0C53100\0M${text}\0Fxlog.c\0\0`);

describe('answers of the embedded database', () => {
  const row = message('D', `${error('PANIC', 'in a row')}`);
  const answer = Buffer.concat([message('T', 'x'), row, error('ERROR', 'VPANIC'), message('Z', 'E')]);
  const panic = Buffer.concat([answer, error('PANIC', 'no room'), message('Z', 'I')]);

  it('tell that it has given up, in whatever pieces they come', () => {
    for (let size = 1; size <= panic.length; size += 1) {
      const reader = new AnswerReader();
      const told: string[] = [];
      for (let at = 0; at < panic.length; at += size) {
        told.push(...[reader.push(panic.subarray(at, at + size)) ?? []].flat());
      }
      expect(told, `pieces of ${size}`).to.deep.equal(['no room']);
    }
  });

  it('are not taken for that by what stands in rows and in other errors', () => {
    for (let size = 1; size <= answer.length; size += 1) {
      const reader = new AnswerReader();
      for (let at = 0; at < answer.length; at += size) {
        expect(reader.push(answer.subarray(at, at + size))).to.equal(undefined);
      }
    }
  });
});
