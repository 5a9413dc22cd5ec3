import { createRequire } from 'node:module';

/** What the peer uses of uWebSockets.js, which publishes only through its own repository and so is no dependency of this package. */
export interface Uws {
  App(): UwsApp;
}

interface UwsApp {
  ws<UserData>(path: string, behavior: UwsBehavior<UserData>): UwsApp;
  publish(topic: string, message: Uint8Array, isBinary: boolean): boolean;
  listen(host: string, port: number, listening: (socket: unknown) => void): UwsApp;
}

interface UwsBehavior<UserData> {
  maxBackpressure: number;
  upgrade(response: UwsResponse<UserData>, request: { getHeader(name: string): string }, context: unknown): void;
  message(socket: UwsSocket<UserData>, bytes: ArrayBuffer): void;
  close(socket: UwsSocket<UserData>): void;
}

interface UwsResponse<UserData> {
  upgrade(data: UserData, key: string, protocol: string, extensions: string, context: unknown): void;
}

interface UwsSocket<UserData> {
  getUserData(): UserData;
  subscribe(topic: string): boolean;
  send(text: string): number;
}

/** @returns undefined where the package or its binary for this machine is missing */
export function loadUws(): Uws | undefined {
  try {
    return createRequire(import.meta.url)('uWebSockets.js') as Uws;
  } catch {
    return undefined;
  }
}
