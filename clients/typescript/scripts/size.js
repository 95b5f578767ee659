// Prints what the client adds to an application's bundle beside socket.io-client: minified and gzipped, as the
// application's own bundler does it. Fails above the limit.
import { readFileSync, readdirSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { transformWithEsbuild } from "vite";

const LIMIT = 15_000; // bytes: the goal is 15 KB
const folder = new URL("../dist/", import.meta.url);
let total = 0;
for (const name of readdirSync(folder).filter((file) => file.endsWith(".js"))) {
  const { code } = await transformWithEsbuild(readFileSync(new URL(name, folder), "utf8"), name, { minify: true, sourcemap: false });
  const size = gzipSync(code, { level: 9 }).length;
  total += size;
  console.log(`${name} ${size}`);
}
console.log(`total ${total} bytes of ${LIMIT}`);
process.exitCode = total > 0 && total < LIMIT ? 0 : 1;
