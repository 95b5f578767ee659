import { afterEach, expect, test, vi } from "vitest";
import type { HistoryMessage } from "../src/events.js";
import { closeAll, open, until } from "./fleet.js";
import { type Fields, ScriptedGateway } from "./scripted.js";

afterEach(async () => {
  await closeAll();
  vi.restoreAllMocks();
});

const told = (id: number): HistoryMessage => ({ id, ts: 5, role: "user", content: `m${id}`, request_id: `r${id}` });

/** The last two of `messages`, which `thread:history` reads. */
function gatewayOf(messages: readonly HistoryMessage[]): ScriptedGateway {
  const history = ({ before, limit }: Fields): HistoryMessage[] =>
    messages.filter(({ id }) => before === undefined || id < Number(before)).slice(-Number(limit));
  return new ScriptedGateway({
    "thread:subscribe": () => ({ ok: true, epoch: "e", offset: 9, snapshot: { messages: messages.slice(-2) } }),
    "thread:history": (payload) => ({ ok: true, messages: history(payload) }),
    "queue:status": () => ({ ok: true, running: null, state: "idle", lanes: {} }),
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
