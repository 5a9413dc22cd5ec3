/** Socket.IO's one namespace, which is also the path of plain WebSockets. */
export const NAMESPACE = '/api/ws/tasks';

/** What begins like this is Engine.IO's: its polls and its upgrades. */
export const ENGINE_PATH = '/socket.io/';
