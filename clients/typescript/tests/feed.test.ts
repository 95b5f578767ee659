import { afterEach, expect, test, vi } from "vitest";
import { initialState } from "../src/index.js";
import { closeAll, open, until } from "./fleet.js";
import { ScriptedGateway, UNAVAILABLE } from "./scripted.js";

const SAVED = { ...initialState("tea"), exists: true, epoch: "e", offset: 2 };

afterEach(async () => {
  await closeAll();
  vi.restoreAllMocks();
});

/** A gateway that gives these answers to `thread:subscribe`, the last one again and again. */
function subscribed(...answers: object[]): ScriptedGateway {
  return new ScriptedGateway({ "thread:subscribe": () => ({ ok: true, ...(answers.length > 1 ? answers.shift() : answers[0]) }) });
}

test("a gateway that cannot answer just now has promised nothing: it is asked again on the same connection", async () => {
  const gateway = subscribed(UNAVAILABLE, UNAVAILABLE, { epoch: "e", offset: 2, recovered: true });
  const thread = open({ urls: ["http://one"] }).thread("tea", { state: SAVED });
  await until(thread, ({ degraded }) => degraded === undefined);
  expect(gateway.cuts).toEqual([]);
  expect(gateway.asked("thread:subscribe")).toEqual(Array(3).fill({ thread_id: "tea", epoch: "e", after: 2 }));
});

test("a gateway that says it has sent what did not come is left: to a new connection it sends it", async () => {
  const gateway = subscribed({ epoch: "e", offset: 5, recovered: true }, { epoch: "e", offset: 2, recovered: true });
  const thread = open({ urls: ["http://one"] }).thread("tea", { state: SAVED });
  await until(thread, ({ degraded }) => degraded === undefined);
  expect(gateway.cuts).toEqual(["the gateway did not send again what is missing here"]);
});
