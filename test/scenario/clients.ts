import type { LinkOpener } from '../support/links.js';
import type { Scene } from '../support/scene.js';
import { Subscriber, type Wire } from '../support/subscriber.js';
import { stockSocketio, stockStream, stockWebsocket } from './stock-clients.js';

/** Three doors, each with our own client, which keeps positions and asks again, and with what everybody has. */
export const CLIENT_KINDS = [
  'websocket',
  'socket.io',
  'sse',
  'stock websocket',
  'stock socket.io',
  'stock sse',
] as const;
export type ClientKind = (typeof CLIENT_KINDS)[number];

/** As many as an address may have (MAX_CONNECTIONS_PER_IP): whoever comes back too early is refused for now. */
const CLIENTS_PER_ADDRESS = 10;
/** One of ours in so many watches its user as well. */
const USER_ROOM_EVERY = 4;
const RECONNECT_MS = 500;

export interface Client {
  readonly kind: ClientKind;
  readonly subscriber: Subscriber;
}

/** An address of this machine for each ten clients. */
function addressOf(index: number): string {
  const address = Math.floor(index / CLIENTS_PER_ADDRESS);
  return `127.0.${10 + Math.floor(address / 250)}.${1 + (address % 250)}`;
}

/**
 * Connects clients of all kinds, at once.
 * @param url of the proxy
 * @param tokens one for each user, by user id
 */
export function startClients({
  url,
  count,
  scene,
  tokens,
}: {
  url: string;
  count: number;
  scene: Scene;
  tokens: ReadonlyMap<string, string>;
}): Client[] {
  return Array.from({ length: count }, (_, index) => {
    const kind = CLIENT_KINDS[index % CLIENT_KINDS.length]!;
    const { jobId, userId } = scene.jobs[Math.floor(index / CLIENT_KINDS.length) % scene.jobs.length]!;
    const rooms = [`job:${jobId}`];
    if ((kind === 'websocket' || kind === 'socket.io') && index % USER_ROOM_EVERY === 0) {
      rooms.push(`user:${userId}`);
    }
    const openers: Readonly<Record<ClientKind, Wire | LinkOpener>> = {
      websocket: 'websocket',
      'socket.io': 'socket.io',
      sse: 'sse',
      'stock websocket': stockWebsocket,
      'stock socket.io': stockSocketio,
      'stock sse': stockStream(tokens.get(userId)!),
    };
    const from = { localAddress: addressOf(index), reconnectMs: RECONNECT_MS };
    return { kind, subscriber: new Subscriber(openers[kind], url, scene.keys.get(userId)!, rooms, from) };
  });
}
