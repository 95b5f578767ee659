import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Backoff, LONGEST } from "../src/backoff.js";
import { Alarm, endOf, tokenOf } from "../src/token.js";

const NOW = 1_800_000_000_000;

function token(claims: object): string {
  return `e30.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.x`;
}

beforeEach(() => {
  vi.useFakeTimers({ now: NOW });
});
afterEach(() => {
  vi.useRealTimers();
});

test("a token says when it ends, whatever else is in it", () => {
  expect(endOf(token({ exp: 5, sub: "Zoë 😀 ???>>>" }))).toBe(5_000);
  for (const other of [null, "", "x", "a.b.c", token({ exp: "5" }), token({})]) expect(endOf(other)).toBeUndefined();
});

test("a token may come from a function, plain or async", async () => {
  expect(await tokenOf("a")).toBe("a");
  expect(await tokenOf(() => "b")).toBe("b");
  expect(await tokenOf(async () => Promise.resolve("c"))).toBe("c");
});

test.each([
  ["a minute before the end of a long one", 3_600, 3_540],
  ["a fifth before the end of a short one", 10, 8],
  ["not at once for one that has ended", -5, 1],
])("rings %s", (_, seconds, expected) => {
  const ring = vi.fn();
  new Alarm(ring).set(token({ exp: NOW / 1000 + seconds }));
  vi.advanceTimersByTime(expected * 1000 - 1);
  expect(ring).not.toHaveBeenCalled();
  vi.advanceTimersByTime(1);
  expect(ring).toHaveBeenCalledOnce();
});

test("rings in time for a token of thirty days, which is longer than a timer can be", () => {
  const ring = vi.fn();
  new Alarm(ring).set(token({ exp: NOW / 1000 + 30 * 86_400 }));
  vi.advanceTimersByTime(30 * 86_400_000 - 60_001);
  expect(ring).not.toHaveBeenCalled();
  vi.advanceTimersByTime(1);
  expect(ring).toHaveBeenCalledOnce();
});

test("attempts begin at once and spread out, with a limit", () => {
  const backoff = new Backoff({}, () => 1);
  expect(Array.from({ length: 9 }, () => backoff.delay())).toEqual([0, 100, 200, 400, 800, 1600, 3200, LONGEST, LONGEST]);
  backoff.reset();
  expect(backoff.delay()).toBe(0);
  expect(new Backoff({ atOnce: false }, () => 0).delay()).toBe(25);
});
