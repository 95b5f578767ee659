import { expect, test } from "vitest";
import type { Connection } from "../src/connection.js";
import { Outbox } from "../src/outbox.js";
import { Thread } from "../src/thread.js";

const trace = { traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", tracestate: "a=1" };
const started = { state: "accepted", request_id: "r", epoch: "e", offset: 1 };

/** A connection that takes down what it is asked, and answers everything alike. */
function recorder(): { connection: Connection; calls: [string, object][] } {
  const calls: [string, object][] = [];
  const call = (event: string, payload: object): Promise<object> => {
    calls.push([event, payload]);
    return Promise.resolve(started);
  };
  return { connection: { call } as unknown as Connection, calls };
}

test("a message says which trace it belongs to, and nothing when it is not told", async () => {
  const { connection, calls } = recorder();
  const outbox = new Outbox(connection, "t");
  await outbox.put("hello", trace).started;
  await outbox.put("hello", {}).started;
  expect(calls[0]).toMatchObject(["chat:start", { thread_id: "t", message: "hello", ...trace }]);
  expect(calls[1]?.[1]).not.toHaveProperty("traceparent");
});

test("a cancel and a decision say it too", async () => {
  const { connection, calls } = recorder();
  const thread = new Thread(connection, "t", undefined, undefined);
  await thread.cancel("r", trace);
  await thread.cancel();
  await thread.decide("r.a", "yes", { ...trace, signal: new AbortController().signal });
  expect(calls).toEqual([
    ["chat:cancel", { thread_id: "t", request_id: "r", ...trace }],
    ["chat:cancel", { thread_id: "t" }],
    ["approval:decide", { thread_id: "t", approval_id: "r.a", decision: "yes", ...trace }],
  ]);
});
