import { readFileSync, readdirSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { parseEvent, parseSnapshot } from "../src/events.js";
import type { Item } from "../src/events.js";
import type { TurnState } from "../src/running.js";
import { initialState, reduce } from "../src/state.js";
import type { Local, ThreadState } from "../src/state.js";

const SEQUENCES = new URL("../../../tests/clients/sequences/", import.meta.url);

interface Sequence {
  readonly what: string;
  readonly items: readonly Record<string, unknown>[];
  readonly expected: Record<string, unknown>;
}

/** Writes a log in memory and folds it. */
class Writer {
  state: ThreadState = initialState("tea");
  private offset = 0;

  write(event: string, fields: Record<string, unknown> = {}, request_id = "r1"): ThreadState {
    this.offset += 1;
    const envelope = { event, thread_id: "tea", client_id: "c", request_id, epoch: "e", offset: this.offset, seq: 0, ts: 5 };
    const parsed = parseEvent(event, { ...envelope, ...fields });
    if (!parsed) throw new Error(`expected an event, got ${event}`);
    return this.apply(parsed);
  }

  apply(item: Item | Local): ThreadState {
    this.state = reduce(this.state, deepFrozen(item));
    deepFrozen(this.state); // whoever changes it in place throws
    return this.state;
  }
}

function deepFrozen<Value>(value: Value): Value {
  if (typeof value === "object" && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value);
    Object.values(value).forEach(deepFrozen);
  }
  return value;
}

/** The item that a line of a sequence stands for. */
function itemOf(line: Record<string, unknown>): Item {
  if (line["event"] === "snapshot") return { ...parseSnapshot("tea", line), exists: line["exists"] !== false };
  const event = parseEvent(String(line["event"]), { thread_id: "tea", ...line });
  if (!event) throw new Error(`expected an event, got ${JSON.stringify(line)}`);
  return event;
}

/** What both clients have to agree on. */
function shownOf(state: ThreadState): Record<string, unknown> {
  const turn = ({ kept: _, ...shown }: TurnState): unknown => shown;
  const { outbox: _, degraded: __, thread_id: ___, has_older: ____, older_before: _____, ...rest } = state;
  return {
    ...rest,
    messages: state.messages.map(({ key: _, ...message }) => message),
    turn: state.turn && turn(state.turn),
    parallel: state.parallel.map(turn),
    last: state.last && (({ event: _, ...outcome }) => outcome)(state.last),
  };
}

describe("the sequences that both clients fold", () => {
  const names = readdirSync(SEQUENCES).filter((name) => name.endsWith(".json"));
  test.each(names)("%s", (name) => {
    const { items, expected } = JSON.parse(readFileSync(new URL(name, SEQUENCES), "utf8")) as Sequence;
    const writer = new Writer();
    for (const line of items) writer.apply(itemOf(line));
    expect(shownOf(writer.state)).toEqual(expected);
  });
});

test("what did not change keeps its identity", () => {
  const writer = new Writer();
  writer.write("chat_accepted", { message: "hi" });
  const before = writer.write("tool_call", { tool_call_id: "t", tool_name: "sum", args: {}, round: 1 });
  const after = writer.write("text_delta", { delta: "a", round: 1 });
  expect(after).not.toBe(before);
  expect(after.turn).not.toBe(before.turn);
  for (const part of ["messages", "queue", "approvals", "parallel", "outbox"] as const) {
    expect(after[part]).toBe(before[part]);
  }
  expect(after.turn?.tools).toBe(before.turn?.tools);
  const calmed = writer.write("inference_heartbeat");
  expect(calmed.turn).toBe(after.turn);
});

test("a snapshot keeps the messages that it says again, and what only this client saw of them", () => {
  const writer = new Writer();
  writer.write("chat_accepted", { message: "hi" });
  writer.write("thinking_delta", { delta: "hm", round: 1 });
  const before = writer.write("chat_done", { full_response: "hello", usage: { input_tokens: 1, output_tokens: 1, model: "m" } });
  const messages = [
    { id: 1, ts: 5, role: "user", content: "hi", request_id: "r1" },
    { id: 2, ts: 5, role: "assistant", content: "hello", request_id: "r1" },
  ];
  const told = parseSnapshot("tea", { epoch: "e", offset: 9, recovered: false, snapshot: { messages, turn: null, parallel: [] } });
  const first = writer.apply(told);
  expect(first.messages.map(({ key }) => key)).toEqual(before.messages.map(({ key }) => key));
  expect(first.messages[1]).toMatchObject({ id: 2, thinking: "hm", usage: { model: "m" } });
  const second = writer.apply({ ...told, offset: 10 });
  expect(second.messages[0]).toBe(first.messages[0]);
  expect(second.messages[1]).toBe(first.messages[1]);
});

test("a message of ours is on its way until the log has brought it", () => {
  const writer = new Writer();
  const unsent = { client_message_id: "k", message: "hi", created: 1, cursor: null };
  expect(writer.apply({ event: "local:sending", unsent }).outbox).toEqual([unsent]);
  const sent = writer.apply({ event: "local:sent", client_message_id: "k", epoch: "e", offset: 1 });
  expect(sent.outbox).toHaveLength(1);
  expect(writer.write("chat_accepted", { message: "hi", client_message_id: "k" }).outbox).toEqual([]);
  writer.apply({ event: "local:sending", unsent });
  expect(writer.apply({ event: "local:sent", client_message_id: "k", epoch: "e", offset: 1 }).outbox).toEqual([]);
  writer.apply({ event: "local:sending", unsent });
  expect(writer.apply({ event: "local:unsent", client_message_id: "k" }).outbox).toEqual([]);
});

test.each(["chat_accepted", "queue_item_queued"])("a message whose %s comes before its answer is not shown twice", (name) => {
  const writer = new Writer();
  for (const client_message_id of ["k", "another"]) {
    writer.apply({ event: "local:sending", unsent: { client_message_id, message: "hi", created: 1, cursor: null } });
  }
  const event = { message: "hi", client_message_id: "k", item_id: "r1", lane: "followup", position: 1, preview: "hi" };
  expect(writer.write(name, event).outbox.map((one) => one.client_message_id)).toEqual(["another"]);
  const told = writer.apply({ event: "local:sent", client_message_id: "k", epoch: "e", offset: 1 });
  expect(told.outbox.map((one) => one.client_message_id)).toEqual(["another"]);
});

test("a parallel turn that has ended stays until it is dismissed", () => {
  const writer = new Writer();
  writer.write("chat_accepted", { message: "aside", lane: "parallel" });
  expect(writer.apply({ event: "local:dismissed", request_id: "r1" }).parallel).toHaveLength(1); // it runs
  writer.write("chat_done", { full_response: "yes" });
  expect(writer.apply({ event: "local:dismissed", request_id: "r1" }).parallel).toEqual([]);
});

test("of many parallel turns that have ended, the newest are kept", () => {
  const writer = new Writer();
  for (let n = 0; n < 20; n += 1) {
    writer.write("chat_accepted", { message: "aside", lane: "parallel" }, `r${n}`);
    writer.write("chat_done", { full_response: "yes" }, `r${n}`);
  }
  expect(writer.state.parallel.map(({ request_id }) => request_id)).toEqual(
    Array.from({ length: 16 }, (_, n) => `r${n + 4}`),
  );
});

test("a page of older messages comes in front, and none comes twice", () => {
  const writer = new Writer();
  const message = (id: number) => ({ id, ts: 5, role: "user" as const, content: `m${id}`, request_id: `r${id}` });
  const messages = [message(3), message(4)];
  writer.apply(parseSnapshot("tea", { epoch: "e", offset: 9, recovered: null, snapshot: { messages } }));
  expect(writer.state.has_older).toBe(true);
  writer.apply({ event: "local:older", messages: [message(1), message(2), message(3)], has_older: false });
  expect(writer.state.messages.map(({ id }) => id)).toEqual([1, 2, 3, 4]);
  expect(writer.state).toMatchObject({ has_older: false, older_before: 1 });
});

test.each([
  ["the first that is held", 3, "r3"],
  ["one before all that is held", 2, "r2"],
])("after an edit of %s, the older ones are those before the edited one", (_, message_id, edited_request_id) => {
  const writer = new Writer();
  const messages = [3, 4].map((id) => ({ id, ts: 5, role: "user", content: `m${id}`, request_id: `r${id}` }));
  const told = { epoch: "e", offset: 1, recovered: null, snapshot: { messages } };
  writer.apply(parseSnapshot("tea", told));
  expect(writer.state.older_before).toBe(3);
  writer.write("thread_edited", { branch: "r5", message_id, edited_request_id }, "r5");
  const state = writer.write("chat_accepted", { message: "other" }, "r5");
  expect(state.messages.map(({ key }) => key)).toEqual(["r5:user"]);
  expect(state).toMatchObject({ has_older: true, older_before: message_id });
});

test("before the first message of the conversation there are no older ones", () => {
  const writer = new Writer();
  const messages = [{ id: 3, ts: 5, role: "user", content: "m3", request_id: "r3" }];
  writer.apply(parseSnapshot("tea", { epoch: "e", offset: 1, recovered: null, snapshot: { messages } }));
  const state = writer.write("thread_edited", { branch: "r5", message_id: 1, edited_request_id: "r1" }, "r5");
  expect(state.has_older).toBe(false);
});

test("a delta costs the same however long the answer is", () => {
  const writer = new Writer();
  writer.write("chat_accepted", { message: "hi" });
  let state = writer.state;
  const delta = (offset: number): Item =>
    parseEvent("text_delta", { thread_id: "tea", request_id: "r1", epoch: "e", offset, delta: "word ", round: 1 }) as Item;
  // 200,000 deltas: a fold that copied what has come would move 100 GB here, and not end in the time of a test
  for (let offset = 2; offset < 200_002; offset += 1) state = reduce(state, delta(offset));
  expect(state.turn?.text).toHaveLength(5 * 200_000);
});

test("a frame that is no entry of a log is no event", () => {
  const fields = { thread_id: "tea", request_id: "r1", epoch: "e", offset: 1 };
  expect(parseEvent("chat_done", fields)).toMatchObject({ event: "chat_done" });
  expect(parseEvent("chat:done", fields)).toBeUndefined();
  for (const wrong of [null, [], "x", { ...fields, offset: 0 }, { ...fields, offset: "1" }, { ...fields, epoch: 1 }]) {
    expect(parseEvent("chat_done", wrong)).toBeUndefined();
  }
});
