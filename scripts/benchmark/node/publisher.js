// What stands for the worker: `node publisher.js REDIS_URL classic|sharded`, told what to say over its standard input.
// With the classic adapter it emits by @socket.io/redis-emitter; the sharded one has no emitter, so there a server
// without clients does.
"use strict";
const { createInterface } = require("node:readline");
const { Server } = require("socket.io");
const { Emitter } = require("@socket.io/redis-emitter");
const { createClient } = require("redis");
const { createShardedAdapter } = require("@socket.io/redis-adapter");

const GRAIN = 2; // ms; the timers have a grain of 1, so faster paces are kept in batches
const tops = {};
let silenced = 0;

async function open(url, kind) {
  const publishing = createClient({ url });
  await publishing.connect();
  if (kind === "classic") return new Emitter(publishing);
  const subscribing = publishing.duplicate();
  await subscribing.connect();
  return new Server({ adapter: createShardedAdapter(publishing, subscribing) });
}

const sleep = (ms) => new Promise((done) => setTimeout(done, Math.max(ms, 0)));
const seconds = () => (performance.timeOrigin + performance.now()) / 1000;
const word = (plan, number) =>
  plan.timed ? `@${seconds().toFixed(6)} ` : `${String(number % 100000).padStart(5, "0")} `;

function say(io, thread, text) {
  const offset = (tops[thread] = (tops[thread] ?? 0) + 1);
  io.to(thread).emit("text_delta", {
    event: "text_delta",
    client_id: "publisher",
    thread_id: thread,
    request_id: "0123456789abcdef01234567",
    epoch: "0123456789abcdef",
    offset,
    seq: offset,
    ts: Date.now(),
    delta: text,
    round: 1,
  });
}

async function talk(io, thread, plan) {
  const born = silenced;
  let begin = plan.start_at || seconds();
  let number = 0;
  for (const [rate, length] of plan.steps) {
    const count = Math.round(rate * length);
    let said = 0;
    while (said < count) {
      await sleep(Math.max((begin + said / rate - seconds()) * 1000, rate * GRAIN > 1000 ? GRAIN : 0));
      if (silenced !== born) return;
      const now = Math.min(count, Math.floor((seconds() - begin) * rate) + 1);
      for (; said < now; said++) say(io, thread, word(plan, number++));
    }
    begin += length;
    await sleep((begin - seconds()) * 1000);
  }
}

async function main(url, kind) {
  const io = await open(url, kind);
  const handlers = {
    flood: (asked) => (asked.threads.forEach((thread) => talk(io, thread, asked.plan)), {}),
    silence: () => (silenced++, {}),
    tops: () => ({ tops }),
  };
  createInterface({ input: process.stdin })
    .on("line", (line) => {
      const asked = JSON.parse(line);
      process.stdout.write(`${JSON.stringify({ id: asked.id, ...handlers[asked.do](asked) })}\n`);
    })
    .on("close", () => process.exit());
}

main(process.argv[2], process.argv[3]);
