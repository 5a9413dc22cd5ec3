import type { ClusterReport, MessageCount } from './cluster-stats.js';

export const METRICS_CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8';

/** Name and meaning of each counter. */
const COUNTERS: Readonly<Record<MessageCount, readonly [name: string, help: string]>> = {
  events: ['events', 'Events that a worker has put in order for its connections.'],
  deliveries: ['deliveries', 'Live events handed to connections, once for each event and connection.'],
  duplicates: ['duplicates', 'Events that reached a worker again and were dropped.'],
  repairs: ['repairs', 'Pages of the log that were read because the broker had lost events.'],
  captured: ['captured', 'Events of changes that nobody publishes, found in the log: those that other programs make.'],
  resets: ['resets', 'Streams that did not go on where they were, so that their clients had to begin anew.'],
  published: ['published', "Events of the workers' own writes that were handed to the broker."],
  failed: ['publish_failures', "Events of the workers' own writes that the broker did not take."],
};

/**
 * The report in Prometheus' text format. Counters begin at zero with their worker, so each worker has series of its own: their sum
 * would fall when one ends, and Prometheus takes a counter that falls for one that began anew.
 */
export function metricsText({ clients, totalRooms, nodes, messagesByNode }: ClusterReport): string {
  const counters = Object.entries(COUNTERS).map(([count, [name, help]]) =>
    metric(
      `${name}_total`,
      'counter',
      help,
      [...messagesByNode].map(([node, messages]) => [`{worker="${node}"}`, messages[count as MessageCount]]),
    ),
  );
  return [
    metric('connections', 'gauge', 'Connections of all workers.', [['', clients]]),
    metric('rooms', 'gauge', 'Different rooms that have members; an estimate when there are thousands.', [
      ['', totalRooms],
    ]),
    metric('workers', 'gauge', 'Workers whose numbers are here.', [['', nodes]]),
    ...counters,
  ].join('');
}

function metric(
  name: string,
  type: 'counter' | 'gauge',
  help: string,
  samples: ReadonlyArray<readonly [labels: string, value: number]>,
): string {
  const full = `taskwire_${name}`;
  const lines = samples.map(([labels, value]) => `${full}${labels} ${value}\n`);
  return `# HELP ${full} ${help}\n# TYPE ${full} ${type}\n${lines.join('')}`;
}
