import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

const at = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

export default defineConfig({
  esbuild: { jsx: "automatic", jsxImportSource: "preact" },
  resolve: {
    // the project's own client, from its source: one build, and only what the page uses of it
    alias: [
      { find: /^@threadline\/client$/, replacement: at("../clients/typescript/src/index.ts") },
      { find: /^@threadline\/client\/react$/, replacement: at("../clients/typescript/src/react.ts") },
      { find: /^react$/, replacement: "preact/compat" },
    ],
    dedupe: ["preact", "socket.io-client"], // what the client imports is found here, and not beside it
  },
  build: {
    outDir: "../gateway/bundle",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0, // the page's policy allows files of its own, and nothing inline
    modulePreload: { polyfill: false },
  },
});
