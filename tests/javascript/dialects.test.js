// The dialects' own clients, as people install them, against gateways and a worker that run as processes: AG-UI's
// HttpAgent, whose pipeline verifies every event, and the chat of the AI SDK. test_javascript.py starts the processes
// and says where they are (GATEWAY_URLS, GATEWAY_PIDS, WORKER_PID_FILE, GATEWAY_TOKEN); it starts a killed worker again.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";
import { HttpAgent } from "@ag-ui/client";
import { Chat } from "@ai-sdk/react";
import { DefaultChatTransport, lastAssistantMessageIsCompleteWithApprovalResponses } from "ai";

const URLS = process.env.GATEWAY_URLS.split(" ");
const PIDS = process.env.GATEWAY_PIDS.split(" ").map(Number);
const headers = { Authorization: `Bearer ${process.env.GATEWAY_TOKEN}` };
const GIVE_UP = { timeout: 60_000 }; // far more than any test takes: it only ends a hang

let threads = 0;
const newThread = () => `dialect-${process.pid}-${(threads += 1)}`;
const killWorker = () => process.kill(Number(readFileSync(process.env.WORKER_PID_FILE, "utf8")), "SIGKILL");
const words = (count) => `say ${count} words`;

const until = async (condition) => {
  while (!(await condition())) {
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
};

const answer = async (thread, url = URLS[0]) => {
  const got = await fetch(`${url}/v1/threads/${thread}/messages`, { headers });
  return (await got.json()).messages.findLast((message) => message.role === "assistant");
};

const cancel = async (thread, url = URLS[0]) =>
  (await fetch(`${url}/v1/threads/${thread}/cancel`, { method: "POST", headers })).json();

// --- AG-UI ---------------------------------------------------------------------------------------------------------

describe("@ag-ui/client", () => {
  // Runs an agent; the client's verifier must take every event, or `failed` has its complaint.
  const run = async (agent, parameters, onEvent = () => {}) => {
    const events = [];
    const failed = [];
    await agent
      .runAgent(parameters, {
        onEvent: ({ event }) => {
          events.push(event);
          onEvent(event, events);
        },
        onRunFailed: ({ error }) => void failed.push(error),
      })
      .catch((error) => void failed.push(error));
    return { events, failed, types: events.map((event) => event.type), end: events.at(-1) };
  };

  const agentOf = (thread, options = {}) =>
    new HttpAgent({ url: `${URLS[0]}/v1/agui`, threadId: thread, headers, ...options });

  const asked = async (message, options, parameters, onEvent) => {
    const thread = newThread();
    const agent = agentOf(thread, options);
    agent.addMessage({ id: randomUUID(), role: "user", content: message });
    return { thread, agent, ...(await run(agent, parameters, onEvent)) };
  };

  const text = (agent) =>
    agent.messages.filter((message) => message.role === "assistant").map((message) => message.content ?? "").join("");

  test("takes a turn of text", GIVE_UP, async () => {
    const { agent, thread, failed, end } = await asked(words(30));
    assert.deepEqual(failed, []);
    assert.equal(end.type, "RUN_FINISHED");
    assert.equal(end.outcome.type, "success");
    assert.equal(text(agent), (await answer(thread)).content);
  });

  test("takes a turn with a tool", GIVE_UP, async () => {
    const { agent, failed, types } = await asked("what is 12 * (3 + 4)?");
    assert.deepEqual(failed, []);
    assert.ok(types.includes("TOOL_CALL_START") && types.includes("TOOL_CALL_RESULT"), types.join(" "));
    const call = agent.messages.find((message) => message.toolCalls)?.toolCalls[0];
    assert.doesNotThrow(() => JSON.parse(call.function.arguments));
    const result = agent.messages.find((message) => message.role === "tool");
    assert.equal(result.toolCallId, call.id);
    assert.equal(result.content, "84");
    assert.match(text(agent), /84/);
  });

  test("takes a turn that thinks", GIVE_UP, async () => {
    const { agent, failed } = await asked("think about rivers");
    assert.deepEqual(failed, []);
    assert.ok(agent.messages.find((message) => message.role === "reasoning").content.length > 0);
    assert.ok(text(agent).length > 0);
  });

  test("takes a turn that was cancelled on another node", GIVE_UP, async () => {
    let cancelled;
    const { thread, failed, end } = await asked(words(2000), {}, {}, (event, events) => {
      if (event.type === "TEXT_MESSAGE_CONTENT" && !cancelled) {
        cancelled = cancel(events[0].threadId, URLS[2]);
      }
    });
    assert.deepEqual(failed, []);
    assert.equal((await cancelled).cancelled, true);
    assert.equal(end.type, "RUN_FINISHED");
    assert.equal(end.outcome.type, "cancelled");
    assert.equal((await answer(thread)).interrupted, true);
  });

  test("takes a turn that failed in its middle", GIVE_UP, async () => {
    const { types, end, events } = await asked("fail after 5 words");
    assert.equal(types.indexOf("RUN_ERROR"), types.length - 1);
    assert.equal(end.code, "demo_failure");
    assert.ok(events.some((event) => event.type === "TEXT_MESSAGE_CONTENT"));
  });

  test("goes on behind its cursor on another node", GIVE_UP, async () => {
    // every frame's cursor is noted on the way, and the connection is cut after some of them
    const place = {};
    const cutting = async (url, init) => {
      const cut = new AbortController();
      const response = await fetch(url, { ...init, signal: cut.signal });
      let seen = "";
      const noting = new TransformStream({
        transform(chunk, controller) {
          seen += new TextDecoder().decode(chunk);
          const whole = seen.slice(0, seen.lastIndexOf("\n\n") + 2);
          const ids = [...whole.matchAll(/^id: (.*)$/gm)];
          place.id = ids.at(-1)?.[1];
          controller.enqueue(chunk);
          if (ids.length > 8) {
            cut.abort();
            controller.terminate();
          }
        },
      });
      return new Response(response.body.pipeThrough(noting), { headers: response.headers });
    };
    const first = await asked(words(90), { fetch: cutting }, { runId: "same-run" });
    assert.ok(place.id);
    assert.notEqual(first.end.type, "RUN_FINISHED");
    const partial = text(first.agent);
    assert.ok(partial.length > 0);
    const again = agentOf(first.thread, {
      url: `${URLS[2]}/v1/agui`,
      headers: { ...headers, "Last-Event-ID": place.id },
      initialMessages: first.agent.messages,
    });
    const second = await run(again, { runId: "same-run" });
    assert.deepEqual(second.failed, []);
    assert.equal(second.end.outcome.type, "success");
    const { content } = await answer(first.thread, URLS[2]);
    assert.ok(content.startsWith(partial));
    assert.equal(text(again), content);
  });

  test("takes a turn whose worker was lost, and takes back what is void", GIVE_UP, async () => {
    let killed = false;
    const { agent, thread, failed, types, end } = await asked(words(80), {}, {}, (event, events) => {
      if (!killed && events.filter((one) => one.type === "TEXT_MESSAGE_CONTENT").length > 5) {
        killed = true;
        killWorker();
      }
    });
    assert.deepEqual(failed, []);
    assert.ok(types.includes("MESSAGES_SNAPSHOT"));
    assert.equal(end.outcome.type, "success");
    assert.equal(text(agent), (await answer(thread)).content);
    assert.equal(agent.messages.filter((message) => message.role === "user").length, 1);
  });

  test("answers an interrupt, and goes on with the same turn", GIVE_UP, async () => {
    const forwardedProps = { policy: "resume" };
    const first = await asked("order three cups of tea", {}, { forwardedProps });
    assert.deepEqual(first.failed, []);
    assert.equal(first.end.outcome.type, "interrupt");
    const [interrupt] = first.agent.pendingInterrupts;
    const resume = [{ interruptId: interrupt.id, status: "resolved", payload: { approved: true } }];
    const second = await run(first.agent, { resume });
    assert.deepEqual(second.failed, []);
    assert.equal(second.end.outcome.type, "success");
    assert.deepEqual(first.agent.pendingInterrupts, []);
    assert.equal(text(first.agent), (await answer(first.thread)).content);
  });
});

// --- AI SDK --------------------------------------------------------------------------------------------------------

describe("the AI SDK", () => {
  const chatOf = (thread, { at = () => URLS[0], fetch: fetching, ...options } = {}) => {
    const problems = [];
    const chat = new Chat({
      id: thread,
      transport: new DefaultChatTransport({
        api: `${at()}/v1/ai/chat`,
        headers,
        fetch: fetching,
        prepareReconnectToStreamRequest: () => ({ api: `${at()}/v1/ai/chat/${thread}/stream`, headers }),
      }),
      onError: (error) => void problems.push(error),
      ...options,
    });
    return { chat, problems };
  };

  const text = (chat) =>
    chat.lastMessage.parts.filter((part) => part.type === "text").map((part) => part.text).join("");

  test("takes a turn of text", GIVE_UP, async () => {
    const thread = newThread();
    const { chat, problems } = chatOf(thread);
    await chat.sendMessage({ text: words(30) });
    assert.deepEqual(problems, []);
    assert.equal(chat.status, "ready");
    assert.equal(chat.lastMessage.role, "assistant");
    assert.equal(text(chat), (await answer(thread)).content);
    assert.ok(chat.lastMessage.metadata.timing.total_ms >= 0);
    await chat.sendMessage({ text: "what did I say first?" });
    assert.match(text(chat), /say 30 words/);
    assert.equal(chat.messages.length, 4);
  });

  test("changes a message, again and again, and asks for another answer", GIVE_UP, async () => {
    const thread = newThread();
    const { chat, problems } = chatOf(thread);
    await chat.sendMessage({ text: words(3) });
    await chat.sendMessage({ text: words(4) });
    const [{ id: first }] = chat.messages;
    for (const count of [5, 6, 5]) {
      await chat.sendMessage({ text: words(count), messageId: first });
      assert.equal(chat.messages.length, 2);
      assert.equal(text(chat), (await answer(thread)).content);
      assert.equal(text(chat).trim().split(" ").length, count);
    }
    const shown = chat.lastMessage.id;
    await chat.regenerate({ messageId: first });
    assert.notEqual(chat.lastMessage.id, shown);
    await chat.regenerate({ messageId: chat.lastMessage.id });
    await chat.sendMessage({ text: words(7), messageId: first });
    assert.equal(text(chat), (await answer(thread)).content);
    assert.equal(chat.messages.length, 2);
    assert.deepEqual(problems, []);
  });

  test("sends what never came, when it is asked to try again", GIVE_UP, async () => {
    const thread = newThread();
    let down = false;
    const { chat, problems } = chatOf(thread, {
      fetch: (...call) => (down ? Promise.reject(new Error("down")) : fetch(...call)),
    });
    await chat.sendMessage({ text: words(3) });
    down = true;
    await chat.sendMessage({ text: words(4) });
    assert.equal(chat.status, "error");
    problems.length = 0;
    down = false;
    await chat.regenerate();
    assert.deepEqual(problems, []);
    assert.equal(chat.messages.length, 4);
    const got = await fetch(`${URLS[0]}/v1/threads/${thread}/messages`, { headers });
    assert.deepEqual(
      (await got.json()).messages.filter((message) => message.role === "user").map((message) => message.content),
      [words(3), words(4)],
    );
  });

  test("takes a turn with a tool, and one that thinks", GIVE_UP, async () => {
    const { chat, problems } = chatOf(newThread());
    await chat.sendMessage({ text: "what is 12 * (3 + 4)?" });
    const tool = chat.lastMessage.parts.find((part) => part.type === "dynamic-tool");
    assert.equal(tool.state, "output-available");
    assert.equal(tool.output, "84");
    await chat.sendMessage({ text: "think about rivers" });
    const thought = chat.lastMessage.parts.find((part) => part.type === "reasoning");
    assert.equal(thought.state, "done");
    assert.ok(thought.text.length > 0);
    assert.deepEqual(problems, []);
  });

  test("takes a turn that was cancelled, and one that failed", GIVE_UP, async () => {
    const thread = newThread();
    const { chat, problems } = chatOf(thread);
    const sent = chat.sendMessage({ text: words(2000) });
    await until(() => chat.status === "streaming" && text(chat).length > 0);
    assert.equal((await cancel(thread, URLS[2])).cancelled, true);
    await sent;
    assert.deepEqual(problems, []);
    assert.equal(chat.status, "ready");
    await chat.sendMessage({ text: "fail after 5 words" });
    assert.equal(chat.status, "error");
    assert.equal(problems.length, 1);
  });

  test("goes on at another node when its node is killed in mid-stream", GIVE_UP, async () => {
    let node = 1;
    const thread = newThread();
    const { chat, problems } = chatOf(thread, { at: () => URLS[node] });
    const sent = chat.sendMessage({ text: words(90) });
    await until(() => chat.status === "streaming" && text(chat).split(" ").length > 10);
    process.kill(PIDS[1], "SIGKILL");
    await sent;
    assert.equal(chat.status, "error");
    assert.equal(problems.length, 1);
    node = 2;
    const partial = text(chat);
    await chat.resumeStream();
    assert.equal(chat.status, "ready");
    assert.equal(chat.messages.length, 2);
    const { content } = await answer(thread, URLS[2]);
    assert.ok(content.startsWith(partial));
    assert.equal(text(chat), content);
  });

  test("a page that is loaded in mid-turn shows all of it, and nothing when nothing runs", GIVE_UP, async () => {
    const thread = newThread();
    const first = chatOf(thread).chat;
    const sent = first.sendMessage({ text: words(100) });
    await until(() => first.status === "streaming" && text(first).length > 0);
    first.stop(); // closes the stream, as a tab does; the turn goes on
    await sent;
    const { chat: second, problems } = chatOf(thread, { at: () => URLS[2] });
    await second.resumeStream();
    assert.deepEqual(problems, []);
    assert.equal(text(second), (await answer(thread)).content);
    await second.resumeStream();
    assert.equal(second.messages.length, 1);
    assert.equal(second.status, "ready");
  });

  test("answers an approval, and goes on with the same message", GIVE_UP, async () => {
    const thread = newThread();
    const { chat, problems } = chatOf(thread, {
      sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithApprovalResponses,
    });
    await chat.sendMessage({ text: "order three cups of tea" }, { body: { policy: "resume" } });
    const asked = chat.lastMessage.parts.find((part) => part.state === "approval-requested");
    await chat.addToolApprovalResponse({ id: asked.approval.id, approved: true });
    await until(() => chat.status === "ready" && chat.lastMessage.metadata?.timing);
    assert.deepEqual(problems, []);
    assert.equal(chat.messages.length, 2);
    assert.equal(text(chat), (await answer(thread)).content);
  });

  test("shows what is void when a worker was lost", GIVE_UP, async () => {
    const thread = newThread();
    const { chat, problems } = chatOf(thread);
    const sent = chat.sendMessage({ text: words(80) });
    await until(() => chat.status === "streaming" && text(chat).split(" ").length > 10);
    killWorker();
    await sent;
    assert.deepEqual(problems, []);
    const parts = chat.lastMessage.parts;
    const restarted = parts.findLastIndex((part) => part.type === "data-restarted");
    assert.equal(parts[restarted].data.kept_text, 0);
    const standing = parts.slice(restarted).filter((part) => part.type === "text");
    assert.equal(standing.map((part) => part.text).join(""), (await answer(thread)).content);
  });
});
