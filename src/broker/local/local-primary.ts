import { RateLimiterMemory } from 'rate-limiter-flexible';
import type { PrimaryChannel, ToPrimary } from '../../base/process-messages.js';
import type { RateLimitResult } from '../broker.js';

const WINDOW_SECONDS = 60;

/** One worker, as the primary sees it. */
interface Peer {
  readonly link: PrimaryChannel;
  nodeId: string | undefined;
  readonly channels: Set<string>;
  /** Connections by address; what a worker held is free when its channel ends. */
  readonly held: Map<string, number>;
  outgoing: Array<[string, Uint8Array]>;
}

/** The primary's half of the local broker: routes messages to subscribed workers, and counts requests and connections. */
export class LocalPrimary {
  private readonly peers = new Set<Peer>();
  private readonly channels = new Map<string, Set<Peer>>();
  private readonly addresses = new Map<string, number>();
  private readonly limiter = new RateLimiterMemory({ points: Number.MAX_SAFE_INTEGER, duration: WINDOW_SECONDS });

  /** Takes a worker in; it leaves when its link closes. */
  attach(link: PrimaryChannel): void {
    const peer: Peer = { link, nodeId: undefined, channels: new Set(), held: new Map(), outgoing: [] };
    this.peers.add(peer);
    link.onMessage((message) => void this.handle(peer, message));
    link.onClose(() => this.detach(peer));
  }

  private async handle(peer: Peer, message: ToPrimary): Promise<void> {
    switch (message.type) {
      case 'taskwire:hello':
        peer.nodeId = message.nodeId;
        break;
      case 'taskwire:bye':
        this.detach(peer);
        break;
      case 'taskwire:subscribe': {
        peer.channels.add(message.channel);
        const listeners = this.channels.get(message.channel) ?? new Set();
        this.channels.set(message.channel, listeners.add(peer));
        this.answer(peer, message.call, true);
        break;
      }
      case 'taskwire:unsubscribe':
        this.unsubscribe(peer, message.channel);
        this.answer(peer, message.call, true);
        break;
      case 'taskwire:publish':
        this.route(message.items);
        break;
      case 'taskwire:consume':
        this.answer(peer, message.call, await this.consume(message.key, message.limit, message.requests));
        break;
      case 'taskwire:acquire':
        this.answer(peer, message.call, this.acquire(peer, message.address, message.limit));
        break;
      case 'taskwire:release':
        this.release(peer, message.address);
        break;
      case 'taskwire:nodes':
        this.answer(
          peer,
          message.call,
          [...this.peers].flatMap(({ nodeId }) => nodeId ?? []),
        );
        break;
    }
  }

  private route(items: Array<[string, Uint8Array]>): void {
    const touched = new Set<Peer>();
    for (const item of items) {
      for (const peer of this.channels.get(item[0]) ?? []) {
        peer.outgoing.push(item);
        touched.add(peer);
      }
    }
    for (const peer of touched) {
      const outgoing = peer.outgoing;
      peer.outgoing = [];
      this.send(peer, { type: 'taskwire:messages', items: outgoing });
    }
  }

  private async consume(key: string, limit: number, requests: number): Promise<RateLimitResult> {
    const { consumedPoints, msBeforeNext } = await this.limiter.consume(key, requests);
    return {
      allowed: consumedPoints <= limit,
      limit,
      remaining: Math.max(0, limit - consumedPoints),
      // The library uses the time of day, which may have been set since the window began.
      resetMs: Math.min(WINDOW_SECONDS * 1_000, Math.max(0, msBeforeNext)),
    };
  }

  private acquire(peer: Peer, address: string, limit: number): boolean {
    const taken = this.addresses.get(address) ?? 0;
    if (taken >= limit) {
      return false;
    }
    this.addresses.set(address, taken + 1);
    peer.held.set(address, (peer.held.get(address) ?? 0) + 1);
    return true;
  }

  private release(peer: Peer, address: string): void {
    if (peer.held.has(address)) {
      lower(peer.held, address, 1);
      lower(this.addresses, address, 1);
    }
  }

  private unsubscribe(peer: Peer, channel: string): void {
    peer.channels.delete(channel);
    const listeners = this.channels.get(channel);
    listeners?.delete(peer);
    if (listeners?.size === 0) {
      this.channels.delete(channel);
    }
  }

  private detach(peer: Peer): void {
    this.peers.delete(peer);
    for (const channel of [...peer.channels]) {
      this.unsubscribe(peer, channel);
    }
    for (const [address, count] of peer.held) {
      lower(this.addresses, address, count);
    }
    peer.held.clear();
  }

  private answer(peer: Peer, call: number, result: unknown): void {
    this.send(peer, { type: 'taskwire:answer', call, result });
  }

  private send(peer: Peer, message: Parameters<PrimaryChannel['send']>[0]): void {
    try {
      peer.link.send(message);
    } catch {
      this.detach(peer);
    }
  }
}

function lower(counts: Map<string, number>, key: string, by: number): void {
  const count = (counts.get(key) ?? 0) - by;
  if (count > 0) {
    counts.set(key, count);
  } else {
    counts.delete(key);
  }
}
