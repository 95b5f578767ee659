// The examples of README.md and docs/clients.md run as they stand, but for the addresses and the token.
import { readFileSync } from "node:fs";
import { transformWithEsbuild } from "vite";
import { afterEach, describe, expect, test } from "vitest";
import type { ConnectOptions } from "../src/index.js";
import * as threadline from "../src/index.js";
import * as react from "../src/react.js";
import { closeAll, fleet, open } from "./fleet.js";

const ROOT = new URL("../../../", import.meta.url);
type Run = (names: object, log: { log: (...said: unknown[]) => void }) => Promise<void>;
const AsyncFunction = Object.getPrototypeOf(async () => {}).constructor as new (...code: string[]) => Run;

/** Return the code blocks of a page. */
function blocks(page: string, language: string): string[] {
  const text = readFileSync(new URL(page, ROOT), "utf8");
  return [...text.matchAll(new RegExp(`\`\`\`${language}\\n(.*?)\`\`\``, "gs"))].map(([, code]) => code ?? "");
}

/** Take the imports off, and return the names that they bring. */
function withoutImports(code: string): { body: string; names: string[] } {
  const lines = [...code.matchAll(/^import \{ (.*) \} from "@threadline\/client(?:\/react)?";$/gm)];
  return { body: code.replace(/^import .*$/gm, ""), names: lines.flatMap(([, names]) => (names ?? "").split(", ")) };
}

afterEach(closeAll);

describe.skipIf(fleet === null)("the examples", () => {
  test.each(["clients/typescript/README.md", "docs/clients.md"])("of %s run", async (page) => {
    const [code = ""] = blocks(page, "ts");
    const { body, names } = withoutImports(code);
    const { code: script } = await transformWithEsbuild(`async () => {${body}}`, "example.ts", { target: "es2022" });
    const said: string[] = [];
    const given = { ...threadline, connect: ({ urls: _, token: __, ...rest }: ConnectOptions) => open(rest) };
    const run = new AsyncFunction("names", "console", `const { ${names.join(", ")} } = names; await (${script.trim().replace(/;$/, "")})();`);
    await run(given, { log: (...parts) => said.push(parts.join(" ")) });
    expect(said.at(-1)).toMatch(page === "docs/clients.md" ? /^1, 2, 3, 4, 5\. \d+$/ : /How long for green tea/);
  });
});

test("the names that the pages import are there", async () => {
  for (const page of ["clients/typescript/README.md", "docs/clients.md"]) {
    for (const code of [...blocks(page, "ts"), ...blocks(page, "tsx")]) {
      for (const name of withoutImports(code).names) expect({ ...threadline, ...react }).toHaveProperty(name);
      await transformWithEsbuild(code, "example.tsx"); // throws on what is no TypeScript
    }
  }
});
