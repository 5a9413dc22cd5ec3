import type { IncomingMessage } from 'node:http';
import { expect } from 'chai';
import { loadConfig } from '../../src/config.js';
import { originCheck } from '../../src/door/origin.js';
import type { TaskwireError } from '../../src/protocol/errors.js';

/** Whether pages of an origin pass, with ALLOWED_ORIGINS as it is configured. */
function passes(allowed: string, origin: string | undefined): boolean {
  const check = originCheck(loadConfig({ ALLOWED_ORIGINS: allowed }).ALLOWED_ORIGINS);
  try {
    check({ headers: { origin } } as IncomingMessage);
    return true;
  } catch (error) {
    expect((error as TaskwireError).code).to.equal('ORIGIN_NOT_ALLOWED');
    return false;
  }
}

describe('origins', () => {
  const cases: Array<[allowed: string, good: string[], bad: string[]]> = [
    ['*', ['https://a.example', 'null', 'capacitor://localhost', 'whatever'], []],
    [
      'https://app.example.com',
      ['https://app.example.com', 'HTTPS://App.Example.com:443'],
      ['http://app.example.com', 'https://app.example.com:444', 'https://app.example.com.evil.example', 'null'],
    ],
    [
      'https://*.example.com',
      ['https://a.example.com', 'https://a.b.example.com', 'https://a.example.com:443'],
      [
        'https://example.com',
        'https://.example.com',
        'https://evilexample.com',
        'https://a.example.com:8443',
        'http://a.example.com',
        'https://a.example.com/x',
        'https://a@b.example.com',
        'https://evil.example/.example.com',
      ],
    ],
    [
      'http://localhost:*',
      ['http://localhost', 'http://localhost:3000', 'http://localhost:80'],
      ['https://localhost:3000', 'http://localhost.evil.example:3000', 'http://127.0.0.1:3000', 'http://localhost:'],
    ],
    [
      'https://münchen.example, https://*.Zürich.example',
      ['https://xn--mnchen-3ya.example', 'https://a.xn--zrich-kva.example'],
      ['https://munchen.example', 'https://xn--zrich-kva.example'],
    ],
    ['http://[::1]:*', ['http://[::1]:5173'], ['http://[::2]:5173']],
    [
      'capacitor://localhost, tauri://localhost,ionic://localhost',
      ['capacitor://localhost', 'tauri://localhost', 'ionic://localhost'],
      ['null', 'app://localhost', 'http://localhost', 'capacitor://evil'],
    ],
    ['null', ['null'], ['https://a.example', 'capacitor://localhost', 'file://']],
  ];
  for (const [allowed, good, bad] of cases) {
    it(`${allowed} are these and no others`, () => {
      for (const origin of good) {
        expect(passes(allowed, origin), origin).to.equal(true);
      }
      for (const origin of bad) {
        expect(passes(allowed, origin), origin).to.equal(false);
      }
      expect(passes(allowed, undefined), 'no browser').to.equal(true);
    });
  }
});
