import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';

export type ProxyMode =
  /** Passes everything on. */
  | 'pass'
  /** Ends every connection, old and new. */
  | 'refuse'
  /** Keeps all connections open and says nothing on them; what comes is held, and goes on when the mode ends. */
  | 'blackhole';

interface Pair {
  readonly client: Socket;
  readonly upstream: Socket;
}

/** A wire that a test can cut, delay and silence. */
export class TcpProxy {
  private mode: ProxyMode = 'pass';
  private delayMs = 0;
  private readonly pairs = new Set<Pair>();
  private held: Array<() => void> = [];
  private readonly server: Server;

  constructor(private target: { readonly port: number; readonly host?: string }) {
    this.server = createServer((client) => this.accept(client));
  }

  get port(): number {
    return (this.server.address() as AddressInfo).port;
  }

  async start(host = '127.0.0.1', port = 0): Promise<void> {
    this.server.listen(port, host);
    await once(this.server, 'listening');
  }

  /** Ends all connections, as if both sides had reset them. New ones are taken as the mode says. */
  cut(): void {
    for (const { client, upstream } of [...this.pairs]) {
      client.destroy();
      upstream.destroy();
    }
  }

  /** Leads new connections elsewhere, as an address does that moves; those that exist stay where they are. */
  setTarget(target: { readonly port: number; readonly host?: string }): void {
    this.target = target;
  }

  setMode(mode: ProxyMode): void {
    this.mode = mode;
    if (mode === 'refuse') {
      this.cut();
    }
    if (mode !== 'blackhole') {
      for (const release of this.held.splice(0)) {
        release();
      }
    }
  }

  /** Lets each chunk arrive so much later, in milliseconds; their order stays. */
  setDelay(ms: number): void {
    this.delayMs = ms;
  }

  async stop(): Promise<void> {
    this.server.close();
    this.setMode('refuse');
    await once(this.server, 'close');
  }

  private accept(client: Socket): void {
    if (this.mode === 'refuse') {
      client.destroy();
      return;
    }
    const upstream = connect(this.target.port, this.target.host ?? '127.0.0.1');
    const pair: Pair = { client, upstream };
    this.pairs.add(pair);
    for (const [from, to] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      // Whatever has passed goes on before what comes later.
      let before = Promise.resolve();
      from.on('data', (chunk) => {
        const due = performance.now() + this.delayMs;
        before = before.then(async () => {
          await this.passable();
          const wait = due - performance.now();
          if (wait > 0) {
            await new Promise((resolve) => setTimeout(resolve, wait));
          }
          if (!to.destroyed) {
            to.write(chunk);
          }
        });
      });
      from.on('error', () => {});
      from.once('close', () => {
        this.pairs.delete(pair);
        void before.then(() => to.destroy());
      });
    }
  }

  private async passable(): Promise<void> {
    while (this.mode === 'blackhole') {
      await new Promise<void>((resolve) => this.held.push(resolve));
    }
  }
}

/** Starts a proxy, on a free port of 127.0.0.1 when it is not told another place. */
export async function startTcpProxy(
  target: { port: number; host?: string },
  { host = '127.0.0.1', port = 0 }: { host?: string; port?: number } = {},
): Promise<TcpProxy> {
  const proxy = new TcpProxy(target);
  await proxy.start(host, port);
  return proxy;
}
