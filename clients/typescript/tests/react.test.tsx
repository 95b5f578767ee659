// @vitest-environment happy-dom
import { act, createElement, memo } from "react";
import type { ReactElement } from "react";
import { createRoot } from "react-dom/client";
import type { Root } from "react-dom/client";
import { renderToString } from "react-dom/server";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { connect, parseEvent } from "../src/index.js";
import type { Client, Item, Message, Thread } from "../src/index.js";
import { ThreadlineProvider, useStatus, useThread } from "../src/react.js";

const NOBODY = "http://127.0.0.1:9"; // the discard port: no gateway

let client: Client;
let root: Root;
let place: HTMLElement;
let offset = 0;
const rendered = { thread: 0, messages: 0 };

const Shown = memo(function Shown({ message }: { readonly message: Message }): ReactElement {
  rendered.messages += 1;
  return createElement("p", null, message.content);
});

function View({ id }: { readonly id: string }): ReactElement {
  rendered.thread += 1;
  const { messages, turn, outbox, thread } = useThread(id);
  const lines = messages.map((message) => createElement(Shown, { key: message.key, message }));
  const way = outbox.map((unsent) => createElement("i", { key: unsent.client_message_id }, unsent.message));
  return createElement("div", null, createElement("h1", null, thread.id), lines, way, createElement("b", null, turn?.text));
}

function inside(element: ReactElement): ReactElement {
  return createElement(ThreadlineProvider, { client }, element);
}

/** What a gateway would have sent. */
function arrive(thread: Thread, ...events: [string, Record<string, unknown>][]): void {
  const items = events.map(([event, fields]) => {
    offset += 1;
    return parseEvent(event, { thread_id: thread.id, request_id: "r1", epoch: "e", offset, ts: 1, ...fields });
  });
  (thread as unknown as { take(items: readonly Item[]): void }).take(items as Item[]);
}

async function frame(): Promise<void> {
  await act(() => new Promise<void>((resolve) => requestAnimationFrame(() => resolve())));
}

beforeEach(() => {
  vi.stubGlobal("IS_REACT_ACT_ENVIRONMENT", true);
  client = connect({ urls: NOBODY });
  place = document.createElement("div");
  root = createRoot(place);
  offset = rendered.thread = rendered.messages = 0;
});

afterEach(async () => {
  await act(async () => root.unmount());
  client.close();
  vi.unstubAllGlobals();
});

test("a component shows the thread as it grows, and renders no message twice", async () => {
  await act(async () => root.render(inside(createElement(View, { id: "tea" }))));
  const thread = client.thread("tea");
  arrive(thread, ["chat_accepted", { message: "hi" }]);
  await frame();
  const before = rendered.thread;
  arrive(thread, ...Array.from({ length: 50 }, () => ["text_delta", { delta: "a", round: 1 }] as [string, Record<string, unknown>]));
  await frame();
  expect(place.querySelector("b")?.textContent).toBe("a".repeat(50));
  expect(rendered.thread - before).toBeLessThanOrEqual(2); // one for a frame, however many deltas came
  expect(rendered.messages).toBe(1);
});

test("a message that waits for a connection is shown, until it is taken back", async () => {
  await act(async () => root.render(inside(createElement(View, { id: "tea" }))));
  const thread = client.thread("tea");
  const sending = thread.send("hello", { client_message_id: "k" });
  const refused = expect(sending).rejects.toMatchObject({ name: "AbortError" });
  await frame();
  expect(place.querySelector("i")?.textContent).toBe("hello");
  thread.unsend("k");
  await refused;
  await frame();
  expect(place.querySelector("i")).toBeNull();
});

test("another id is another thread, and what is shown nowhere is watched no longer", async () => {
  const watching = (thread: Thread): number => (thread as unknown as { holds: number }).holds;
  await act(async () => root.render(inside(createElement(View, { id: "tea" }))));
  await act(async () => root.render(inside(createElement(View, { id: "milk" }))));
  expect(place.querySelector("h1")?.textContent).toBe("milk");
  expect([watching(client.thread("tea")), watching(client.thread("milk"))]).toEqual([0, 1]);
  await act(async () => root.render(null));
  expect(watching(client.thread("milk"))).toBe(0);
});

test("a server renders what is known: nothing yet", () => {
  expect(renderToString(inside(createElement(View, { id: "tea" })))).toContain("<h1>tea</h1>");
});

test("the status says how the client stands, and without a provider the reason is told", async () => {
  const Light = (): ReactElement => createElement("u", null, useStatus().state);
  await act(async () => root.render(inside(createElement(Light))));
  expect(place.querySelector("u")?.textContent).toBe("connecting");
  await act(async () => client.close());
  expect(place.querySelector("u")?.textContent).toBe("closed");
  expect(() => renderToString(createElement(Light))).toThrow("ThreadlineProvider");
});
