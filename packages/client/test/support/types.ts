export type { Answer, Incoming, Link, LinkEvents, Position, TaskEvent, TaskRow, Transport } from '@taskwire/client';
export type { SubscribeRequest } from '@taskwire/client/protocol';
