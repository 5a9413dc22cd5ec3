import { chmodSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { NodeFS } from '@electric-sql/pglite/nodefs';

/** What others than the owner may do. */
const OTHERS = 0o077;

/** The database's files belong to another user, who could not open them any more after this one. */
export class ForeignFilesError extends Error {
  override readonly name = 'ForeignFilesError';
}

/** @throws ForeignFilesError when a folder of these files belongs to another user than this process */
export function checkOwner(folder: string): void {
  const { uid } = statSync(folder);
  if (process.platform !== 'win32' && process.geteuid?.() !== uid) {
    throw new ForeignFilesError(
      `${folder} belongs to user ${uid}, and this process runs as user ${process.geteuid?.()}: run it as user ${uid}, in a container by docker exec`,
    );
  }
}

/**
 * Removes all rights of others on the files: earlier versions left them open to everybody.
 * @throws ForeignFilesError when they belong to another user than this process
 */
export function makePrivate(folder: string): void {
  if (process.platform === 'win32') {
    return;
  }
  checkOwner(folder);
  chmodSync(folder, 0o700);
  for (const entry of readdirSync(folder, { withFileTypes: true, recursive: true })) {
    if (entry.isFile() || entry.isDirectory()) {
      const path = join(entry.parentPath, entry.name);
      const { mode } = statSync(path);
      if ((mode & OTHERS) !== 0) {
        chmodSync(path, mode & ~OTHERS & 0o777);
      }
    }
  }
}

/** What Emscripten does with an inode. */
interface NodeOps {
  mknod(parent: unknown, name: string, mode: number, device: number): unknown;
  setattr(node: unknown, attributes: { mode?: number | null }): void;
}
/** What Emscripten does with an open file. */
interface StreamOps {
  setattr?(stream: unknown, attributes: { mode?: number | null }): void;
}

/**
 * The folder of the database's files. It makes files for their owner only: Emscripten knows no umask, and gives a new file
 * all the rights that a program asks for (666).
 */
export class PrivateFiles extends NodeFS {
  override async init(...args: Parameters<NodeFS['init']>): ReturnType<NodeFS['init']> {
    const { emscriptenOpts } = await super.init(...args);
    const closeToOthers = (module: unknown): void => {
      const { node_ops: inodes, stream_ops: streams } = (
        module as { NODEFS: { node_ops: NodeOps; stream_ops: StreamOps } }
      ).NODEFS;
      const { mknod, setattr } = inodes;
      inodes.mknod = (parent, name, mode, device) => mknod(parent, name, mode & ~OTHERS, device);
      inodes.setattr = (node, attributes) => setattr(node, owned(attributes));
      const setOpen = streams.setattr;
      if (setOpen !== undefined) {
        streams.setattr = (stream, attributes) => setOpen(stream, owned(attributes));
      }
    };
    const others = [emscriptenOpts.preRun ?? []].flat();
    return { emscriptenOpts: { ...emscriptenOpts, preRun: [closeToOthers, ...others] } };
  }
}

const owned = <Attributes extends { mode?: number | null }>(attributes: Attributes): Attributes =>
  typeof attributes.mode === 'number' ? { ...attributes, mode: attributes.mode & ~OTHERS } : attributes;
