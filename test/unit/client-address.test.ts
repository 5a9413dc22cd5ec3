import type { IncomingMessage } from 'node:http';
import { expect } from 'chai';
import { addressGroup, clientAddress } from '../../src/door/client-address.js';
import { originCheck } from '../../src/door/origin.js';
import { refusalCode } from '../support/refusal.js';

const requestFrom = (remoteAddress: string | undefined, headers: Record<string, string> = {}): IncomingMessage =>
  ({ socket: { remoteAddress }, headers }) as unknown as IncomingMessage;

describe('client address', () => {
  const find = (trusted: string[], remote: string | undefined, forwarded?: string): string =>
    clientAddress(trusted)(requestFrom(remote, forwarded === undefined ? {} : { 'x-forwarded-for': forwarded }));

  it('is the peer, whatever it claims, unless the peer is a trusted proxy', () => {
    expect(find([], '203.0.113.7')).to.equal('203.0.113.7');
    expect(find([], '203.0.113.7', '10.0.0.1')).to.equal('203.0.113.7');
    expect(find(['loopback'], '203.0.113.7', '10.0.0.1')).to.equal('203.0.113.7');
    expect(find(['loopback'], '127.0.0.1', '198.51.100.4')).to.equal('198.51.100.4');
  });

  it('reads X-Forwarded-For from its end for as long as proxies are trusted', () => {
    expect(find(['loopback', '10.0.0.0/8'], '127.0.0.1', '6.6.6.6, 198.51.100.4, 10.1.2.3')).to.equal('198.51.100.4');
    expect(find(['127.0.0.1'], '127.0.0.1', '6.6.6.6, 10.1.2.3')).to.equal('10.1.2.3');
    expect(find(['loopback'], '127.0.0.1')).to.equal('127.0.0.1');
  });

  it('has one form for each address', () => {
    expect(find([], '::ffff:203.0.113.7')).to.equal('203.0.113.7');
    expect(find(['loopback'], '::ffff:127.0.0.1', '::FFFF:CB00:7107')).to.equal('203.0.113.7');
    expect(find(['loopback'], '::1', '2001:DB8:0:0:0:0:0:1')).to.equal('2001:db8::1');
    expect(find(['loopback'], '::1', '[2001:db8::1]:4711')).to.equal('2001:db8::1');
    expect(find(['loopback'], '::1', '198.51.100.4:4711')).to.equal('198.51.100.4');
    expect(find([], 'fe80::1%eth0')).to.equal('fe80::1');
  });

  it('takes nothing for an address that is none', () => {
    expect(find(['loopback'], '127.0.0.1', 'unknown')).to.equal('127.0.0.1');
    expect(find(['loopback'], '127.0.0.1', 'x'.repeat(5_000))).to.equal('127.0.0.1');
    expect(find(['loopback'], undefined, '198.51.100.4')).to.equal('unknown');
  });

  it('refuses a proxy that is no address', () => {
    expect(() => clientAddress(['nginx'])).to.throw(TypeError);
  });

  it('counts an IPv6 network as one', () => {
    expect(addressGroup('203.0.113.7')).to.equal('203.0.113.7');
    expect(addressGroup('2001:db8:1:2:3:4:5:6')).to.equal('2001:db8:1:2::/64');
    expect(addressGroup('2001:db8:1:2::9')).to.equal('2001:db8:1:2::/64');
    expect(addressGroup('2001:db8::1')).to.equal('2001:db8:0:0::/64');
    expect(addressGroup('::1')).to.equal('0:0:0:0::/64');
    expect(addressGroup('unknown')).to.equal('unknown');
  });
});

describe('origin', () => {
  const check = (allowed: string[], origin?: string) => () =>
    originCheck(allowed)(requestFrom('127.0.0.1', origin === undefined ? {} : { origin }));

  it('passes when it is allowed, when all are, and when there is none', () => {
    check(['https://app.example.com'], 'https://app.example.com')();
    check(['HTTPS://App.example.com:443/'], 'https://app.example.com')();
    check(['*'], 'https://anything.example')();
    check(['*'], 'null')();
    check(['https://app.example.com'])();
  });

  it('is refused otherwise', async () => {
    for (const origin of [
      'https://app.example.com.evil',
      'http://app.example.com',
      'null',
      '',
      'file:///x',
      'data:,',
    ]) {
      expect(await refusalCode(check(['https://app.example.com'], origin)), origin).to.equal('ORIGIN_NOT_ALLOWED');
    }
    expect(await refusalCode(check([], 'https://app.example.com'))).to.equal('ORIGIN_NOT_ALLOWED');
  });
});
