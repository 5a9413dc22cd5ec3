/** @returns undefined when it is none. A socket has no host, and with a password before it that would be no URL at all. */
export function parseRedisUrl(text: string): URL | undefined {
  const whole = text.replace(/^((?:redis\+)?unix:\/\/[^/@]*@)\//i, '$1localhost/');
  const known = /^(?:rediss?|redis\+unix|unix):\/\//i.test(whole) && URL.canParse(whole);
  return known ? new URL(whole) : undefined;
}

/** What is wrong with a Redis URL: nothing that it says is left unread. */
export function redisUrlFault(text: string): string | undefined {
  const url = parseRedisUrl(text);
  if (url === undefined) {
    return 'wants redis://, rediss:// (TLS), or redis+unix:///path or unix:///path for a socket';
  }
  const { protocol, hostname, pathname, search, hash, searchParams } = url;
  // A password that is not encoded ends up in there, and is not shown.
  if (hash !== '' || /@/.test(pathname + search)) {
    return 'wants :, /, ?, # and @ of a password as %3A, %2F, %3F, %23 and %40; or put it into REDIS_PASSWORD';
  }
  const socket = protocol.endsWith('unix:');
  const unknown = [...searchParams.keys()].filter((name) => !(name === 'db' || (name === 'family' && !socket)));
  if (unknown.length > 0) {
    return `does not know the parameter ${unknown[0]}; there are db${socket ? '' : ' and family (4 or 6)'}`;
  }
  if (socket && ((hostname !== '' && hostname !== 'localhost') || pathname.length < 2)) {
    return 'wants the full path of the socket, with three slashes: redis+unix:///run/redis/redis.sock';
  }
  if (!socket && !/^\/?\d*$/.test(pathname)) {
    return 'wants the number of a database, or nothing, as its path';
  }
  return /^\d*$/.test(searchParams.get('db') ?? '') ? undefined : 'wants a number as db';
}
