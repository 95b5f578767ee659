import { afterEach, expect, test, vi } from "vitest";
import type { HistoryMessage, Item } from "../src/events.js";
import { type Turn, initialState, reduce } from "../src/index.js";
import type { Answer } from "../src/tracker.js";
import { closeAll, open, until } from "./fleet.js";
import { type Answers, type Fields, NOT_FOUND, ScriptedGateway } from "./scripted.js";

afterEach(async () => {
  await closeAll();
  vi.useRealTimers();
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

const told = (id: number): HistoryMessage => ({ id, ts: 5, role: "user", content: `m${id}`, request_id: `r${id}` });

/** The last two of `messages`, which `thread:history` reads. */
function gatewayOf(messages: readonly HistoryMessage[], others: Record<string, Answers> = {}): ScriptedGateway {
  const history = ({ before, limit }: Fields): HistoryMessage[] =>
    messages.filter(({ id }) => before === undefined || id < Number(before)).slice(-Number(limit));
  return new ScriptedGateway({
    "thread:subscribe": () => ({ ok: true, epoch: "e", offset: 9, snapshot: { messages: messages.slice(-2) } }),
    "thread:history": (payload) => ({ ok: true, messages: history(payload) }),
    "queue:status": () => ({ ok: true, running: null, state: "idle", lanes: {} }),
    ...others,
  });
}

test.each([
  ["the first one that is held", 4, [1, 2, 3]],
  ["one before all that are held", 3, [1, 2]],
])("after an edit of %s, the messages before it can still be had, in their order", async (_, message_id, older) => {
  const messages = [1, 2, 3, 4, 5].map(told);
  const gateway = gatewayOf(messages);
  const thread = open({ urls: ["http://one"] }).thread("tea");
  await until(thread, (state) => state.messages.length === 2);
  messages.splice(message_id - 1, messages.length, { ...told(6), content: "other" });
  gateway.tell("thread_edited", { request_id: "r6", offset: 10, branch: "r6", message_id, edited_request_id: `r${message_id}` });
  gateway.tell("chat_accepted", { request_id: "r6", offset: 11, message: "other" });
  gateway.tell("chat_done", { request_id: "r6", offset: 12, full_response: "answer" });
  expect(thread.state.messages.map(({ content }) => content)).toEqual(["other", "answer"]);
  expect(await thread.older({ limit: 1 })).toBe(true);
  expect(await thread.older()).toBe(false);
  expect(thread.state.messages.map(({ content }) => content)).toEqual([...older.map((id) => `m${id}`), "other", "answer"]);
  expect(gateway.asked("thread:history").map(({ before }) => before)).toEqual([message_id, message_id - 1]);
});

test("a message that came as an event is edited by its turn: the history knows its number, however far back", async () => {
  const messages = Array.from({ length: 250 }, (_, at) => told(at + 1));
  const gateway = gatewayOf(messages, { "thread:edit": () => ({ ...STARTED, request_id: "r251" }) });
  const thread = open({ urls: ["http://one"] }).thread("tea");
  await thread.edit("other", { request_id: "r3" });
  expect(gateway.asked("thread:edit")).toMatchObject([{ message: "other", message_id: 3 }]);
  expect(gateway.asked("thread:history").map(({ before }) => before)).toEqual([undefined, 51]);
  await expect(thread.edit("other", { request_id: "none" })).rejects.toMatchObject({ code: "edit_conflict" });
  await expect(thread.edit("other", { request_id: "" })).rejects.toMatchObject({ code: "edit_conflict" });
  await expect(thread.edit("other", { message_id: null as never })).rejects.toThrow(/request_id/);
  expect(gateway.asked("thread:edit")).toHaveLength(1);
});

test("a present that is folded again has no number for a message that came as an event, as the thread itself has none", async () => {
  const gateway = gatewayOf([]);
  const thread = open({ urls: ["http://one"] }).thread("tea");
  await until(thread, (state) => state.exists);
  gateway.tell("chat_accepted", { request_id: "r1", offset: 10, message: "hello" });
  await until(thread, (state) => state.messages.length === 1);
  const items = thread.events();
  const { value } = await items.next();
  await items.return?.();
  const folded = reduce(initialState("tea"), value as Item);
  expect([folded.messages[0]?.id, folded.older_before]).toEqual([null, null]);
  expect([thread.state.messages[0]?.id, thread.state.older_before]).toEqual([null, null]);
});

const STARTED = { ok: true, state: "accepted", request_id: "r1", epoch: "e", offset: 1 };
const GONE = { ok: false, error_type: "unknown", event: null };

/** A gateway that has no thread but between a start and `forget()`; of it the first event is in the log. */
class Taking extends ScriptedGateway {
  private there = false;

  constructor() {
    super({
      "chat:start": () => ((this.there = true), STARTED),
      "thread:subscribe": () => (this.there ? { ok: true, epoch: "e", offset: 1, recovered: true } : NOT_FOUND),
    });
  }

  /** Take a message, and be heard of its first event. */
  async started(): Promise<Turn> {
    const thread = open({ urls: ["http://one"] }).thread("tea");
    const turn = await thread.send("hi");
    this.tell("chat_accepted", { offset: 1, message: "hi" });
    await until(thread, ({ exists, degraded }) => exists && degraded === undefined);
    return turn;
  }

  /** Have no thread any more; with an epoch, tell those who watch it. */
  forget(epoch?: string): void {
    this.there = false;
    if (epoch !== undefined) this.tell("thread_deleted", { epoch });
  }
}

/** Everything that a turn yields, up to its end. */
async function itemsOf(turn: Turn): Promise<Item["event"][]> {
  const items: Item["event"][] = [];
  for await (const item of turn) items.push(item.event);
  return items;
}

test("a turn ends when its thread is gone as the client comes back", async () => {
  const gateway = new Taking();
  const turn = await gateway.started();
  const items = itemsOf(turn);
  gateway.forget();
  gateway.die();
  expect(await turn.wait()).toMatchObject(GONE);
  expect((await items).at(-1)).toBe("snapshot");
  expect((turn.thread as unknown as { holds: number }).holds).toBe(0); // nor is it watched for its sake any longer
});

test("a turn ends with its thread, when the notice of that is all that comes", async () => {
  const gateway = new Taking();
  const turn = await gateway.started();
  gateway.forget("e");
  expect(await turn.wait()).toMatchObject(GONE);
});

test("the end of an older log with the same id does not end a turn of the new one", async () => {
  let answered: (answer: Answer) => void = () => {};
  const gateway = new ScriptedGateway({
    "chat:start": () => STARTED,
    "thread:subscribe": () => new Promise<Answer>((resolve) => (answered = resolve)),
  });
  const thread = open({ urls: ["http://one"] }).thread("tea");
  const turn = await thread.send("hi");
  gateway.tell("thread_deleted", { epoch: "the older one" });
  answered(NOT_FOUND); // to what was asked before the start
  await until(thread, ({ degraded }) => degraded === undefined);
  gateway.tell("chat_accepted", { offset: 1, message: "hi" });
  gateway.tell("chat_done", { offset: 2, full_response: "hello" });
  expect(await turn.wait()).toMatchObject({ ok: true, text: "hello" });
});

test("a turn ends with its thread although the log had gone over into another epoch", async () => {
  const gateway = new Taking();
  const turn = await gateway.started();
  vi.useFakeTimers();
  gateway.tell("text_delta", { offset: 2, epoch: "f", delta: "hello", round: 1 });
  expect(turn.thread.state.epoch).toBe("f");
  gateway.forget("f");
  await vi.advanceTimersByTimeAsync(2_000); // then the client looks whether there is a thread again
  expect(await turn.wait()).toMatchObject(GONE);
});

/** A turn that waits in its lane when the log is lost; then `status` says what waits, and what runs. */
async function queuedAndLost(status: object): Promise<{ turn: Turn; gateway: ScriptedGateway; forget: () => void }> {
  let epoch = "e";
  const snapshot = (): Answer => ({ ok: true, epoch, offset: 2, recovered: epoch === "e" ? null : false, snapshot: {} });
  const gateway = new ScriptedGateway({
    "chat:start": () => ({ ...STARTED, state: "queued", request_id: "r2", lane: "followup", position: 1, offset: 3 }),
    "thread:subscribe": () => (epoch === "" ? NOT_FOUND : snapshot()),
    "queue:status": () => ({ ok: true, running: null, lanes: {}, ...(epoch === "f" && status) }),
  });
  const thread = open({ urls: ["http://one"] }).thread("tea");
  await until(thread, ({ exists }) => exists);
  const turn = await thread.send("more", { queue_mode: "followup" });
  gateway.tell("queue_item_queued", { request_id: "r2", item_id: "r2", offset: 3, lane: "followup", position: 1, preview: "more" });
  expect(thread.state.queue).toHaveLength(1);
  epoch = "f";
  gateway.die();
  await until(thread, (state) => state.epoch === "f" && state.degraded === undefined);
  await vi.waitFor(() => expect(gateway.asked("queue:status")).toHaveLength(2));
  await thread.queueStatus(); // its answer comes behind that one
  const forget = (): void => {
    epoch = "";
    gateway.die();
  };
  return { turn, gateway, forget };
}

test("a turn that waited in a lane ends when neither the lanes nor the thread know of it any more", async () => {
  const { turn } = await queuedAndLost({});
  expect(await turn.wait()).toMatchObject(GONE);
});

test.each([
  ["waits", { lanes: { followup: [{ item_id: "r2", preview: "more", created: 5 }] } }],
  ["runs by now", { running: "r2", state: "ready" }],
])("a turn that waited in a lane and still %s is waited for", async (_, status) => {
  const { turn, gateway } = await queuedAndLost(status);
  gateway.tell("queue_item_delivered", { request_id: "r2", item_id: "r2", epoch: "f", offset: 3, lane: "followup" });
  gateway.tell("chat_accepted", { request_id: "r2", epoch: "f", offset: 4, message: "more" });
  gateway.tell("chat_done", { request_id: "r2", epoch: "f", offset: 5, full_response: "here" });
  expect(await turn.wait()).toMatchObject({ ok: true, text: "here" });
});

test("a turn that has left its lane and not been heard of since ends with its thread", async () => {
  const { turn, forget } = await queuedAndLost({ running: "r2", state: "ready" });
  forget();
  expect(await turn.wait()).toMatchObject(GONE);
});

test("a turn that was sent again when its first events had passed is followed from how it stands", async () => {
  const running = { request_id: "r1", lane: "", state: "running", attempt: 1, text: "hel", thinking: "", tools: [], approvals: [] };
  const gateway = gatewayOf([], {
    "chat:start": () => STARTED,
    "thread:subscribe": () => ({ ok: true, epoch: "e", offset: 5, snapshot: { messages: [], turn: running, parallel: [] } }),
  });
  const thread = open({ urls: ["http://one"] }).thread("tea");
  await until(thread, ({ turn }) => turn !== null);
  const items = itemsOf(await thread.send("hi", { client_message_id: "sent before" }));
  gateway.tell("text_delta", { offset: 6, delta: "lo", round: 1 });
  gateway.tell("chat_done", { offset: 7, full_response: "hello" });
  expect(await items).toEqual(["snapshot", "text_delta", "chat_done"]);
});

test("a turn is followed from the event that took it, before its acknowledgement or behind it", async () => {
  let acknowledged: (answer: Answer) => void = () => {};
  const gateway = gatewayOf([], { "chat:start": () => new Promise<Answer>((resolve) => (acknowledged = resolve)) });
  const thread = open({ urls: ["http://one"] }).thread("tea");
  await until(thread, ({ exists }) => exists);
  for (const [request_id, offset] of [["r1", 10], ["r2", 12]] as const) {
    const accepted = (): void => gateway.tell("chat_accepted", { request_id, offset, message: "hi" });
    const sent = thread.send("hi");
    await vi.waitFor(() => expect(gateway.asked("chat:start")).toHaveLength(request_id === "r1" ? 1 : 2));
    if (request_id === "r1") accepted();
    acknowledged({ ...STARTED, request_id, offset });
    const items = itemsOf(await sent);
    if (request_id === "r2") accepted();
    gateway.tell("chat_done", { request_id, offset: offset + 1, full_response: "hello" });
    expect(await items).toEqual(["chat_accepted", "chat_done"]);
  }
});

test("a thread that was given up is asked for again by whoever comes while it lingers", async () => {
  let full = true;
  const refusal = { ok: false, error: { code: "too_many_threads", message: "too many", retryable: false } };
  const gateway = gatewayOf([], {
    "thread:subscribe": () => (full ? refusal : { ok: true, epoch: "e", offset: 9, snapshot: { messages: [] } }),
  });
  const thread = open({ urls: ["http://one"] }).thread("tea");
  await until(thread, ({ degraded }) => degraded === "refused");
  full = false;
  await until(thread, ({ exists }) => exists);
  expect(gateway.asked("thread:subscribe")).toHaveLength(2);
});

test("a listener that throws is reported, and keeps nobody from hearing of it", async () => {
  const reported: unknown[] = [];
  vi.stubGlobal("reportError", (error: unknown) => reported.push(error));
  const gateway = gatewayOf([]);
  const thread = open({ urls: ["http://one"] }).thread("tea");
  const broken = new Error("of the program");
  const stop = thread.subscribe(() => {
    throw broken;
  });
  await until(thread, ({ exists }) => exists);
  gateway.tell("chat_accepted", { offset: 10, message: "hello" });
  await until(thread, ({ messages }) => messages.length === 1);
  stop();
  expect(new Set(reported)).toEqual(new Set([broken]));
});

test("a turn of a thread that was given up keeps it from nobody who comes later", async () => {
  let full = false;
  const refusal = { ok: false, error: { code: "too_many_threads", message: "too many", retryable: false } };
  const gateway = gatewayOf([], {
    "chat:start": () => ({ ...STARTED, offset: 10 }),
    "thread:subscribe": () => (full ? refusal : { ok: true, epoch: "e", offset: 9, snapshot: { messages: [] } }),
  });
  const thread = open({ urls: ["http://one"] }).thread("tea");
  const turn = await thread.send("hi");
  full = true;
  gateway.die();
  await expect(turn.wait()).rejects.toMatchObject({ code: "too_many_threads" });
  expect((thread as unknown as { holds: number }).holds).toBe(0);
  full = false;
  await until(thread, ({ degraded }) => degraded === undefined); // so whoever comes next has it asked for again
});

test.each([
  ["ends before it, which had been heard of", true, "e"],
  ["ends before it", false, "e"],
  ["has another event in its place", false, "f"],
])("a turn that a failover lost ends when the log %s", async (_, heard, epoch) => {
  let failed = false;
  const gateway = gatewayOf([], {
    "chat:start": () => ({ ...STARTED, offset: 10 }),
    "thread:subscribe": ({ after }) => {
      const recovered = after === undefined ? null : after === 9;
      if (failed && recovered && epoch === "f") gateway.tell("text_delta", { request_id: "r2", epoch, offset: 10, delta: "x" });
      return { ok: true, epoch: failed ? epoch : "e", offset: failed && epoch === "f" ? 10 : 9, recovered, snapshot: { messages: [] } };
    },
  });
  const thread = open({ urls: ["http://one"] }).thread("tea");
  await until(thread, ({ exists }) => exists);
  const turn = await thread.send("hi");
  if (heard) gateway.tell("chat_accepted", { offset: 10, message: "hi" });
  failed = true;
  gateway.die();
  expect(await turn.wait()).toMatchObject(GONE);
});
