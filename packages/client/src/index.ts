export type { Backoff } from './backoff.js';
export type { Surroundings } from './engine.js';
export {
  CONNECTION,
  type ConnectionEvent,
  type ConnectionState,
  ROOM,
  type RoomEvent,
  type RoomState,
  type Table,
} from './machine.js';
export type { ErrorBody, Position, TaskEvent, TaskRow } from './protocol.js';
export {
  type InitialData,
  type Listener,
  type Resync,
  type RoomSnapshot,
  type StreamItem,
  TaskwireClientError,
} from './room-store.js';
export {
  type ConnectionSnapshot,
  createTaskwire,
  type KeyValueStorage,
  type RoomHandle,
  type RoomOptions,
  type Store,
  type Taskwire,
  type TaskwireOptions,
} from './taskwire.js';
export type { Answer, Credential, Incoming, Link, LinkEnd, LinkEvents, Transport } from './transport.js';
export { type WebSocketConstructor, type WebSocketLike, websocket } from './websocket.js';
