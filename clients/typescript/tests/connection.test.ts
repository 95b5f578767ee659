import { afterEach, expect, test, vi } from "vitest";
import { Link } from "../src/link.js";
import { closeAll, open, status } from "./fleet.js";
import { ScriptedGateway } from "./scripted.js";

afterEach(async () => {
  await closeAll();
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

test("a listener that throws is reported, and the client goes on to connect", async () => {
  const reported: unknown[] = [];
  vi.stubGlobal("reportError", (error: unknown) => reported.push(error));
  const gateway = new ScriptedGateway({ "thread:list": () => ({ ok: true, threads: [], next: null }) });
  const client = open({ urls: ["http://one"] });
  const broken = new Error("of the program");
  client.subscribe(() => {
    throw broken;
  });
  await status(client, "connected");
  gateway.die();
  await status(client, "offline");
  await status(client, "connected");
  expect((await client.threads()).threads).toEqual([]);
  expect(reported).toEqual([broken, broken, broken]);
});

test.each([true, false])("who is sent elsewhere while a gateway is being reached goes there, be it reached: %s", async (reached) => {
  new ScriptedGateway({});
  const script = vi.mocked(Link.open).getMockImplementation() as typeof Link.open;
  let tried: () => void = () => {};
  const answer = new Promise<void>((resolve) => (tried = resolve));
  vi.mocked(Link.open).mockImplementation(async (url, ...given) => {
    if (url === "http://one") await answer;
    if (url === "http://one" && !reached) throw new Error("nobody there");
    return script(url, ...given);
  });
  const client = open({ urls: ["http://one", "http://two", "http://three"] });
  await vi.waitFor(() => expect(Link.open).toHaveBeenCalled());
  client.reconnect("http://two");
  tried();
  await client.connected();
  expect(client.status.url).toBe("http://two");
});
