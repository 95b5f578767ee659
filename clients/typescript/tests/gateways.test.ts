// Against real gateways and workers, which tests/clients/typescript/test_typescript.py starts.
import { afterEach, describe, expect, test } from "vitest";
import type { Item } from "../src/index.js";
import { ThreadlineError } from "../src/index.js";
import { Cable, closeAll, fleet, mint, newThread, open, status, until, wrong } from "./fleet.js";

const PACE = { metadata: { delay_ms: 10 } };
const WORDS = ["river", "stone", "cloud", "maple", "ember", "harbor", "willow", "comet", "lantern", "meadow"];
const words = (count: number): string => Array.from({ length: count }, (_, n) => `${WORDS[n % 10]}-${n + 1}`).join(" ");

afterEach(closeAll);

describe.skipIf(fleet === null)("a client of real gateways", () => {
  const [one = "", two = "", three = ""] = fleet?.urls ?? [];

  test("sends, streams, and ends with the whole answer", async () => {
    const client = open();
    const thread = client.thread(newThread());
    const turn = await thread.send("say 20 words", PACE);
    expect(turn).toMatchObject({ state: "accepted", lane: null });
    const seen: Item[] = [];
    for await (const item of turn) seen.push(item);
    expect(seen[0]?.event).toBe("chat_accepted");
    expect(seen.at(-1)?.event).toBe("chat_done");
    expect(wrong(seen)).toBeUndefined();
    const text = seen.flatMap((item) => (item.event === "text_delta" ? [item.delta] : [])).join("");
    const outcome = await turn.wait();
    expect(outcome).toMatchObject({ ok: true, text, error_type: "" });
    expect(text.trim()).toBe(words(20));
    const state = await until(thread, (now) => now.status === "idle" && now.messages.length === 2);
    expect(state.messages.map(({ role, content }) => [role, content])).toEqual([
      ["user", "say 20 words"],
      ["assistant", outcome.text],
    ]);
    expect(state.outbox).toEqual([]);
    expect(state.degraded).toBeUndefined();
  });

  test("shows a second client the same thread, and remembers it in both", async () => {
    const id = newThread();
    const [here, there] = [open({ urls: [one] }).thread(id), open({ urls: [two] }).thread(id)];
    await (await here.send("my name is Ada")).wait();
    const turn = await there.send("what is my name?");
    expect((await turn.wait()).text).toBe("Your name is Ada.");
    const [mine, theirs] = await Promise.all([
      until(here, ({ messages, status: now }) => messages.length === 4 && now === "idle"),
      until(there, ({ messages, status: now }) => messages.length === 4 && now === "idle"),
    ]);
    expect(theirs.messages.map(({ key, content }) => [key, content])).toEqual(
      mine.messages.map(({ key, content }) => [key, content]),
    );
  });

  test("cancels through another node, and says what became of it", async () => {
    const id = newThread();
    const [here, there] = [open({ urls: [one] }).thread(id), open({ urls: [two] }).thread(id)];
    const turn = await here.send("say 5000 words", PACE);
    await until(here, (state) => (state.turn?.text.length ?? 0) > 30);
    const result = await there.cancel(turn.request_id);
    expect(result).toMatchObject({ cancelled: true, state: "running", request_id: turn.request_id });
    const outcome = await turn.wait();
    expect(outcome).toMatchObject({ ok: false, error_type: "cancelled" });
    expect(here.state.messages.at(-1)).toMatchObject({ interrupted: true, content: outcome.text });
    expect(await there.cancel(turn.request_id)).toMatchObject({ cancelled: false, state: "cancelled" });
    expect(await there.cancel()).toMatchObject({ cancelled: false, state: "idle", request_id: null });
  });

  test("keeps a message while there is no connection, and sends it once there is", async () => {
    const cable = await Cable.to(one, { out: true });
    const client = open({ urls: [cable.url] });
    const thread = client.thread(newThread());
    const sending = [thread.send("say 3 words"), thread.send("say 4 words", { queue_mode: "followup" })];
    const waiting = await until(thread, (state) => state.outbox.length === 2);
    expect(waiting).toMatchObject({ degraded: "offline", exists: false });
    cable.plug();
    const outcomes = await Promise.all(sending.map(async (turn) => (await turn).wait()));
    expect(outcomes.map(({ text }) => text.trim())).toEqual([words(3), words(4)]);
    expect((await until(thread, (state) => state.outbox.length === 0)).messages).toHaveLength(4);
  });

  test("gives up a message that was taken back before it was sent", async () => {
    const cable = await Cable.to(one, { out: true });
    const thread = open({ urls: [cable.url] }).thread(newThread());
    const giveUp = new AbortController();
    const first = thread.send("hello", { signal: giveUp.signal });
    const second = thread.send("hello again", { client_message_id: "b" });
    giveUp.abort(new Error("changed my mind"));
    await expect(first).rejects.toThrow("changed my mind");
    expect(thread.unsend("b")).toBe(true);
    await expect(second).rejects.toMatchObject({ name: "AbortError" });
    expect(thread.unsend("b")).toBe(false);
    expect(thread.state.outbox).toEqual([]);
  });

  test("takes one key for one turn, however often it is sent", async () => {
    const id = newThread();
    const first = await open({ urls: [one] }).thread(id).send("say 3 words", { client_message_id: "k" });
    await first.wait();
    const again = await open({ urls: [two] }).thread(id).send("say 3 words", { client_message_id: "k" });
    expect(again.request_id).toBe(first.request_id);
    expect((await again.wait()).text.trim()).toBe(words(3));
    const other = open({ urls: [two] }).thread(id).send("other words", { client_message_id: "k" });
    await expect(other).rejects.toMatchObject({ code: "idempotency_conflict", retryable: false });
  });

  test("goes on where it was when the connection is cut again and again", async () => {
    const cables = [await Cable.to(one), await Cable.to(two)];
    const client = open({ urls: cables.map((cable) => cable.url) });
    const thread = client.thread(newThread());
    const seen: Item[] = [];
    // far longer than the three take: what comes behind the end of a turn, merged, is no place to cut at
    const turn = await thread.send("say 400 words", PACE);
    let cuts = 0;
    for await (const item of turn) {
      seen.push(item);
      if (item.event === "text_delta" && cuts < 3 && (thread.state.turn?.text.length ?? 0) > 100 * (cuts + 1)) {
        cuts += 1;
        for (const cable of cables) {
          cable.pull();
          cable.plug();
        }
      }
    }
    expect(cuts).toBe(3);
    expect(wrong(seen)).toBeUndefined();
    const text = seen.flatMap((item) => (item.event === "text_delta" ? [item.delta] : [])).join("");
    expect(text.trim()).toBe(words(400));
    expect((await turn.wait()).text).toBe(text);
  });

  test("refreshes its token on the same connection before it ends", async () => {
    let asked = 0;
    const token = (): string => {
      asked += 1;
      return mint(asked === 1 ? 3 : 600);
    };
    const client = open({ urls: [one], token });
    const changes: string[] = [];
    client.subscribe(() => changes.push(client.status.state));
    const thread = client.thread(newThread());
    const outcome = await (await thread.send("say 40 words", { metadata: { delay_ms: 100 } })).wait();
    expect(outcome.text.trim()).toBe(words(40));
    expect(asked).toBe(2);
    expect(changes).toEqual(["connected"]);
  });

  test("stops at a token that is refused, and goes on with another", async () => {
    let token = "no token of this gateway";
    const client = open({ urls: [one], token: () => token });
    const sending = client.thread(newThread()).send("hello");
    await expect(sending).rejects.toBeInstanceOf(ThreadlineError);
    await expect(sending).rejects.toMatchObject({ code: "unauthorized", retryable: false });
    expect(client.status).toMatchObject({ state: "refused", error: { code: "unauthorized" } });
    token = mint(600);
    client.reconnect();
    await client.connected();
    const turn = await client.thread(newThread()).send("say 2 words");
    expect((await turn.wait()).ok).toBe(true);
  });

  test("moves to another node when it is told to, and misses nothing", async () => {
    const client = open({ urls: [one, two] });
    await client.connected();
    const thread = client.thread(newThread());
    const turn = await thread.send("say 60 words", PACE);
    await until(thread, (state) => (state.turn?.text.length ?? 0) > 50);
    client.reconnect(two);
    await status(client, "offline");
    await status(client, "connected");
    expect(client.status.url).toBe(two);
    client.reconnect();
    await status(client, "offline");
    await status(client, "connected");
    expect(client.status.url).toBe(one);
    expect((await turn.wait()).text.trim()).toBe(words(60));
  });

  test("shows what waits, takes it out, and knows of it after a snapshot", async () => {
    const id = newThread();
    const thread = open({ urls: [one] }).thread(id);
    const running = await thread.send("say 5000 words", PACE);
    const next = await thread.send("hello", { queue_mode: "followup" });
    const third = await thread.send("hello again", { queue_mode: "followup" });
    expect(third).toMatchObject({ state: "queued", lane: "followup", position: 2 });
    await until(thread, (state) => state.queue.length === 2);
    const other = open({ urls: [two] }).thread(id);
    const there = await until(other, (state) => state.queue.length === 2);
    expect(there.queue.map(({ item_id, position, preview }) => [item_id, position, preview])).toEqual([
      [next.request_id, 1, "hello"],
      [third.request_id, 2, "hello again"],
    ]);
    expect((await other.queueStatus()).lanes.followup).toHaveLength(2);
    await other.queueRemove(next.request_id);
    expect(await next.wait()).toMatchObject({ ok: false, error_type: "removed" });
    expect((await until(thread, (state) => state.queue.length === 1)).queue[0]).toMatchObject({ position: 1 });
    await expect(other.queueRemove(next.request_id)).rejects.toMatchObject({ code: "not_found" });
    expect(await other.queueClear()).toEqual([third.request_id]);
    expect(await third.wait()).toMatchObject({ error_type: "removed" });
    await running.cancel();
    await running.wait();
  });

  test("keeps a turn that runs beside apart from the conversation", async () => {
    const thread = open().thread(newThread());
    const main = await thread.send("say 5000 words", PACE);
    await until(thread, (state) => (state.turn?.text.length ?? 0) > 0);
    const beside = await thread.send("say 5 words", { queue_mode: "parallel", ...PACE });
    const outcome = await beside.wait();
    expect(outcome.text.trim()).toBe(words(5));
    expect(thread.state.parallel).toMatchObject([
      { request_id: beside.request_id, state: "done", message: "say 5 words", text: outcome.text },
    ]);
    expect(thread.state.turn?.request_id).toBe(main.request_id);
    await main.cancel();
    const { text } = await main.wait();
    expect(thread.state.messages.map(({ content }) => content)).toEqual(["say 5000 words", text]);
    thread.dismiss(beside.request_id);
    expect(thread.state.parallel).toEqual([]);
  });

  test("is superseded by a newer message, and shows both", async () => {
    const thread = open().thread(newThread());
    const old = await thread.send("say 5000 words", PACE);
    await until(thread, (state) => (state.turn?.text.length ?? 0) > 30);
    const next = await thread.send("say 3 words");
    expect(await old.wait()).toMatchObject({ ok: false, error_type: "superseded" });
    await next.wait();
    expect(thread.state.messages.map(({ role, interrupted }) => [role, interrupted])).toEqual([
      ["user", false],
      ["assistant", true],
      ["user", false],
      ["assistant", false],
    ]);
  });

  test("decides what an agent asks, once, from any node", async () => {
    const id = newThread();
    const [here, there] = [open({ urls: [one] }).thread(id), open({ urls: [two] }).thread(id)];
    const turn = await here.send("order three cups of tea", PACE);
    const asked = (await until(there, (state) => state.approvals.length > 0)).approvals[0];
    expect(asked).toMatchObject({ kind: "approval", tool_name: "order", request_id: turn.request_id });
    const id_ = asked?.approval_id ?? "";
    expect(await there.decide(id_, "approved")).toMatchObject({ decided: true, decision: "approved" });
    expect(await here.decide(id_, "denied")).toMatchObject({ decided: false, decision: "approved" });
    expect((await turn.wait()).text).toContain("I have ordered three cups of tea");
    expect(here.state.approvals).toEqual([]);
  });

  test("turns pages back to the first message", async () => {
    const id = newThread();
    const writer = open().thread(id);
    for (let n = 1; n <= 6; n += 1) await (await writer.send(`say ${n} words fast`)).wait();
    const reader = open({ history: 4 }).thread(id);
    await until(reader, (state) => state.messages.length === 4);
    expect(reader.state.has_older).toBe(true);
    expect(await reader.older({ limit: 5 })).toBe(true);
    expect(await reader.older({ limit: 5 })).toBe(false);
    await until(reader, (state) => state.messages.length === 12);
    expect(reader.state.messages.map(({ id: number }) => number)).toEqual(Array.from({ length: 12 }, (_, n) => n + 1));
    expect(await reader.older()).toBe(false);
  });

  test("turns pages back behind an edit of a message that it does not hold", async () => {
    const id = newThread();
    const writer = open().thread(id);
    for (let n = 1; n <= 6; n += 1) await (await writer.send(`say ${n} words fast`)).wait();
    const reader = open({ history: 4 }).thread(id);
    await until(reader, (state) => state.messages.length === 4);
    await (await writer.edit("say 7 words fast", { message_id: 5 })).wait();
    await until(reader, ({ messages, status: now }) => messages.length === 2 && now === "idle");
    expect(await reader.older({ limit: 3 })).toBe(true);
    expect(await reader.older({ limit: 3 })).toBe(false);
    expect(reader.state.messages.map(({ content }) => content)).toEqual(
      (await writer.history()).map(({ content }) => content),
    );
    expect(reader.state.messages.map(({ id: number }) => number)).toEqual([1, 2, 3, 4, null, null]);
  });

  test("goes on behind a state that was saved", async () => {
    const id = newThread();
    const writer = open().thread(id);
    await (await writer.send("say 3 words")).wait();
    const saved = JSON.parse(JSON.stringify(writer.state)) as typeof writer.state;
    await (await writer.send("say 4 words")).wait();
    const reader = open().thread(id, { state: saved });
    expect(reader.state.messages).toHaveLength(2);
    const seen: Item[] = [];
    for await (const item of reader.events()) {
      seen.push(item);
      if (item.event === "chat_done") break;
    }
    expect(seen.map(({ event }) => event)).toContain("chat_accepted");
    expect(seen.filter(({ event }) => event === "snapshot")).toHaveLength(1); // the saved one
    expect(wrong(seen)).toBeUndefined();
    expect(reader.state.messages).toHaveLength(4);
  });

  test("gets a snapshot in place of what the log has dropped", async () => {
    const id = newThread();
    const cable = await Cable.to(one);
    const away = open({ urls: [cable.url] }).thread(id);
    const writer = open({ urls: [two] }).thread(id);
    await (await writer.send("hello")).wait();
    await until(away, (state) => state.messages.length === 2);
    const seen: Item[] = [];
    const reading = (async () => {
      for await (const item of away.events()) {
        seen.push(item);
        if (item.event === "snapshot" && item.recovered === false) return;
      }
    })();
    cable.pull();
    for (let n = 1; n <= 45; n += 1) await (await writer.send(`${n} + ${n}`, { metadata: { delay_ms: 0 } })).wait();
    cable.plug();
    await reading;
    expect(seen.at(-1)).toMatchObject({ event: "snapshot", recovered: false });
    const state = await until(away, (now) => now.offset === writer.state.offset);
    expect(state.messages.map(({ content }) => content)).toEqual(
      writer.state.messages.slice(-50).map(({ content }) => content),
    );
  });

  test("tells of a thread that does not exist, and of another's, in the same words", async () => {
    const id = newThread();
    await (await open().thread(id).send("hello")).wait();
    for (const thread of [open().thread(newThread()), open({ token: mint(600, "eve") }).thread(id)]) {
      const giveUp = new AbortController();
      const items = thread.events({ signal: giveUp.signal });
      expect((await items.next()).value).toMatchObject({ event: "snapshot", exists: false, messages: [] });
      await expect(thread.history()).rejects.toMatchObject({ code: "not_found" });
      giveUp.abort(new Error("enough"));
      await expect(items.next()).rejects.toThrow("enough");
    }
  });

  test("rejects what waits when it is closed", async () => {
    const client = open();
    const thread = client.thread(newThread());
    const turn = await thread.send("say 5000 words", PACE);
    const items = thread.events();
    const reading = (async () => {
      for await (const item of items) void item;
    })();
    client.close();
    await expect(turn.wait()).rejects.toMatchObject({ code: "closed" });
    await expect(reading).rejects.toMatchObject({ code: "closed" });
    await expect(thread.send("hello")).rejects.toMatchObject({ code: "closed" });
  });

  test("says so while the gateway has lost Redis, and misses nothing when it is back", async () => {
    const client = open();
    const thread = client.thread(newThread());
    const turn = await thread.send("say 60 words", { metadata: { delay_ms: 50 } });
    await until(thread, (state) => (state.turn?.text.length ?? 0) > 30);
    process.kill(fleet?.store ?? 0, "SIGSTOP");
    try {
      await until(thread, (state) => state.degraded === "unavailable");
      expect(client.status).toMatchObject({ state: "connected", degraded: true });
    } finally {
      process.kill(fleet?.store ?? 0, "SIGCONT");
    }
    expect((await turn.wait()).text.trim()).toBe(words(60));
    await until(thread, (state) => state.degraded === undefined);
    expect(client.status.degraded).toBe(false);
  });

  test("lists, renames, edits and deletes threads, and tells those who watch", async () => {
    const id = newThread();
    const token = (): string => mint(600, "lister"); // nobody else of these tests has a newer thread
    const client = open({ urls: [one], token });
    const [here, there] = [client.thread(id), open({ urls: [two], token }).thread(id)];
    await (await here.send("my name is Ada")).wait();
    await until(there, ({ messages }) => messages.length === 2);
    await here.rename("Names");
    expect((await client.threads({ limit: 1 })).threads).toMatchObject([{ thread_id: id, title: "Names", state: "idle" }]);
    const other = await here.edit("my name is Eve");
    expect((await other.wait()).text).toContain("Nice to meet you, Eve");
    await until(there, ({ messages, status: now }) => messages.length === 2 && now === "idle");
    expect(there.state.messages.map(({ content }) => content)[0]).toBe("my name is Eve");
    const before = await there.history({ branch: other.request_id });
    expect(before[0]?.content).toBe("my name is Ada");
    const again = await here.edit();
    expect((await again.wait()).ok).toBe(true);
    expect((await here.presence()).running).toBeNull();
    await expect(here.edit("late", { message_id: 999 })).rejects.toMatchObject({ code: "edit_conflict" });
    expect(await here.delete()).toBe(true);
    await until(there, ({ exists, messages }) => !exists && messages.length === 0);
    expect(await here.delete()).toBe(false);
  });

  // the last one: node three does not come back
  test("goes on at another node when its own is killed in mid-stream", async () => {
    const client = open({ urls: [three, two, one] });
    await client.connected();
    expect(client.status.url).toBe(three);
    const id = newThread();
    const thread = client.thread(id);
    const turn = await thread.send("say 400 words", PACE);
    const seen: Item[] = [];
    let killed = false;
    for await (const item of turn) {
      seen.push(item);
      if (!killed && item.event === "text_delta" && (thread.state.turn?.text.length ?? 0) > 400) {
        process.kill(fleet?.pids[2] ?? 0, "SIGKILL");
        killed = true;
      }
    }
    expect(killed).toBe(true);
    expect(client.status.url).not.toBe(three);
    expect(seen.every((item) => item.event !== "snapshot")).toBe(true);
    expect(wrong(seen)).toBeUndefined();
    const text = seen.flatMap((item) => (item.event === "text_delta" ? [item.delta] : [])).join("");
    expect(text.trim()).toBe(words(400));
    expect(thread.state.messages.at(-1)?.content).toBe(text);
  });
});
