import type { Request, RequestHandler, Response, Router } from 'express';
import { queryOf } from '../door/credentials.js';
import { TaskwireError } from '../protocol/errors.js';
import { parseRoom } from '../protocol/rooms.js';
import type { ClusterReport, ClusterStats } from '../stats/cluster-stats.js';
import type { Health } from '../stats/health.js';
import { METRICS_CONTENT_TYPE, metricsText } from '../stats/metrics.js';
import { type Authenticate, assertMayDo } from './authenticate.js';
import { queryFields } from './input.js';
import { isLocalCaller } from './local-caller.js';
import { resource } from './resource.js';

export interface SystemRoutePorts {
  readonly authenticate: Authenticate;
  readonly stats: Pick<ClusterStats, 'collect'>;
  readonly health: Pick<Health, 'report'>;
  /** Who sees statistics and metrics without a key: nobody, direct callers on this machine, or everybody. */
  readonly statsAccess: 'key' | 'local' | 'public';
}

/** Rooms that the statistics name. */
const MAX_ROOMS = 1_000;

/** What concerns the service as a whole: health for everybody, statistics and metrics for those who run it. */
export function systemRoutes(router: Router, { authenticate, stats, health, statsAccess }: SystemRoutePorts): void {
  /** Passes keys with the scope `stats`; without a key, direct callers of this machine or everybody, as STATS_ACCESS says. */
  const assertMayLook = async (request: Request, response: Response): Promise<void> => {
    if (statsAccess !== 'public' && !(statsAccess === 'local' && isLocalCaller(request))) {
      assertMayDo(await authenticate(request, response), 'stats');
    }
  };

  resource(router, '/api/ws/health', {
    get: async (_request, response) => {
      const report = await health.report();
      const serves = report.status === 'healthy' || report.status === 'degraded';
      response.status(serves ? 200 : 503).json(report);
    },
  });

  resource(router, '/api/ws/stats', {
    get: async (request, response) => {
      await assertMayLook(request, response);
      const { room: name } = queryFields(queryOf(request), ['room']);
      const room = name === undefined ? undefined : parseRoom(name).name;
      response.json({ status: 'success', data: wireForm(await stats.collect({ rooms: true, room })) });
    },
  });

  resource(router, '/metrics', {
    get: async (request, response) => {
      await assertMayLook(request, response);
      const text = metricsText(await stats.collect({ rooms: false }));
      response.set('Content-Type', METRICS_CONTENT_TYPE).send(text);
    },
  });

  resource(router, '/api/ws/tasks', { get: connectInstead });
}

/** The path of the WebSockets, asked for without an upgrade. */
const connectInstead: RequestHandler = (request) => {
  throw new TaskwireError('INVALID_REQUEST', {
    message: queryOf(request).has('EIO')
      ? 'This is the namespace of Socket.IO, not its path: leave the option "path" out and connect to io("http://host:port/api/ws/tasks")'
      : 'Connect to this path with a WebSocket, or with Socket.IO as its namespace',
  });
};

function wireForm({ clients, totalRooms, rooms, roomsTruncated, messages, nodes, partial }: ClusterReport): object {
  return {
    total_clients: clients,
    total_rooms: totalRooms,
    rooms: Object.fromEntries([...rooms].slice(0, MAX_ROOMS)),
    ...(roomsTruncated || rooms.size > MAX_ROOMS ? { rooms_truncated: true } : {}),
    messages,
    nodes,
    partial,
  };
}
