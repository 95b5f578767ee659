// The official Socket.IO clients, as people install them, against a gateway and a worker that run as processes.
// test_javascript.py starts those and says where they are: GATEWAY_URL, GATEWAY_TOKEN.
import assert from "node:assert/strict";
import { afterEach, describe, test } from "node:test";
import { io as io3 } from "socket.io-client-3";
import { io as io4 } from "socket.io-client";

const { GATEWAY_URL, GATEWAY_TOKEN } = process.env;
const GIVE_UP = { timeout: 30_000 }; // far more than any test takes: it only ends a hang
const TRANSPORTS = {
  "a WebSocket": ["websocket"],
  polls: ["polling"],
  "polls that become a WebSocket": ["polling", "websocket"],
};

let threads = 0;
const newThread = () => `js-${process.pid}-${(threads += 1)}`;

for (const [version, io] of [["4.x", io4], ["3.x", io3]]) {
  describe(`socket.io-client ${version}`, () => {
    const opened = [];

    const open = (options = {}) => {
      const socket = io(GATEWAY_URL, {
        forceNew: true,
        auth: { token: GATEWAY_TOKEN },
        reconnectionDelay: 50,
        ...options,
      });
      opened.push(socket);
      return socket;
    };

    const connected = async (options) => {
      const socket = open(options);
      await heard(socket, "connect");
      return socket;
    };

    afterEach(() => {
      for (const socket of opened.splice(0)) {
        socket.io.reconnection(false);
        socket.disconnect();
        socket.io.engine?.close(); // a socket that was refused keeps its transport, and node would wait for it
      }
    });

    for (const [way, transports] of Object.entries(TRANSPORTS)) {
      test(`streams an answer over ${way}`, GIVE_UP, async () => {
        const socket = open({ transports });
        const ready = heard(socket, "ready");
        await heard(socket, "connect");
        assert.deepEqual(await ready, { sid: socket.id });
        if (transports.length > 1) {
          await upgraded(socket);
        }
        assert.equal(socket.io.engine.transport.name, transports.at(-1));
        const log = new Log(socket, newThread());
        const started = await call(socket, "chat:start", log.asking("say 20 words"));
        assert.equal(started.ok, true);
        assert.equal(started.state, "accepted");
        await log.done();
        log.check(started);
      });

      test(`comes back with its cursor when the gateway closes ${way}`, GIVE_UP, async () => {
        const socket = await connected({ transports });
        if (transports.length > 1) {
          await upgraded(socket);
        }
        const first = socket.id;
        const log = new Log(socket, newThread());
        const started = await call(socket, "chat:start", log.asking("say 80 words"));
        await log.until((events) => events.filter((event) => event.event === "text_delta").length > 3);
        const lost = heard(socket, "disconnect");
        const back = heard(socket, "connect");
        socket.io.engine.write("9"); // no packet of the protocol: the gateway closes the transport
        assert.match(await lost, /^transport (close|error)$/); // and not "io server disconnect": that one stays away
        await back;
        assert.notEqual(socket.id, first);
        const { epoch, offset } = log.events.at(-1);
        const answer = await call(socket, "thread:subscribe", { thread_id: log.thread, epoch, after: offset });
        assert.equal(answer.recovered, true);
        await log.done();
        log.check(started);
      });
    }

    test("is told what is wrong with a call", GIVE_UP, async () => {
      const socket = await connected();
      const unknown = await call(socket, "no:such:call", {});
      assert.equal(unknown.ok, false);
      assert.equal(unknown.error.code, "unknown_event");
      const wrong = await call(socket, "chat:start", { thread_id: "*", message: "hello" });
      assert.equal(wrong.error.code, "invalid_thread_id");
    });

    test("is told why it may not connect", GIVE_UP, async () => {
      for (const transports of [["websocket"], ["polling"]]) {
        const socket = open({ auth: { token: "no token of this gateway" }, transports });
        const error = await heard(socket, "connect_error");
        assert.ok(error instanceof Error);
        assert.equal(error.message, "unauthorized");
        assert.equal(error.data.code, "unauthorized");
        assert.equal(error.data.retryable, false);
        assert.equal(socket.connected, false);
      }
    });

    test("is told that there is no such namespace", GIVE_UP, async () => {
      const socket = io(`${GATEWAY_URL}/admin`, { forceNew: true, auth: { token: GATEWAY_TOKEN } });
      opened.push(socket);
      assert.equal((await heard(socket, "connect_error")).message, "Invalid namespace");
    });

    test("leaves, and comes again when it is asked to", GIVE_UP, async () => {
      for (const transports of [["websocket"], ["polling"]]) {
        const socket = await connected({ transports });
        const first = socket.id;
        const left = heard(socket, "disconnect");
        const closed = heard(socket.io.engine, "close");
        socket.disconnect();
        assert.equal(await left, "io client disconnect");
        await closed; // version 3 opens two transports when it is told to come back before
        const back = heard(socket, "connect");
        socket.connect();
        await back;
        assert.notEqual(socket.id, first);
        assert.equal((await call(socket, "thread:unsubscribe", { thread_id: newThread() })).ok, true);
      }
    });

    test("cancels what another socket started", GIVE_UP, async () => {
      const socket = await connected({ transports: ["websocket"] });
      const other = await connected({ transports: ["polling"] });
      const log = new Log(socket, newThread());
      const { request_id } = await call(socket, "chat:start", log.asking("say 5000 words"));
      await log.until((events) => events.some((event) => event.event === "text_delta"));
      const cancelled = await call(other, "chat:cancel", { thread_id: log.thread, request_id });
      assert.equal(cancelled.cancelled, true);
      await log.done();
      assert.equal(log.events.at(-1).event, "chat_error");
      assert.equal(log.events.at(-1).error_type, "cancelled");
    });
  });
}

/** What comes with the next event of this name. */
async function heard(emitter, name) {
  return new Promise((resolve) => emitter.once(name, resolve));
}

/** Wait until the socket is on a WebSocket. */
async function upgraded(socket) {
  if (socket.io.engine.transport.name !== "websocket") {
    await heard(socket.io.engine, "upgrade");
  }
}

/** Make a call and return its acknowledgement. */
async function call(socket, verb, payload) {
  return new Promise((resolve) => socket.emit(verb, payload, resolve));
}

/** The events of one thread, as a socket hears of them. */
class Log {
  constructor(socket, thread) {
    this.thread = thread;
    this.events = [];
    this.waiting = [];
    for (const name of ["chat_accepted", "inference_start", "iteration_start", "text_delta", "chat_done", "chat_error"]) {
      socket.on(name, (event) => this.take(event));
    }
  }

  /** A message for the thread, to be answered at a pace that leaves time to interfere. */
  asking(message) {
    return { thread_id: this.thread, message, metadata: { delay_ms: 10 } };
  }

  take(event) {
    assert.equal(event.thread_id, this.thread);
    this.events.push(event);
    this.waiting = this.waiting.filter(({ holds, resolve }) => !holds(this.events) || resolve());
  }

  /** Wait until something holds of the events so far. */
  async until(holds) {
    if (!holds(this.events)) {
      await new Promise((resolve) => this.waiting.push({ holds, resolve }));
    }
  }

  /** Wait until the turn has ended. */
  async done() {
    await this.until((events) => ["chat_done", "chat_error"].includes(events.at(-1)?.event));
  }

  /** Each event of the turn came once, in order, and the pieces make up the answer. */
  check({ request_id, epoch, offset }) {
    let expected = offset;
    for (const event of this.events) {
      assert.equal(event.request_id, request_id);
      assert.equal(event.epoch, epoch);
      assert.equal(event.first_offset ?? event.offset, expected);
      expected = event.offset + 1;
    }
    const end = this.events.at(-1);
    assert.equal(end.event, "chat_done");
    const deltas = this.events.filter((event) => event.event === "text_delta").map((event) => event.delta);
    assert.equal(deltas.join(""), end.full_response);
    assert.ok(deltas.length > 1);
  }
}
