// biome-ignore-all lint/suspicious/noTemplateCurlyInString: what is replaced is the text of code, with its templates

/**
 * Faults that somebody could write into `src`, each with the test that fails because of it. `npm run mutants` shows it:
 * `test/fault/mutate.ts` puts one fault at a time into a copy of the program and runs that test.
 */
export interface Mutant {
  /** What does not happen any more, or happens wrongly. */
  readonly name: string;
  /** A file of `src`. */
  readonly file: string;
  /** Replacements in it. Each text stands there exactly once. */
  readonly edits: ReadonlyArray<readonly [text: string, replacement: string]>;
  readonly killedBy: NamedTest;
}

export interface NamedTest {
  /** A test file, or a suite that `SUITES` knows how to run. */
  readonly file: string;
  readonly title: string;
}

/** Suites that test files run: with which file, and under which title. The embedded database needs no other program. */
export const SUITES: Readonly<Record<string, { readonly file: string; readonly title: string }>> = {
  'test/contract/repository.suite.ts': {
    file: 'test/contract/repository.test.ts',
    title: 'repositories over the embedded database',
  },
  'test/contract/capture.suite.ts': {
    file: 'test/contract/repository.test.ts',
    title: 'capture over the embedded database',
  },
  'test/contract/bounds.suite.ts': {
    file: 'test/contract/repository.test.ts',
    title: 'bounds of capture over the embedded database',
  },
  'test/contract/once.suite.ts': {
    file: 'test/contract/repository.test.ts',
    title: 'writes under keys over the embedded database',
  },
  'test/contract/foreign-triggers.suite.ts': {
    file: 'test/contract/repository.test.ts',
    title: 'triggers of the operator over the embedded database',
  },
  'test/contract/broker.suite.ts': { file: 'test/contract/broker.test.ts', title: 'local broker' },
};

const stream = (title: string): NamedTest => ({ file: 'test/unit/hub-stream.test.ts', title });
const catchUp = (title: string): NamedTest => ({ file: 'test/unit/catch-up.test.ts', title });
const connections = (title: string): NamedTest => ({ file: 'test/unit/connections.test.ts', title });
const door = (title: string): NamedTest => ({ file: 'test/unit/door.test.ts', title });
const renewal = (title: string): NamedTest => ({ file: 'test/unit/renewal.test.ts', title });
const session = (title: string): NamedTest => ({ file: 'test/unit/session.test.ts', title });
const repository = (title: string): NamedTest => ({ file: 'test/contract/repository.suite.ts', title });
const once = (title: string): NamedTest => ({ file: 'test/contract/once.suite.ts', title });
const foreign = (title: string): NamedTest => ({ file: 'test/contract/foreign-triggers.suite.ts', title });
const capture = (title: string): NamedTest => ({ file: 'test/contract/capture.suite.ts', title });
const failover = (title: string): NamedTest => ({ file: 'test/integration/postgres-failover.test.ts', title });
const replica = (title: string): NamedTest => ({ file: 'test/integration/read-replica.test.ts', title });
const bounds = (title: string): NamedTest => ({ file: 'test/contract/bounds.suite.ts', title });
const moved: NamedTest = {
  file: 'test/integration/moved-tasks.test.ts',
  title: 'is deleted for the one and created for the other, and nobody sees what is not theirs any more',
};

export const MUTANTS: readonly Mutant[] = [
  // The stream: order, gaps, the log.
  {
    name: 'gaps are not repaired',
    file: 'src/hub/stream.ts',
    edits: [['if (this.repairing || this.stopped) {', 'if (Date.now() > 0) {']],
    killedBy: stream('reads what the broker lost from the log, page by page'),
  },
  {
    name: 'the second page of a repair is not read',
    file: 'src/hub/stream.ts',
    edits: [['awaits = this.take(page.events, late);', 'awaits = this.take(page.events, late); break;']],
    killedBy: stream('reads what the broker lost from the log, page by page'),
  },
  {
    name: 'a hole in the log is passed over',
    file: 'src/hub/stream.ts',
    edits: [
      [
        'const hole = page.floor > before || (first !== undefined && first.seq !== before + 1);',
        'const hole = first === undefined && before < 0;',
      ],
    ],
    killedBy: stream('ends its connections when the log has lost what they miss'),
  },
  {
    name: 'copies are delivered',
    file: 'src/hub/stream.ts',
    edits: [['} else if (event.seq === this.last + 1) {', '} else if (event.seq <= this.last + 1) {']],
    killedBy: stream('drops copies'),
  },
  {
    name: 'events ahead of a gap are delivered',
    file: 'src/hub/stream.ts',
    edits: [['} else if (event.seq === this.last + 1) {', '} else if (event.seq > this.last) {']],
    killedBy: stream('puts what comes in another order right'),
  },
  {
    name: 'the epoch of an event is not checked',
    file: 'src/hub/stream.ts',
    edits: [['} else if (event.epoch !== this.epoch) {', "} else if (event.epoch === '') {"]],
    killedBy: stream('takes no event of another epoch'),
  },
  {
    name: 'the epoch of a head is not checked',
    file: 'src/hub/stream.ts',
    edits: [['if (head.epoch !== this.epoch || head.seq < lastThen) {', 'if (head.seq < lastThen) {']],
    killedBy: stream('ends its connections when the log has another epoch'),
  },
  {
    name: 'a log that goes back is not noticed',
    file: 'src/hub/stream.ts',
    edits: [['if (head.epoch !== this.epoch || head.seq < lastThen) {', 'if (head.epoch !== this.epoch) {']],
    killedBy: stream('ends its connections when the log goes back'),
  },
  {
    name: 'an event of several rooms is delivered once for each',
    file: 'src/hub/membership.ts',
    edits: [['if (this.delivery === delivery) {', 'if (delivery < 0) {']],
    killedBy: stream('gives a connection an event of several of its rooms once'),
  },
  {
    name: 'the channel is subscribed to after the head was read',
    file: 'src/hub/hub.ts',
    edits: [
      ['      await this.broker.subscribe(streamChannel(userId), (batch) => stream.receive(batch));\n', ''],
      [
        'const head = known ?? (await this.log.heads.read(userId));\n      if (head === undefined) {',
        'const head = known ?? (await this.log.heads.read(userId));\n      await this.broker.subscribe(streamChannel(userId), (batch) => stream.receive(batch));\n      if (head === undefined) {',
      ],
    ],
    killedBy: stream('hears what is published while its head is read'),
  },
  {
    name: 'a stream that begins at the head of its owner is not compared with the log',
    file: 'src/hub/hub.ts',
    edits: [['        this.proveSoon([userId], PROVE_MS);\n', '']],
    killedBy: stream('begins at the head that came with its owner, and finds what came before its first message'),
  },
  {
    name: 'a new stream that could not be compared with the log is not compared again',
    file: 'src/hub/hub.ts',
    edits: [['        this.proveSoon(users, PROVE_AGAIN_MS);\n', '']],
    killedBy: stream('looks again for what came before its first message when the log could not be read'),
  },
  {
    name: 'streams are not compared with the log',
    file: 'src/hub/hub.ts',
    edits: [['this.scheduleReconcile();\n    this.sweepTimer', 'this.sweepTimer']],
    killedBy: stream('is compared with the log now and then'),
  },
  {
    name: 'a head that is ahead says nothing',
    file: 'src/hub/stream.ts',
    edits: [['} else if (head.seq > this.last) {', '} else if (head.seq < 0) {']],
    killedBy: stream('is compared with the log now and then'),
  },
  {
    name: 'nothing is compared when the broker is back',
    file: 'src/hub/hub.ts',
    edits: [['broker.onUp(() => this.scheduleReconcile(0));', '']],
    killedBy: stream('is compared with the log when the broker is back, and when it is lost'),
  },
  {
    name: 'nothing is compared when the broker is lost',
    file: 'src/hub/hub.ts',
    edits: [['broker.onDown(() => this.scheduleReconcile(0));', '']],
    killedBy: stream('is compared with the log when the broker is back, and when it is lost'),
  },
  {
    name: 'a return of the broker during a comparison is forgotten',
    file: 'src/hub/hub.ts',
    edits: [['this.reconcileAgain ||= delay === 0;', '']],
    killedBy: stream('is compared once more when the broker came back during a comparison'),
  },
  {
    name: 'what the database tells is not looked at',
    file: 'src/hub/hub.ts',
    edits: [['stream.observeHead(head, lastThen, this.broker.up);', '']],
    killedBy: stream('is looked at when the database tells of a change'),
  },

  // The catch-up: replay, snapshot, the seam.
  {
    name: 'the second page of a replay is skipped',
    file: 'src/hub/catch-up.ts',
    edits: [['const end = page.complete ? page.seq : (page.events.at(-1)?.seq ?? 0);', 'const end = page.seq;']],
    killedBy: catchUp('sends page after page of the log'),
  },
  {
    name: 'a page always counts as the last one',
    file: 'src/repository/event-log.ts',
    edits: [['complete: (first.total ?? 0) <= Math.min(limit, found.length)', 'complete: true']],
    killedBy: repository('returns pages, and says whether they are complete'),
  },
  {
    name: 'the ring covers one event too many',
    file: 'src/hub/ring.ts',
    edits: [['return seq >= last - this.length;', 'return seq >= last - this.length - 1;']],
    killedBy: {
      file: 'test/unit/ring.test.ts',
      title: 'gives back what it took, up to its capacity, whatever the sizes',
    },
  },
  {
    name: 'a snapshot that is older than what is known is not read again',
    file: 'src/hub/catch-up.ts',
    edits: [['if (snapshot.seq < known && snapshot.epoch === membership.stream.epoch) {', 'if (known < 0) {']],
    killedBy: catchUp('reads a snapshot again that was begun before what the connection knows'),
  },
  {
    name: 'a snapshot that is older than what is known is sent',
    file: 'src/hub/catch-up.ts',
    edits: [["membership.stream.observeHead(snapshot, known);\n      throw new TaskwireError('STREAM_RESET');", '']],
    killedBy: catchUp(
      'sends no snapshot that is older than what the connection knows, though the log has no newer one',
    ),
  },
  {
    name: 'a replay begins before the floor of the log',
    file: 'src/hub/catch-up.ts',
    edits: [['if (since >= state.floor) {', 'if (since >= 0) {']],
    killedBy: catchUp('when the log no longer reaches back, of which it reads nothing then'),
  },
  {
    name: 'a task of which the log has lost the beginning counts as whole',
    file: 'src/hub/catch-up.ts',
    edits: [["events[0]?.type === 'TASK_CREATED' ?", 'events.length > 0 ?']],
    killedBy: catchUp('sends all of a task that was made after what the log has lost, and of no older one'),
  },
  {
    name: 'a part of what was missed is sent when the log was trimmed',
    file: 'src/hub/progress.ts',
    edits: [['this.placed.filter(({ after }) => after < floor)', 'this.placed.filter(({ after }) => after < 0)']],
    killedBy: catchUp('when the log is trimmed before its first page is read'),
  },
  {
    name: 'a position from the future is taken',
    file: 'src/hub/catch-up.ts',
    edits: [['return since <= state.seq ? since : undefined;', 'return since;']],
    killedBy: catchUp('when the position is from the future'),
  },
  {
    name: 'a position of another epoch is taken',
    file: 'src/hub/catch-up.ts',
    edits: [['(epoch === undefined || epoch === stream.epoch)', "epoch !== ''"]],
    killedBy: catchUp('when the position is of another epoch'),
  },
  {
    name: 'the epoch of what a catch-up reads is not checked',
    file: 'src/hub/catch-up.ts',
    edits: [['if (head.epoch !== stream.epoch) {', "if (head.epoch === '') {"]],
    killedBy: catchUp('is refused when the log has another epoch, and all connections of the stream are ended'),
  },
  {
    name: 'events are sent while they are held, and once more after it',
    file: 'src/hub/membership.ts',
    edits: [['if (this.held || event.seq <= this.after) {', 'if (event.seq <= this.after) {']],
    killedBy: catchUp('holds the events of the rooms that the connection is in, and sends each once'),
  },
  {
    name: 'events that were held are lost',
    file: 'src/hub/progress.ts',
    edits: [['this.sendFromRing(membership.stream.last);\n    membership.enter', 'membership.enter']],
    killedBy: catchUp('holds the events of the rooms that the connection is in, and sends each once'),
  },
  {
    name: 'what the log brought is sent again when the broker brings it',
    file: 'src/hub/membership.ts',
    edits: [['if (this.held || event.seq <= this.after) {', 'if (this.held) {']],
    killedBy: catchUp('sends nothing that the broker brings later than the log'),
  },
  {
    name: 'PONG and POSITION tell more than was sent',
    file: 'src/hub/membership.ts',
    edits: [['this.told = this.position;', 'this.told = Math.max(this.position, this.stream.last);']],
    killedBy: catchUp('holds the events of the rooms that the connection is in, and sends each once'),
  },
  {
    name: 'PONG and POSITION tell of rooms that are asked for again',
    file: 'src/hub/membership.ts',
    edits: [['.filter(({ room }) => !this.entering.has(room.name))', '']],
    killedBy: catchUp('tells no position of a room that is asked for again until it is answered'),
  },
  {
    name: 'a client that takes nothing is waited for without end',
    file: 'src/hub/line.ts',
    edits: [['this.end.stall();\n        return;', 'return;']],
    killedBy: catchUp('ends a client that takes nothing'),
  },
  {
    name: 'a client that takes nothing is not closed',
    file: 'src/hub/hub-client.ts',
    edits: [["this.connection.close('SLOW_CONSUMER');", '']],
    killedBy: catchUp('ends a client that takes nothing'),
  },
  {
    name: 'a client that takes little counts as one that takes nothing',
    file: 'src/hub/line.ts',
    edits: [['if (rest < before) {', 'if (rest < 0) {']],
    killedBy: catchUp('waits for a client that takes a little at a time, however long'),
  },

  // The repository: a write, its event, and what others write.
  {
    name: 'a write is published before its commit',
    file: 'src/repository/write-runner.ts',
    edits: [
      [
        'const rows = await this.run(statement);',
        `let writes: TaskWrite[] = [];
         const rows: WriteRow[] = await (this.db as any).transaction(async (trx: any) => {
           const inside = await preparedQuery<WriteRow>(trx, statement.sql, statement.bindings);
           writes = this.announce(inside);
           return inside;
         });`,
      ],
      ['return { rows, writes: this.announce(rows) };', 'return { rows, writes };'],
    ],
    killedBy: repository('publish nothing of a write whose commit fails'),
  },
  {
    name: "a write in somebody's transaction is published before that commits",
    file: 'src/repository/write-runner.ts',
    edits: [['publisher !== undefined && !this.joins', 'publisher !== undefined']],
    killedBy: capture('makes both events of a task that the repository and a stranger change in one transaction'),
  },
  {
    name: 'the counter is taken before the row',
    file: 'src/repository/write-statements.ts',
    edits: [
      [
        'WITH ${seen}task AS (\n    UPDATE tasks SET',
        `WITH \${seen}held AS MATERIALIZED (
      SELECT s.user_id FROM event_streams s JOIN tasks t ON t.user_id = s.user_id WHERE t.task_id = ? FOR UPDATE OF s
    ), task AS (
    UPDATE tasks SET`,
      ],
      ['${NEXT_MARK} WHERE task_id = ?', '${NEXT_MARK} WHERE task_id = ? AND EXISTS (SELECT FROM held)'],
      ['...values,\n      taskId,', 'taskId,\n      ...values,\n      taskId,'],
    ],
    killedBy: {
      file: 'test/integration/repository-postgres.test.ts',
      title: 'holds up no other write of a stream while one waits for its task',
    },
  },
  {
    name: 'updates of other programs are not captured',
    file: 'src/schema/capture-schema.ts',
    edits: [
      [
        "trigger('taskwire_updated', 'UPDATE', `${UNLOGGED} OR (${UNLOGGED_AGAIN})`)",
        "trigger('taskwire_updated', 'UPDATE', 'false')",
      ],
    ],
    killedBy: capture('makes the very events that the repository makes'),
  },
  {
    name: 'writes of the repository are captured too',
    file: 'src/schema/capture-schema.ts',
    edits: [["const UNLOGGED = 'NEW.write_mark >> 20 <> txid_current()';", "const UNLOGGED = 'true';"]],
    killedBy: capture('makes the very events that the repository makes'),
  },
  {
    name: 'a write that met a later transaction is captured too',
    file: 'src/schema/capture-schema.ts',
    edits: [
      [
        "'NEW.write_mark <= OLD.write_mark AND OLD.write_mark >> 20 = txid_current()'",
        "'NEW.write_mark <= OLD.write_mark'",
      ],
    ],
    killedBy: {
      file: 'test/integration/repository-postgres.test.ts',
      title: 'tells once of a write by a transaction that began before the one whose row it found',
    },
  },
  {
    name: 'a second change by another program in one transaction is not captured',
    file: 'src/schema/capture-schema.ts',
    edits: [['${UNLOGGED} OR (${UNLOGGED_AGAIN})', '${UNLOGGED}']],
    killedBy: capture('makes both events of a task that the repository and a stranger change in one transaction'),
  },

  {
    name: 'an event of another program may be of any size',
    file: 'src/schema/capture-bounds.ts',
    edits: [['IF largest[1] > coalesce(', 'IF false AND largest[1] > coalesce(']],
    killedBy: bounds('refuse a transaction with an event that is too large, as a whole, and say of which task'),
  },
  {
    name: 'TRUNCATE tells nobody',
    file: 'src/schema/capture-bounds.ts',
    edits: [['UPDATE event_streams SET epoch = ${NEW_EPOCH};', '']],
    killedBy: bounds('tell a TRUNCATE by a new epoch of every stream'),
  },
  {
    name: 'the name of a user breaks an envelope',
    file: 'src/protocol/events.ts',
    edits: [['`"user_id":${JSON.stringify(event.userId)},"changes":', '`"user_id":"${event.userId}","changes":']],
    killedBy: bounds('do not let a text break an envelope, nor the name of a user who was there before they were'),
  },
  {
    name: 'a task is read by whoever had it a moment ago',
    file: 'src/http/task-pages.ts',
    edits: [['if (!maySee(identity, room.name, owner)) {', 'if (Date.now() < 0) {']],
    killedBy: moved,
  },
  {
    name: 'a room that has moved resets the stream that it was in',
    file: 'src/hub/catch-up.ts',
    edits: [['if (snapshot.userId !== membership.stream.userId) {', 'if (Date.now() < 0) {']],
    killedBy: moved,
  },
  {
    name: 'owners are remembered for good',
    file: 'src/door/room-access.ts',
    edits: [['ttl: rememberMs', 'ttl: 0 * rememberMs']],
    killedBy: {
      file: 'test/unit/room-access.test.ts',
      title: 'forgets an owner after a moment: a task may go to another user',
    },
  },
  {
    name: 'a write under a key is refused when its task is gone since',
    file: 'src/http/tasks-routes.ts',
    edits: [['if (key === undefined ||', 'if (Date.now() > 0 ||']],
    killedBy: {
      file: 'test/integration/http.test.ts',
      title: 'a write under a key is answered again when its task is gone since, to whoever made it',
    },
  },
  {
    name: 'an event tells what the last change of a transaction replaced, not the first',
    file: 'src/schema/capture-schema.ts',
    edits: [
      [
        'VALUES (this_tx, OLD.task_id, OLD.job_id, OLD.user_id, taskwire_row(OLD), is_first) ON CONFLICT DO NOTHING;',
        'VALUES (this_tx, OLD.task_id, OLD.job_id, OLD.user_id, taskwire_row(OLD), is_first) ON CONFLICT (tx, task_id) DO UPDATE SET old = excluded.old;',
      ],
    ],
    killedBy: {
      file: 'test/fault/faults.test.ts',
      title: 'leave one account of writers of all kinds, on all doors',
    },
  },
  {
    name: 'a write under a key is made again',
    file: 'src/repository/write-runner.ts',
    edits: [['return key === undefined ? undefined : writeKeyOf(key, write());', 'return undefined;']],
    killedBy: once('answers what the first one answered'),
  },
  {
    name: 'another write under the same key is answered as the first one',
    file: 'src/repository/task-repository.ts',
    edits: [['row.fingerprint !== key?.fingerprint', "row.fingerprint === ''"]],
    killedBy: once('is refused when it is another one'),
  },
  {
    name: 'keys of items of a batch are ignored',
    file: 'src/repository/batch-writes.ts',
    edits: [['key: runner.keyOf(idempotency_key, () => kind.fingerprint(item))', 'key: undefined']],
    killedBy: once('is each item of a batch that has a key'),
  },

  {
    name: 'nobody asks whether triggers of the operator change a row',
    file: 'src/repository/foreign-triggers.ts',
    edits: [['RETURN NOT taskwire_has_triggers(kind);', 'RETURN true;']],
    killedBy: foreign('tells what a trigger changes beside what was asked for, in one event'),
  },
  {
    name: 'triggers are looked for as they were before the table was locked',
    file: 'src/repository/foreign-triggers.ts',
    edits: [['LANGUAGE plpgsql VOLATILE', 'LANGUAGE plpgsql STABLE']],
    killedBy: {
      file: 'test/integration/foreign-triggers.test.ts',
      title: 'are seen by prepared statements that wait for one to be made',
    },
  },
  {
    name: 'items of a batch are answered with tasks of others when a trigger keeps one out',
    file: 'src/repository/batch-statements.ts',
    edits: [["AND user_id = ? AND ${rowsAreOurs('insert')}", 'AND user_id = ?']],
    killedBy: foreign(
      'answers each item of a batch with its own task, whatever a trigger does to ids and to some of them',
    ),
  },
  {
    name: 'a task that a trigger moves is told as one that stays',
    file: 'src/repository/observed-update.ts',
    edits: [['tasks.write_mark = old.mark AND', 'false AND']],
    killedBy: foreign('tells of a task that a trigger moves as of any that moves'),
  },

  // The door and the connections.
  {
    name: 'an AUTH takes a key that may not read',
    file: 'src/door/renewal.ts',
    edits: [['      assertMayRead(identity);\n', '']],
    killedBy: renewal('of a key that may not read are none'),
  },
  {
    name: 'an AUTH takes a key that was disabled while it was checked',
    file: 'src/hub/credential-life.ts',
    edits: [['    await confirm();\n', '']],
    killedBy: session('keeps the credentials that it has when the new ones end while they are checked'),
  },
  {
    name: 'any number of messages waits for an AUTH',
    file: 'src/hub/session.ts',
    edits: [['this.waiting.length < MAX_WAITING', 'this.waiting.length >= 0']],
    killedBy: session('lets no more than some messages wait for it, and answers the others'),
  },
  {
    name: 'a drain closes nothing',
    file: 'src/gateways/connections.ts',
    edits: [["connection.close('SERVER_DRAINING');", '']],
    killedBy: connections('are sent away by a drain, and let nobody in any more'),
  },
  {
    name: 'connections of a revoked key stay',
    file: 'src/gateways/connections.ts',
    edits: [['if (keyBehind(connection.identity) === keyId) {', "if (keyId === '') {"]],
    killedBy: connections('end with their key, by themselves or by a token that it made'),
  },
  {
    name: 'connections of a token stay when its key is revoked',
    file: 'src/gateways/connections.ts',
    edits: [['if (keyBehind(connection.identity) === keyId) {', 'if (connection.identity.keyId === keyId) {']],
    killedBy: connections('end with their key, by themselves or by a token that it made'),
  },
  {
    name: 'a look at the keys closes nothing',
    file: 'src/door/key-watch.ts',
    edits: [['if (!active.has(keyId)) {', "if (keyId === '') {"]],
    killedBy: connections('end when a look at their keys finds them revoked'),
  },
  {
    name: 'a connection gives its place back twice',
    file: 'src/gateways/connections.ts',
    edits: [['this.admission = undefined;', '']],
    killedBy: connections('give back what they held once'),
  },
  {
    name: 'connections are not counted among the requests of their key',
    file: 'src/door/door.ts',
    edits: [['rates.check(identity), release', 'undefined, release']],
    killedBy: door('counts a connection among the requests of its key, and gives a place back that was taken in vain'),
  },
  {
    name: 'a place that was taken in vain is kept',
    file: 'src/door/door.ts',
    edits: [['release?.();\n      throw error;', 'throw error;']],
    killedBy: door('counts a connection among the requests of its key, and gives a place back that was taken in vain'),
  },
  {
    name: 'places that are asked for together are all given',
    file: 'src/broker/redis/redis-counts.ts',
    edits: [['resolve(place < given);', 'resolve(true);']],
    killedBy: {
      file: 'test/contract/redis-causes.test.ts',
      title: 'a count that is another type of key spoils none that is asked for together with it',
    },
  },
  {
    name: 'a look-up is answered with what was read before it was asked for',
    file: 'src/base/turn-reader.ts',
    edits: [['this.waiting.delete(key);', '']],
    killedBy: {
      file: 'test/unit/turn-reader.test.ts',
      title: 'asks together for what comes while a query is under way, and never answers with what was read before',
    },
  },
  {
    name: 'an address has any number of places',
    file: 'src/door/door.ts',
    edits: [['addressGroup(address), maxConnectionsPerIp)', 'addressGroup(address), Number.MAX_SAFE_INTEGER)']],
    killedBy: door('has so many places for an address, which are given back'),
  },
  {
    name: 'a key that is revoked while a connection is let in is believed',
    file: 'src/door/door.ts',
    edits: [['if (keys.revision !== revision) {', 'if (keys.revision < 0) {']],
    killedBy: door('looks a key up again that may have been revoked while the connection was let in'),
  },
  {
    name: 'requests are not counted',
    file: 'src/broker/local/local-primary.ts',
    edits: [['await this.limiter.consume(key, requests)', 'await this.limiter.consume(key, 0)']],
    killedBy: { file: 'test/contract/broker.suite.ts', title: 'counts the requests of a key over all nodes' },
  },
  {
    name: 'messages of a connection are not counted',
    file: 'src/gateways/meter.ts',
    edits: [['own.spend(1);\n', '\n']],
    killedBy: { file: 'test/unit/meter.test.ts', title: 'counts what a message costs beyond one' },
  },
  {
    name: 'messages of a key are not counted',
    file: 'src/gateways/meter.ts',
    edits: [['key?.spend(1);\n', '\n']],
    killedBy: { file: 'test/unit/meter.test.ts', title: 'gives all connections of a key one allowance' },
  },
  // Requests: read to their end, and answered by whoever took them.
  {
    name: 'a refusal does not wait for the body',
    file: 'src/http/answer-after-request.ts',
    edits: [['if (hasBody(request)) {', 'if (hasBody(request) && request.complete) {']],
    killedBy: {
      file: 'test/unit/answer-after-request.test.ts',
      title: 'waits for the end of its request, with a body of a length and one in pieces',
    },
  },
  {
    name: 'a port is closed while somebody stands before it',
    file: 'src/base/port.ts',
    edits: [['let came = true;', 'let came = false;']],
    killedBy: { file: 'test/unit/port.test.ts', title: 'is closed when everybody is in who stood before it' },
  },

  // Neighbours: who is slow is slow for himself.
  {
    name: 'streams that stay locked take every connection',
    file: 'src/http/stream-queue.ts',
    edits: [['      this.locked.set(owner, true);\n', '']],
    killedBy: {
      file: 'test/unit/stream-queue.test.ts',
      title: 'of which many are locked keep one connection together, and the others go on',
    },
  },
  {
    name: 'answers that nobody reads are kept',
    file: 'src/http/stalled-answers.ts',
    edits: [['if (idleLooks >= LOOKS) {', 'if (idleLooks < 0) {']],
    killedBy: { file: 'test/unit/slow-requests.test.ts', title: 'is not read are ended' },
  },
  {
    name: 'a key may have any number of answers under way',
    file: 'src/http/endpoint.ts',
    edits: [['        await taken(response);\n', '']],
    killedBy: {
      file: 'test/unit/slow-requests.test.ts',
      title: 'keep eight answers that are not read, and nothing of other keys',
    },
  },
  {
    name: 'addresses do not take turns',
    file: 'src/base/turns.ts',
    edits: [['    this.lanes.delete(key);\n', '']],
    killedBy: {
      file: 'test/unit/sticky-corrections.test.ts',
      title: '4: who waits for a worker waits by address, and addresses take turns',
    },
  },

  // The servers that people really run.
  {
    name: 'of the addresses of a name the first is taken',
    file: 'src/database/server-finder.ts',
    edits: [['addresses.length > 1', 'addresses.length < 0']],
    killedBy: failover('uses the one that takes writes, though a standby comes first'),
  },
  {
    name: 'a server that hangs holds up the others',
    file: 'src/database/server-finder.ts',
    edits: [['await Promise.race([all, enough.catch(() => all), some.catch(() => all)]);', 'await all;']],
    killedBy: failover('uses the second, though the first hangs'),
  },
  {
    name: 'who only listens stays at a server that is gone',
    file: 'src/database/connect-database.ts',
    edits: [['      if (isServerGone(error)) {\n        finder.noteGone();\n      }\n', '']],
    killedBy: failover('serves a whole instance: writes, and changes by other programs, before and after a failover'),
  },
  {
    name: 'trouble is over when one write has succeeded',
    file: 'src/database/database-watch.ts',
    edits: [["if (troubles.get(name)?.status === 'down') {", 'if (troubles.has(name)) {']],
    killedBy: {
      file: 'test/unit/database-watch.test.ts',
      title: 'does not take what succeeds between failures for the end of them',
    },
  },
  {
    name: 'who came through nginx as it is by default counts as a local caller',
    file: 'src/http/local-caller.ts',
    edits: [[" || httpVersion === '1.0'", '']],
    killedBy: { file: 'test/unit/http-parts.test.ts', title: 'is nobody who came through a proxy' },
  },
  {
    name: 'all requests of a connection are handled at once',
    file: 'src/http/requests-in-turn.ts',
    edits: [['if (line === undefined || !isUnderWay(line.last)) {', 'if (line !== null) {']],
    killedBy: {
      file: 'test/unit/requests-in-turn.test.ts',
      title: 'are not handled behind an answer that ends it: nobody could be answered',
    },
  },
  {
    name: 'any number of requests of a connection wait',
    file: 'src/http/requests-in-turn.ts',
    edits: [['line.full = line.waiting === MAX_WAITING;', 'line.full = false;']],
    killedBy: {
      file: 'test/unit/requests-in-turn.test.ts',
      title: 'wait in a bounded number: the answer to the last of them ends the connection',
    },
  },
  {
    name: 'what cannot be read is answered before what came ahead of it',
    file: 'src/http/unreadable-requests.ts',
    edits: [["isUnderWay(before) ? before.once('close', answer)", 'before === null ? before']],
    killedBy: {
      file: 'test/integration/unreadable-requests.test.ts',
      title: 'is answered behind the requests before it, which are handled',
    },
  },
  {
    name: 'a log that nobody reads waits in memory',
    file: 'src/base/logger.ts',
    edits: [['process.stderr.writableLength > MAX_WAITING_BYTES', 'process.stderr.writableLength < 0']],
    killedBy: {
      file: 'test/unit/logger.test.ts',
      title: 'keeps a bounded part of it in memory, and says how many lines were dropped',
    },
  },
  {
    name: 'connections are changed over when the server takes writes again',
    file: 'src/broker/redis/redis-broker.ts',
    edits: [['    clearTimeout(this.reconnecting);\n    this.reconnecting = undefined;\n    if (', '    if (']],
    killedBy: {
      file: 'test/contract/redis-causes.test.ts',
      title: 'a master that was demoted and is one again: nothing waits any more to change over to another server',
    },
  },
  {
    name: 'an embedded database that has given up is asked further',
    file: 'src/embedded/answer-reader.ts',
    edits: [["all.includes('VPANIC')", "all.includes('VFATAL')"]],
    killedBy: {
      file: 'test/unit/answer-reader.test.ts',
      title: 'tell that it has given up, in whatever pieces they come',
    },
  },
  {
    name: 'a DATA_DIR that cannot be used is no mistake of the configuration',
    file: 'src/cluster/database.ts',
    edits: [['throw error instanceof UnusableFolderError', 'throw error === undefined']],
    killedBy: {
      file: 'test/cluster/lifecycle.test.ts',
      title: 'says so at once when DATA_DIR is no folder, and what to do',
    },
  },
  {
    name: 'what a killed worker held waits for its lease',
    file: 'src/cluster/worker.ts',
    edits: [['void broker.bury(message.nodeId);', '']],
    killedBy: {
      file: 'test/cluster/outages.test.ts',
      title: 'of a worker, killed, gives back at once what its clients held, and does not wait for its lease to end',
    },
  },
  {
    name: 'what a worker held that drained for too long waits for its lease',
    file: 'src/cluster/worker-pool.ts',
    edits: [["!(member.state === 'draining' && code === 0)", "member.state !== 'draining'"]],
    killedBy: {
      file: 'test/unit/worker-pool.test.ts',
      title: 'tells the others of a worker that was killed because it drained for too long',
    },
  },
  {
    name: 'streams over HTTP replay for nothing',
    file: 'src/gateways/cost.ts',
    edits: [['place % EVENTS_PER_UNIT === 1 ? 1 : 0', '0']],
    killedBy: {
      file: 'test/integration/streams.test.ts',
      title: 'pay what they replay from what their key may, so that the next one begins later',
    },
  },
  {
    name: 'a promoted replica is believed',
    file: 'src/repository/replica.ts',
    edits: [['!witness.standby && witness.started !== truth.started', 'witness.started === undefined']],
    killedBy: replica('is not used from its promotion on, on connections that stay open'),
  },
  {
    name: 'a replica with another event under the same number is believed',
    file: 'src/repository/witness.ts',
    edits: [['if (witness.event !== truth.event) {', 'if (witness.event === undefined) {']],
    killedBy: replica('is not used when it follows a server with another history'),
  },
  {
    name: 'sessions that were given up do not count',
    file: 'src/database/abandoned-sessions.ts',
    edits: [['return this.known ? this.sessions.size : 0;', 'return 0;']],
    killedBy: {
      file: 'test/integration/abandoned-sessions.test.ts',
      title: 'take no more sessions than their pool has places, and go on when it is back',
    },
  },
];
