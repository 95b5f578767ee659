// A node as Socket.IO's documentation has it: `node server.js PORT REDIS_URL classic|sharded`.
"use strict";
const { createServer } = require("node:http");
const { Server } = require("socket.io");
const { createClient } = require("redis");
const { createAdapter, createShardedAdapter } = require("@socket.io/redis-adapter");

async function main(port, url, kind) {
  const publishing = createClient({ url });
  const subscribing = publishing.duplicate();
  await Promise.all([publishing.connect(), subscribing.connect()]);
  const adapter = (kind === "sharded" ? createShardedAdapter : createAdapter)(publishing, subscribing);
  const http = createServer();
  new Server(http, { adapter }).on("connection", (socket) => {
    socket.on("join", async (asked, answer) => {
      await socket.join(asked.thread_id);
      answer({ ok: true });
    });
  });
  http.listen(port, "127.0.0.1");
}

main(Number(process.argv[2]), process.argv[3], process.argv[4]);
