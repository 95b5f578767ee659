import { expect, test } from "vitest";
import { parseEvent } from "../src/events.js";
import type { ThreadEvent } from "../src/events.js";
import { Tracker } from "../src/tracker.js";

const NOT_FOUND = { ok: false, error: { code: "not_found", message: "no such thread", retryable: false } };

function event(offset: number, { epoch = "e", first = offset } = {}): ThreadEvent {
  const fields = { thread_id: "tea", request_id: "r1", epoch, offset, first_offset: first, delta: "x", round: 1 };
  return parseEvent("text_delta", fields) as ThreadEvent;
}

function answer(offset: number, recovered: boolean | null = null, epoch = "e"): Record<string, unknown> {
  return { ok: true, epoch, offset, recovered, ...(recovered !== true && { snapshot: { messages: [] } }) };
}

/** A tracker that is live at an offset. */
function live(offset = 0): Tracker {
  const tracker = new Tracker("tea");
  expect(tracker.ask()).toEqual({ thread_id: "tea" });
  expect(tracker.answer(answer(offset))).toMatchObject([{ event: "snapshot", offset, recovered: null }]);
  expect(tracker.standing).toBe("live");
  return tracker;
}

test("events pass once, in order", () => {
  const tracker = live(2);
  expect(tracker.event(event(3))).toHaveLength(1);
  expect(tracker.event(event(3))).toEqual([]);
  expect(tracker.event(event(2))).toEqual([]);
  expect(tracker.event(event(6, { first: 4 }))).toHaveLength(1);
  expect(tracker.cursor).toEqual({ epoch: "e", offset: 6 });
});

test("at a hole the log is asked again, from the cursor", () => {
  const tracker = live(2);
  expect(tracker.event(event(4))).toEqual([]);
  expect(tracker.standing).toBe("stale");
  expect(tracker.ask()).toEqual({ thread_id: "tea", epoch: "e", after: 2 });
  expect(tracker.event(event(4, { first: 3 }))).toHaveLength(1);
  expect(tracker.answer(answer(4, true))).toEqual([]);
  expect(tracker.standing).toBe("live");
});

test("a merged delta that reaches behind the cursor is not taken in part", () => {
  const tracker = live(4);
  expect(tracker.event(event(6, { first: 4 }))).toEqual([]);
  expect(tracker.standing).toBe("stale");
});

test("another epoch is another log", () => {
  const tracker = live(4);
  expect(tracker.event(event(6, { epoch: "f" }))).toEqual([]);
  expect(tracker.standing).toBe("stale");
  tracker.ask();
  expect(tracker.answer(answer(1, false, "f"))).toMatchObject([{ recovered: false, epoch: "f" }]);
  expect(tracker.event(event(2, { epoch: "f" }))).toHaveLength(1);
});

test("an epoch that follows on is gone along with: a failover lost nothing of what we have", () => {
  const tracker = live(4);
  expect(tracker.event(event(5, { epoch: "f" }))).toHaveLength(1);
  expect(tracker.event(event(7, { epoch: "g", first: 6 }))).toHaveLength(1);
  expect([tracker.standing, tracker.cursor]).toEqual(["live", { epoch: "g", offset: 7 }]);
  expect(tracker.event(event(4, { epoch: "h" }))).toEqual([]);
  expect(tracker.standing).toBe("stale");
  expect(tracker.event(event(8, { epoch: "h" }))).toEqual([]); // before the log was asked, no other epoch is entered
});

test.each(["lost", "refused", "not recovered", "recovered"])("another epoch counts only when confirmed: %s", (ending) => {
  const tracker = live(4);
  tracker.lost();
  tracker.ask();
  expect(tracker.event(event(5, { epoch: "f" }))).toHaveLength(1);
  if (ending === "lost") tracker.lost();
  else if (ending === "refused") expect(() => tracker.answer({ ok: false, error: { code: "unavailable" } })).toThrow();
  else tracker.answer(answer(ending === "recovered" ? 5 : 9, ending === "recovered", "f"));
  const expected = { "not recovered": { epoch: "f", offset: 9 }, recovered: { epoch: "f", offset: 5 } }[ending] ?? null;
  expect(tracker.cursor).toEqual(expected);
});

test("what came before the answer and is not in it is asked for again", () => {
  const tracker = live(2);
  tracker.lost();
  tracker.ask();
  expect(tracker.event(event(7))).toEqual([]);
  tracker.event(event(3));
  expect(tracker.answer(answer(3, true))).toEqual([]);
  expect(tracker.standing).toBe("stale");
  expect(tracker.stuck).toBe(false);
});

test("an answer that promises more than it brought leaves it stuck", () => {
  const tracker = live(2);
  tracker.lost();
  tracker.ask();
  tracker.answer(answer(5, true));
  expect([tracker.standing, tracker.stuck]).toEqual(["stale", true]);
});

test("a log that went back inside its epoch is begun anew", () => {
  const tracker = live(9);
  tracker.lost();
  tracker.ask();
  tracker.answer(answer(5, true));
  expect(tracker.ask()).toEqual({ thread_id: "tea" });
});

test("a thread that does not exist is told once, and begins with its first event", () => {
  const tracker = new Tracker("tea");
  tracker.ask();
  expect(tracker.answer(NOT_FOUND)).toMatchObject([{ event: "snapshot", exists: false }]);
  expect(tracker.standing).toBe("absent");
  tracker.lost();
  tracker.ask();
  expect(tracker.answer(NOT_FOUND)).toEqual([]);
  expect(tracker.event(event(1))).toHaveLength(1);
  expect(tracker.standing).toBe("live");
});

test("a start of ours is followed from the first event of the thread", () => {
  const tracker = new Tracker("tea");
  tracker.ask();
  tracker.answer(NOT_FOUND);
  tracker.existsNow("e");
  expect(tracker.ask()).toEqual({ thread_id: "tea", epoch: "e", after: 0 });
});

test("any other refusal is thrown", () => {
  const tracker = new Tracker("tea");
  tracker.ask();
  expect(() => tracker.answer({ ok: false, error: { code: "unavailable", message: "no", retryable: true } })).toThrow("no");
  expect(tracker.standing).toBe("stale");
});
