import { defineConfig } from "vitest/config";

export default defineConfig({
  build: {
    target: "es2022",
    lib: { entry: { index: "src/index.ts", react: "src/react.ts" }, formats: ["es"] },
    // react.js must share the classes of index.js: what is common goes into a chunk of its own
    rollupOptions: { external: ["socket.io-client", "react"] },
    sourcemap: true,
  },
  test: {
    include: ["tests/**/*.test.{ts,tsx}"],
    testTimeout: 30_000, // ends a hang; no test takes as long
    pool: "forks", // real sockets and process ids: threads would share both
    maxWorkers: 2,
    minWorkers: 1,
  },
});
