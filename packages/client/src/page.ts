/** What a page or an app tells of itself. */
export interface PageEvents {
  /** Frozen, or put into the back-forward cache. */
  sleep(): void;
  wake(): void;
  /** There is a network again. */
  online(): void;
  /** Seen again: timers may have stood still. */
  visible(): void;
  /** About to go, perhaps for good: what is to be kept is kept now. */
  hidden(): void;
}

/**
 * Listens to the events of a page, where there is one.
 * @returns stops listening
 */
export function watchPage(events: PageEvents): () => void {
  const page = globalThis.document;
  if (typeof globalThis.addEventListener !== 'function' || page === undefined) {
    return () => {};
  }
  const stop = new AbortController();
  const on = (target: EventTarget, type: string, listener: (event: Event) => void): void =>
    target.addEventListener(type, listener, { signal: stop.signal });
  on(globalThis, 'online', events.online);
  on(globalThis, 'pagehide', (event) => {
    events.hidden();
    // A page with an open connection is not kept in the back-forward cache.
    if ((event as PageTransitionEvent).persisted) {
      events.sleep();
    }
  });
  on(globalThis, 'pageshow', (event) => (event as PageTransitionEvent).persisted && events.wake());
  on(page, 'freeze', events.sleep);
  on(page, 'resume', events.wake);
  on(page, 'visibilitychange', () => (page.visibilityState === 'visible' ? events.visible() : events.hidden()));
  return () => stop.abort();
}
