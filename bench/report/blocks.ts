import { type Figures, nameOf, shown, table, times } from './figures.js';

/** Makes the text of a place in the document. */
type Block = (figures: Figures) => string;

const OURS = 'ours socketio';
const OURS_PLAIN = 'ours plain';
const PLAIN = 'plain socketio';
const UWS = 'uwebsockets plain';

const CPU = 'server_cpu_us_per_delivery';
const P99 = 'latency_p99_ms';

/** Scenarios of fan-out, with the goals: the Socket.IO wire against plain Socket.IO, and the plain wire against uWebSockets.js. */
const FANOUT: ReadonlyArray<readonly [scenario: string, wanted: string, wantedOfPlain: string]> = [
  ['S1 burst', '1/12', '1.5x'],
  ['S1 at 20/s', '0.7x', '1.5x'],
  ['S2 burst', '0.4x', '1.5x'],
  ['S2 at 2,000/s', '0.75x', ''],
  ['S3 at 1,000/s', '0.8x', ''],
];

const deliveriesInShort: Block = (figures) =>
  table(
    1,
    ['', 'wanted', 'Socket.IO wire, against plain', 'wanted', 'plain wire, against uWebSockets.js'],
    [
      ...FANOUT.map(([scenario, wanted, wantedOfPlain]) => [
        `${scenario}, CPU per delivery`,
        wanted,
        wanted.startsWith('1/')
          ? `1/${Math.round(figures.median(scenario, PLAIN, CPU) / figures.median(scenario, OURS, CPU))}`
          : figures.ratio(scenario, OURS, PLAIN, CPU),
        wantedOfPlain,
        wantedOfPlain === '' ? '' : figures.ratio(scenario, OURS_PLAIN, UWS, CPU),
      ]),
      ...['S1 at 20/s', 'S2 at 2,000/s', 'S3 at 1,000/s'].map((scenario) => [
        `${scenario}, p99 latency`,
        '1x',
        figures.ratio(scenario, OURS, PLAIN, P99),
        '',
        '',
      ]),
    ],
  );

const fanout: Block = (figures) =>
  table(
    2,
    ['', '', 'server CPU per delivery, µs', 'deliveries/s', 'p50, ms', 'p99, ms', 'max, ms'],
    FANOUT.flatMap(([scenario]) =>
      figures.rows(scenario, scenario, [CPU, 'deliveries_per_s', 'latency_p50_ms', P99, 'latency_max_ms']),
    ),
  );

const aroundFanout: Block = (figures) =>
  table(
    2,
    ['', '', 'Redis, µs per event', 'Postgres, µs per event', 'writer, µs per event', 'load, µs per delivery'],
    FANOUT.flatMap(([scenario]) =>
      figures.rows(scenario, scenario, [
        'redis_cpu_us_per_event',
        'postgres_cpu_us_per_event',
        'writer_cpu_us_per_event',
        'load_cpu_us_per_delivery',
      ]),
    ),
  );

const connectionsInShort: Block = (figures) =>
  table(
    1,
    ['against plain', 'wanted', 'Socket.IO wire', 'wanted', 'plain wire'],
    [
      ['memory right after 5,000 set-ups', '0.6x', '0.45x', 'pss_kb_per_connection'],
      ['memory two minutes later', '0.8x', '0.5x', 'settled_kb_per_connection'],
      ['CPU of a set-up', '1x', '1x', 'setup_cpu_us_per_connection'],
    ].map(([title, wanted, wantedOfPlain, figure]) => [
      title!,
      wanted!,
      figures.ratio('S4', OURS, PLAIN, figure!),
      wantedOfPlain!,
      figures.ratio('S4', OURS_PLAIN, PLAIN, figure!),
    ]),
  );

const ofConnections =
  (columns: ReadonlyArray<readonly [title: string, figure: string]>): Block =>
  (figures) =>
    table(
      1,
      ['', ...columns.map(([title]) => title)],
      figures
        .rows(
          'S4',
          '',
          columns.map(([, figure]) => figure),
        )
        .map(([, ...cells]) => cells),
    );

/** Kinds of objects of which fewer bytes come with a connection of any variant are not listed. */
const FEW_BYTES = 200;

const heap: Block = (figures) => {
  const subjects = [OURS, OURS_PLAIN, PLAIN];
  const most = (kind: string): number =>
    Math.max(...subjects.map((subject) => figures.median('heap', subject, kind) || 0));
  const sums = ['everything else', '**together**'];
  const kinds = [...new Set(subjects.flatMap((subject) => figures.figures('heap', subject)))]
    .filter((kind) => !kind.startsWith('# ') && !sums.includes(kind) && most(kind) >= FEW_BYTES)
    .sort((a, b) => most(b) - most(a));
  const cell = (kind: string, subject: string): string => {
    const bytes = figures.median('heap', subject, kind);
    const count = figures.median('heap', subject, `# ${kind}`);
    return Number.isNaN(bytes) ? '-' : `${shown(Math.round(bytes))}${count > 0 ? ` (${shown(count)})` : ''}`;
  };
  return table(
    1,
    ['bytes (and how many)', ...subjects.map(nameOf)],
    [...kinds, '**together**'].map((kind) => [kind, ...subjects.map((subject) => cell(kind, subject))]),
  );
};

const comingBack: Block = (figures) =>
  table(
    2,
    ['', '', 'all back, ms', 'p50, ms', 'p99, ms', 'server CPU each, µs', 'Postgres CPU each, µs'],
    figures
      .scenarios('S5')
      .flatMap((scenario) =>
        figures.rows(scenario, scenario.slice(3), [
          'all_back_ms',
          'back_p50_ms',
          'back_p99_ms',
          'server_cpu_us_per_connection',
          'postgres_cpu_us_per_connection',
        ]),
      ),
  );

const BATCHES = 'S6 batches of 50, one stream';
const ONE = 'S6 1 writer';
const EIGHT = 'S6 8 writers, 8 streams';
const MANY = 'S6 64 writers';

const writesInShort: Block = (figures) => {
  const ratio = (scenario: string, figure: string): string => times(figures.median(scenario, OURS_PLAIN, figure));
  return table(
    1,
    ['writes', 'wanted', 'measured'],
    [
      ['mean latency against a bare `UPDATE`, 1 writer', '1.6x', ratio(ONE, 'mean_against_bare')],
      ['the same, 8 writers on 8 streams', '2.0x', ratio(EIGHT, 'mean_against_bare')],
      ['batches of 50 against single writes on one stream, rate', '8x', ratio(BATCHES, 'batch_against_single')],
    ],
  );
};

/** A row of one way of writing. */
const way = (figures: Figures, title: string, scenario: string, name: string, items: readonly string[]): string[] => [
  title,
  ...items.map((item) => figures.cell(scenario, OURS_PLAIN, `${name}_${item}`)),
];

const LATENCIES = ['per_s', 'mean_ms', 'p50_ms', 'p99_ms'];
const LATENCY_TITLES = ['writes/s', 'mean, ms', 'p50, ms', 'p99, ms'];

const writes: Block = (figures) => {
  const items = [...LATENCIES, 'postgres_cpu_us', 'redis_cpu_us'];
  const ways: ReadonlyArray<readonly [title: string, scenario: string, name: string]> = [
    ...[ONE, EIGHT].flatMap((scenario) =>
      [
        ['bare `UPDATE`', 'bare'],
        ['repository without events', 'without_events'],
        ['logged', 'unpublished'],
        ['logged and published', 'repository'],
      ].map(([text, name]) => [`${scenario.slice(3)}: ${text}`, scenario, name!] as const),
    ),
    ['one stream, 1 writer', BATCHES, 'single'],
    ['one stream, 8 writers', BATCHES, 'single_by_8'],
    ['one stream, batches of 50 (events/s; latency of a batch)', BATCHES, 'batch'],
    ['64 writers, one stream', MANY, 'one_stream'],
    ['64 writers, 64 streams', MANY, 'many_streams'],
  ];
  return table(
    1,
    ['', ...LATENCY_TITLES, 'Postgres CPU, µs', 'Redis CPU, µs'],
    ways.map(([title, scenario, name]) => way(figures, title, scenario, name, items)),
  );
};

const otherWriters: Block = (figures) =>
  table(
    1,
    ['', ...LATENCY_TITLES, 'Postgres CPU, µs'],
    [ONE, EIGHT].flatMap((scenario) =>
      [
        ['bare `UPDATE`, without triggers', 'bare'],
        ['`UPDATE` by another program, captured', 'captured'],
        ['bare `INSERT`, not captured', 'bare_create'],
        ['`INSERT` by another program, captured', 'captured_create'],
        ['a task created by the repository', 'create'],
      ].map(([text, name]) =>
        way(figures, `${scenario.slice(3)}: ${text}`, `${scenario}, other programs`, name!, [
          ...LATENCIES,
          'postgres_cpu_us',
        ]),
      ),
    ),
  );

const rest: Block = (figures) =>
  table(
    1,
    ['', ...LATENCY_TITLES],
    figures.scenarios('S6 REST, ').flatMap((scenario) =>
      [
        ['PORT', 'public_port'],
        ['REST_PORT', 'rest_port'],
      ].map(([port, name]) => way(figures, `${scenario.slice(9)}, \`${port}\``, scenario, name!, LATENCIES)),
    ),
  );

const scaled =
  (wanted: (scenario: string) => boolean): Block =>
  (figures) =>
    table(
      2,
      ['', '', 'deliveries/s', 'server CPU per delivery, µs', 'load CPU per delivery, µs', 'p50, ms', 'p99, ms'],
      figures
        .scenarios('S7')
        .filter(wanted)
        .flatMap((scenario) =>
          figures.rows(scenario, scenario.slice(3), [
            'deliveries_per_s',
            CPU,
            'load_cpu_us_per_delivery',
            'latency_p50_ms',
            P99,
          ]),
        ),
    );

const isAmong = (scenario: string): boolean => scenario.startsWith('S7 among');

const reconcile: Block = (figures) => {
  const costs = ['server_cpu_ms_per_s', 'postgres_cpu_ms_per_s', 'loop_delay_max_ms'];
  const titles = ['server CPU, ms/s', 'Postgres CPU, ms/s', 'loop late by, ms'];
  const items = ['with_redis', 'without_redis'].flatMap((when) => costs.map((cost) => `${when}_${cost}`));
  return table(
    1,
    ['', ...titles, ...titles.map((title) => `without Redis: ${title}`)],
    figures
      .scenarios('S8')
      .map((scenario) => [scenario.slice(3), ...items.map((item) => figures.cell(scenario, OURS_PLAIN, item))]),
  );
};

const captured: Block = (figures) =>
  table(
    1,
    ['', 'p50, ms', 'p99, ms', 'max, ms'],
    figures
      .scenarios('S9')
      .map((scenario) => [
        scenario.slice(3),
        ...['p50', 'p99', 'max'].map((item) => figures.cell(scenario, OURS_PLAIN, `latency_${item}_ms`)),
      ]),
  );

/** What docs/performance.md shows of the runs, by the name of its place. */
export const BLOCKS: ReadonlyMap<string, Block> = new Map([
  ['deliveries in short', deliveriesInShort],
  ['connections in short', connectionsInShort],
  ['writes in short', writesInShort],
  ['fan-out', fanout],
  ['around fan-out', aroundFanout],
  [
    'memory',
    ofConnections([
      ['right after, kB', 'pss_kb_per_connection'],
      ['two minutes later, kB', 'settled_kb_per_connection'],
      ['CPU while idle, µs/s', 'idle_cpu_us_per_connection_and_s'],
    ]),
  ],
  [
    'set-ups',
    ofConnections([
      ['server CPU, µs', 'setup_cpu_us_per_connection'],
      ['Redis CPU, µs', 'redis_cpu_us_per_connection'],
      ['Postgres CPU, µs', 'postgres_cpu_us_per_connection'],
      ['p50, ms', 'setup_p50_ms'],
      ['p99, ms', 'setup_p99_ms'],
      ['tried again, of 5,000', 'setups_tried_again'],
    ]),
  ],
  ['heap', heap],
  ['coming back', comingBack],
  ['writes', writes],
  ['other writers', otherWriters],
  ['REST', rest],
  ['workers', scaled((scenario) => !isAmong(scenario))],
  ['tenfold', scaled(isAmong)],
  ['reconcile', reconcile],
  ['captured', captured],
]);
