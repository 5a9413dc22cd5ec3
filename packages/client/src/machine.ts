/**
 * The client's two state machines, as tables: every state, every event, no empty cell. The compiler holds that.
 *
 * The tables say only which state comes next. What is done on the way (open a link, ask for a room, set a timer) follows
 * from the state that is entered and is in `engine.ts`.
 */

/**
 * - `idle`: nobody watches anything, there is no connection
 * - `connecting`: a link is being opened
 * - `open`: the link works
 * - `waiting`: the link was lost; the next try has its time
 * - `asleep`: the page is frozen or in the back-forward cache, or the app is in the background
 * - `failed`: the server refused for good; something has to change first
 * - `closed`: ended by `close()`
 */
export type ConnectionState = 'idle' | 'connecting' | 'open' | 'waiting' | 'asleep' | 'failed' | 'closed';

/**
 * - `wanted`: somebody watches something; `unwanted`: nobody any more
 * - `opened`: the link works
 * - `lost`: the link ended, was refused for now, did not open in time, or is dead
 * - `refused`: the server refused the connection for good
 * - `due`: the time of the next try has come
 * - `online`: the browser says that there is a network again
 * - `sleep`, `wake`: the page is frozen and thawed
 * - `retry`: the program says that something has changed
 * - `close`: the program ends the client
 */
export type ConnectionEvent =
  | 'wanted'
  | 'unwanted'
  | 'opened'
  | 'lost'
  | 'refused'
  | 'due'
  | 'online'
  | 'sleep'
  | 'wake'
  | 'retry'
  | 'close';

/** A machine in which each state answers each event. */
export type Table<State extends string, Event extends string> = {
  readonly [S in State]: { readonly [E in Event]: State };
};

/** The cells of a state in which events change nothing, but for those that are named after it. */
const stay = <S extends string, E extends string>(state: S, events: readonly E[]) =>
  Object.fromEntries(events.map((event) => [event, state])) as { [Event in E]: S };

const quiet = <S extends ConnectionState>(state: S) => ({
  ...stay(state, [
    'wanted',
    'unwanted',
    'opened',
    'lost',
    'refused',
    'due',
    'online',
    'sleep',
    'wake',
    'retry',
  ] as const),
  close: 'closed' as const,
});

export const CONNECTION: Table<ConnectionState, ConnectionEvent> = {
  idle: { ...quiet('idle'), wanted: 'connecting' },
  connecting: {
    ...quiet('connecting'),
    unwanted: 'idle',
    opened: 'open',
    lost: 'waiting',
    refused: 'failed',
    sleep: 'asleep',
  },
  open: { ...quiet('open'), unwanted: 'idle', lost: 'waiting', refused: 'failed', sleep: 'asleep' },
  waiting: {
    ...quiet('waiting'),
    unwanted: 'idle',
    due: 'connecting',
    online: 'connecting',
    sleep: 'asleep',
    wake: 'connecting',
    retry: 'connecting',
  },
  asleep: { ...quiet('asleep'), unwanted: 'idle', wake: 'connecting', retry: 'connecting' },
  failed: { ...quiet('failed'), unwanted: 'idle', retry: 'connecting' },
  closed: quiet('closed'),
};

/**
 * - `off`: not asked for on the connection of now
 * - `joining`: asked for; what arrives is kept aside until the answer says that it is complete
 * - `live`: complete, and every event is applied as it comes
 * - `held`: refused for now, or a gap was found; asked again in a moment
 * - `refused`: refused for good
 */
export type RoomState = 'off' | 'joining' | 'live' | 'held' | 'refused';

/**
 * - `ask`: a SUBSCRIBE goes out
 * - `lost`: the connection is gone
 * - `joined`: the answer is good and what was sent is complete
 * - `later`, `never`: the answer is a refusal, for now or for good
 * - `gap`: what was sent is not complete
 * - `retry`: it may be asked for again
 */
export type RoomEvent = 'ask' | 'lost' | 'joined' | 'later' | 'never' | 'gap' | 'retry';

const still = <S extends RoomState>(state: S) =>
  stay(state, ['ask', 'lost', 'joined', 'later', 'never', 'gap', 'retry'] as const);

export const ROOM: Table<RoomState, RoomEvent> = {
  off: { ...still('off'), ask: 'joining' },
  joining: { ...still('joining'), lost: 'off', joined: 'live', later: 'held', never: 'refused', gap: 'held' },
  live: { ...still('live'), ask: 'joining', lost: 'off', gap: 'held' },
  held: { ...still('held'), ask: 'joining', lost: 'off', retry: 'off' },
  refused: { ...still('refused'), retry: 'off' },
};
