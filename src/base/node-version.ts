/** The oldest version of Node.js that this runs on, as `engines` of package.json says. */
export const OLDEST_NODE = '20.19';

/** Whether a version such as `20.18.3` is older than another one. */
function isOlder(version: string, oldest: string): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  const [wantedMajor = 0, wantedMinor = 0] = oldest.split('.').map(Number);
  return major < wantedMajor || (major === wantedMajor && minor < wantedMinor);
}

/** What is wrong with a version of Node.js; undefined: nothing. */
export const nodeProblem = (version: string): string | undefined =>
  isOlder(version, OLDEST_NODE)
    ? `taskwire needs Node.js ${OLDEST_NODE} or later, and this is ${version}: https://nodejs.org has newer ones`
    : undefined;

const problem = nodeProblem(process.versions.node);
if (problem !== undefined) {
  process.stderr.write(`${problem}\n`);
  process.exit(78);
}
