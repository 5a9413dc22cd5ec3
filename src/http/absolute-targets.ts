import type { IncomingMessage, Server } from 'node:http';

/**
 * Has a server take targets with scheme and host (`GET http://host/path`), as clients send them to proxies, for what they mean: every
 * server has to, and some proxies pass them on. Express reads them; Engine.IO and the gateways look for the beginning of a path.
 * To be called when all listeners are there.
 */
export function takeAbsoluteTargets(server: Server): void {
  const shorten = (request: IncomingMessage): void => {
    request.url = originForm(request.url ?? '');
  };
  server.prependListener('request', shorten);
  if (server.listenerCount('upgrade') > 0) {
    server.prependListener('upgrade', shorten);
  }
}

/** @returns path and query of a target */
function originForm(target: string): string {
  const rest = target.replace(/^https?:\/\/[^/?#]*/i, '');
  return rest === target || rest.startsWith('/') ? rest : `/${rest}`;
}
