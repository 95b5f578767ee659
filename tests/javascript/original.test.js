// The web client that the protocol began with, as it behaves: which options it connects with, what it sends on connect,
// the names and the fields that it reads. Nothing here knows of cursors, acknowledgements or snapshots.
// test_javascript.py starts two gateways and a worker, and says where: GATEWAY_URLS, GATEWAY_TOKEN.
import assert from "node:assert/strict";
import http from "node:http";
import { after, afterEach, describe, test } from "node:test";
import { io } from "socket.io-client";

const { GATEWAY_TOKEN } = process.env;
const [HERE, THERE] = process.env.GATEWAY_URLS.split(" ");
const GIVE_UP = { timeout: 30_000 }; // far more than any test takes: it only ends a hang
const SNAKE = ["inference_start", "iteration_start", "text_delta", "tool_call", "tool_result", "chat_done", "chat_error"];

let threads = 0;
const newThread = () => `original-${process.pid}-${(threads += 1)}`;

/** The client: one socket, a selected thread, listeners by name. */
class Original {
  constructor(url, { selected = null, active = null, names = SNAKE, options = {} } = {}) {
    this.events = [];
    this.waiting = [];
    this.answers = new Map();
    this.socket = io(url, {
      auth: { token: GATEWAY_TOKEN },
      transports: ["websocket", "polling"],
      forceNew: true,
      reconnectionDelay: 50,
      ...options,
    });
    this.socket.on("connect", () => {
      const thread = selected ?? active;
      if (thread) {
        this.socket.emit("thread:subscribe", { thread_id: thread });
      }
    });
    this.socket.on("ready", ({ sid }) => this.note("ready", { sid }));
    for (const name of names) {
      this.socket.on(name, (event) => this.note(name, event));
    }
    for (const name of ["rpc:response", "rpc:error"]) {
      this.socket.on(name, (answer) => this.answers.get(answer.id)?.(name, answer));
    }
  }

  note(name, event) {
    this.events.push([name, event]);
    this.waiting = this.waiting.filter(({ holds, resolve }) => !holds(this.events) || resolve());
  }

  named(name) {
    return this.events.filter(([given]) => given === name).map(([, event]) => event);
  }

  async until(name) {
    const holds = () => this.named(name).length > 0;
    if (!holds()) {
      await new Promise((resolve) => this.waiting.push({ holds, resolve }));
    }
    return this.named(name)[0];
  }

  rpc(method, params) {
    const id = `call-${this.answers.size}`;
    return new Promise((resolve, reject) => {
      this.answers.set(id, (name, answer) =>
        name === "rpc:response" ? resolve(answer.result) : reject(new Error(answer.error.message)),
      );
      this.socket.emit("rpc:request", { id, method: `openhuman.${method}`, params });
    });
  }
}

/** A proxy that lets no WebSocket through. */
async function withoutWebSockets(url) {
  const { hostname, port } = new URL(url);
  const proxy = http.createServer((request, response) => {
    const { method, url: path, headers } = request;
    const onward = http.request({ hostname, port, method, path, headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    onward.on("error", () => response.destroy());
    request.pipe(onward);
  });
  proxy.on("upgrade", (_request, socket) => socket.destroy());
  await new Promise((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${proxy.address().port}`, proxy };
}

describe("the original web client", () => {
  const opened = [];
  const proxies = [];

  const open = async (url, given) => {
    const client = new Original(url, given);
    opened.push(client);
    await client.until("ready");
    return client;
  };

  afterEach(() => {
    for (const { socket } of opened.splice(0)) {
      socket.io.reconnection(false);
      socket.disconnect();
      socket.io.engine?.close();
    }
  });

  after(() => {
    for (const proxy of proxies) {
      proxy.closeAllConnections();
      proxy.close();
    }
  });

  test("is ready under its own id, and sends nothing when no thread is selected", GIVE_UP, async () => {
    const client = await open(HERE);
    assert.equal((await client.until("ready")).sid, client.socket.id);
    assert.equal(client.socket.io.engine.transport.name, "websocket");
  });

  test("starts with a plain event, and reads the fields of what comes back", GIVE_UP, async () => {
    const client = await open(HERE);
    const thread = newThread();
    client.socket.emit("chat:start", { thread_id: thread, message: "calculate 2 + 3", model_override: null, locale: "en" });
    const done = await client.until("chat_done");
    assert.equal(typeof done.full_response, "string");
    for (const [name, event] of client.events.filter(([name]) => name !== "ready")) {
      assert.equal(event.event, name);
      assert.equal(event.thread_id, thread);
      assert.equal(event.client_id, client.socket.id);
      assert.equal(event.request_id, done.request_id);
    }
    const [call] = client.named("tool_call");
    const [result] = client.named("tool_result");
    assert.ok(call.tool_name && typeof call.args === "object" && call.round >= 1);
    assert.equal(result.tool_call_id, call.tool_call_id);
    assert.equal(result.success, true);
    assert.equal(typeof result.output, "string");
    const deltas = client.named("text_delta");
    assert.equal(deltas.map(({ delta }) => delta).join(""), done.full_response);
    assert.ok(deltas.every(({ round }) => round >= 1));
  });

  test("hears each event once under its alias too, but the deltas", GIVE_UP, async () => {
    const names = SNAKE.map((name) => name.replaceAll("_", ":"));
    const client = await open(HERE, { names });
    client.socket.emit("chat:start", { thread_id: newThread(), message: "calculate 2 + 3" });
    const done = await client.until("chat:done");
    assert.equal(done.event, "chat_done");
    for (const name of ["inference:start", "tool:call", "tool:result", "chat:done"]) {
      assert.equal(client.named(name).length, 1, name);
    }
    assert.equal(client.named("text:delta").length, 0);
  });

  for (const role of ["selected", "active"]) {
    test(`hears of its ${role} thread at another gateway, and after it was thrown off`, GIVE_UP, async () => {
      const thread = newThread();
      const starter = await open(HERE);
      starter.socket.emit("chat:start", { thread_id: thread, message: "say 5000 words", metadata: { delay_ms: 20 } });
      await starter.until("text_delta");
      const client = await open(THERE, { [role]: thread });
      await client.until("text_delta");
      client.socket.io.engine.close(); // as a network does it
      client.events.length = 0;
      const again = await client.until("text_delta");
      assert.equal(again.thread_id, thread);
      client.socket.emit("chat:cancel", { thread_id: thread });
      const ended = await client.until("chat_error");
      assert.equal(ended.error_type, "cancelled");
      assert.equal(typeof ended.message, "string");
      assert.equal((await starter.until("chat_error")).request_id, ended.request_id);
    });
  }

  test("makes its calls in the form of JSON-RPC", GIVE_UP, async () => {
    const client = await open(HERE);
    const client_id = client.socket.id;
    const thread_id = newThread();
    assert.equal((await client.rpc("channel_web_queue_status", { thread_id })).active, false);
    const chat = { client_id, thread_id, message: "say 5000 words", metadata: { delay_ms: 20 } };
    const { accepted, request_id } = await client.rpc("channel_web_chat", chat);
    assert.equal(accepted, true);
    assert.equal((await client.until("text_delta")).request_id, request_id);
    const next = await client.rpc("channel_web_chat", { client_id, thread_id, message: "hello", queue_mode: "followup" });
    assert.equal(next.queued, true);
    const status = await client.rpc("channel_web_queue_status", { thread_id });
    assert.deepEqual([status.active, status.request_id, status.followups, status.total], [true, request_id, 1, 1]);
    const removed = await client.rpc("channel_web_queue_remove", { thread_id, item_id: next.request_id });
    assert.equal(removed.removed, true);
    assert.equal((await client.rpc("channel_web_queue_clear", { thread_id })).dropped, 0);
    const cancelled = await client.rpc("channel_web_cancel", { client_id, thread_id });
    assert.deepEqual([cancelled.cancelled, cancelled.request_id], [true, request_id]);
    assert.equal((await client.until("chat_error")).error_type, "cancelled");
    await assert.rejects(client.rpc("channel_web_chat", { thread_id }), /message: expected/);
    await assert.rejects(client.rpc("threads_list", {}), /expected one of/);
  });

  test("falls back to polls where no WebSocket comes through, at one gateway", GIVE_UP, async () => {
    const { url, proxy } = await withoutWebSockets(HERE);
    proxies.push(proxy);
    const client = await open(url, { options: { tryAllTransports: true } });
    assert.equal(client.socket.io.engine.transport.name, "polling");
    client.socket.emit("chat:start", { thread_id: newThread(), message: "say 20 words" });
    const done = await client.until("chat_done");
    assert.equal(client.named("text_delta").map(({ delta }) => delta).join(""), done.full_response);
  });

  test("is told what to do when its polls reach another gateway", GIVE_UP, async () => {
    const polls = "/socket.io/?EIO=4&transport=polling";
    const opening = await fetch(`${HERE}${polls}`);
    assert.equal(opening.status, 200);
    const { sid } = JSON.parse((await opening.text()).slice(1));
    for (const method of ["GET", "POST"]) {
      const strayed = await fetch(`${THERE}${polls}&sid=${sid}`, { method, body: method === "POST" ? "40" : undefined });
      assert.equal(strayed.status, 400);
      const { code, message } = await strayed.json();
      assert.equal(code, 1);
      assert.match(message, /another node holds it.*WebSocket.*sticky/s);
    }
  });

  test("is refused polls by a gateway that is one of many, and connects by WebSocket", GIVE_UP, async () => {
    const many = process.env.GATEWAY_WITHOUT_POLLING;
    const refused = await fetch(`${many}/socket.io/?EIO=4&transport=polling`);
    assert.equal(refused.status, 400);
    assert.match((await refused.json()).message, /connect by WebSocket/);
    const client = await open(many);
    client.socket.emit("chat:start", { thread_id: newThread(), message: "say 3 words" });
    assert.equal(typeof (await client.until("chat_done")).full_response, "string");
  });
});
