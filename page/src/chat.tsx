import type { ComponentChildren } from "preact";
import { memo } from "preact/compat";
import { useCallback, useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { CancelResult, Message as Said, Outcome, QueueMode, ThreadSummary, TurnState } from "@threadline/client";
import { useThread } from "@threadline/client/react";
import type { UsedThread } from "@threadline/client/react";
import { Asked } from "./approval.js";
import { ThinkingCard, ToolCard } from "./cards.js";
import { Composer } from "./composer.js";
import type { Drafts } from "./drafts.js";
import { Here } from "./here.js";
import { Down, Menu, Plug, Warning } from "./icons.js";
import { Markdown } from "./markdown.js";
import { Message } from "./message.js";
import { useDoing, useTell } from "./notices.js";
import { plain } from "./plain.js";
import { Queue } from "./queue.js";
import { useFleet } from "./operations/fleet.js";
import { lasting } from "./times.js";
import { Welcome } from "./welcome.js";

interface ChatProps {
  readonly id: string;
  readonly summary: ThreadSummary | null;
  readonly drafts: Drafts;
  /** How often the person has asked for a new thread: then they want to write. */
  readonly begun: number;
  readonly plugs: boolean;
  readonly onPlugs: () => void;
  readonly onMenu: () => void;
  /** A message of this thread is on its way. */
  readonly onSending: () => void;
  /** A message of this thread was taken by a gateway. */
  readonly onSent: () => void;
  /** Something that the list of threads shows has changed. */
  readonly onChanged: () => void;
}

/** One conversation. */
export function Chat({ id, summary, drafts, begun, plugs, onPlugs, onMenu, onSending, onSent, onChanged }: ChatProps) {
  const thread = useThread(id);
  const { messages, turn, parallel, approvals, outbox, status, last } = thread;
  const doing = useDoing();
  const fleet = useFleet(60_000); // only to know whether there are plugs to pull
  const stop = useStop(thread);
  const [editing, setEditing] = useState<string | null>(null);
  const scroll = useFollowing();
  useEffect(onChanged, [status, messages.length]);

  const send = useCallback(
    (text: string, queue_mode: QueueMode) => {
      scroll.follow();
      onSending();
      return doing(async () => {
        await thread.send(text, { queue_mode });
        onSent();
      });
    },
    [thread.thread, onSending, onSent],
  );
  const redo = useCallback(
    (request_id: string, text?: string) => {
      setEditing(null);
      scroll.follow();
      void doing(() => thread.thread.edit(text, { request_id })).then((done) => done || !text || drafts.giveBack(id, text));
    },
    [thread.thread, doing, drafts, id],
  );
  const waits = ({ request_id }: TurnState): boolean => approvals.some((asked) => asked.request_id === request_id);
  const empty = messages.length === 0 && !turn && outbox.length === 0;

  return (
    <main class={`chat${empty ? " empty" : ""}`} aria-label="Conversation">
      <header class="top">
        <button type="button" class="quiet menu" aria-label="Threads" onClick={onMenu}>
          <Menu />
        </button>
        <h1>
          <bdi>{plain(summary?.title ?? (empty ? "New thread" : "Thread"))}</bdi>
        </h1>
        <Here thread={thread.thread} request={turn?.request_id ?? null} reached={!thread.degraded} />
        {fleet.now?.plugs && (
          <button type="button" class={`pull${plugs ? " on" : ""}`} aria-pressed={plugs} onClick={onPlugs}>
            <Plug size={16} /> <span>Pull a plug</span>
          </button>
        )}
      </header>
      <div class="scroll" ref={scroll.frame} onScroll={scroll.scrolled}>
        <div class="column" ref={scroll.content}>
          {thread.has_older && <Older thread={thread} />}
          {empty && <Welcome onSay={(text) => send(text, "followup")} />}
          {messages.map((message, at) => (
            <Message
              key={message.key}
              message={message}
              isLast={at === messages.length - 1 && !turn}
              editing={editing === message.key}
              onEdit={setEditing}
              onRedo={redo}
            />
          ))}
          {outbox.map((one) => (
              <div class="message user unsent" key={one.client_message_id}>
                <div class="bubble" dir="auto">
                  {plain(one.message)}
                </div>
                <p class="under">
                  {one.cursor ? "Sent" : thread.degraded ? "Waits for a gateway" : "Sending…"}
                  {!one.cursor && (
                    <button type="button" onClick={() => thread.thread.unsend(one.client_message_id)}>
                      Take back
                    </button>
                  )}
                </p>
              </div>
            ))}
          {turn && <Running turn={turn} stopping={stop.asked} waiting={waits(turn)} />}
          {parallel.map((beside) => (
            <section class="beside" key={beside.request_id}>
              <p class="under">Beside: {plain(beside.message)}</p>
              <Running turn={beside} stopping={false} waiting={waits(beside)} />
            </section>
          ))}
          {approvals.map((asked) => (
            <Asked key={asked.approval_id} asked={asked} decide={thread.decide} />
          ))}
          {!turn && <Ended last={last} messages={messages} onRetry={redo} />}
        </div>
      </div>
      {!scroll.following && !empty && (
        <button type="button" class="latest" aria-label="Go to the newest" onClick={scroll.follow}>
          <Down size={16} />
        </button>
      )}
      <Queue thread={thread} />
      <Composer
        id={id}
        drafts={drafts}
        begun={begun}
        status={status}
        onSend={send}
        onStop={stop.stop}
        stopping={stop.asked}
      />
    </main>
  );
}

function useStop(thread: UsedThread): { readonly asked: boolean; readonly stop: () => void } {
  const tell = useTell();
  const doing = useDoing();
  const [asked, setAsked] = useState<string | null>(null);
  const running = thread.turn?.request_id ?? null;
  const { last } = thread;
  useEffect(() => {
    if (asked === null || last?.request_id !== asked) return;
    setAsked(null);
    tell(endOf(last));
  }, [last, asked]);
  const stop = useCallback(() => {
    if (running === null) return;
    setAsked(running);
    void doing(async () => {
      const result = await thread.cancel(running);
      if (result.cancelled) return; // its end tells the rest
      setAsked(null);
      tell(foundAs(result));
    }).then((done) => done || setAsked(null));
  }, [running, thread.cancel]);
  return { asked: asked !== null && asked === running, stop };
}

/** What a cancel that stopped nothing has found. */
function foundAs({ state }: CancelResult): string {
  if (state === "done") return "It was finished already: nothing to stop.";
  if (state === "failed") return "It had failed already: nothing to stop.";
  if (state === "cancelled") return "It was stopped already.";
  return "Nothing was running.";
}

const HOW: Readonly<Record<string, string>> = {
  cooperative: "the agent ended by itself",
  hard: "the agent did not listen, and was left behind",
  fenced: "its worker did not answer, and was shut out",
  unowned: "no worker had begun it",
};

/** How a turn that we stopped did end. */
function endOf(last: Outcome): string {
  if (last.ok) return "It was finished before the stop reached it.";
  if (last.error_type !== "cancelled" || last.event?.event !== "chat_error") return `It had ended: ${last.message}`;
  const { cancel_requested_ms: asked, cancel_stopped_ms: stopped, stopped: how } = last.event;
  const after = asked && stopped ? ` ${lasting(Math.max(0, stopped - asked))} after you asked` : "";
  return `Stopped${after}${how ? `: ${HOW[how] ?? how}` : ""}.`;
}

interface RunningProps {
  readonly turn: TurnState;
  readonly stopping: boolean;
  /** Whether a person has to decide first. */
  readonly waiting: boolean;
}

const Running = memo(function Running({ turn, stopping, waiting }: RunningProps) {
  const { text, thinking, tools, attempt, state } = turn;
  const silent = text === "" && thinking === "" && tools.length === 0;
  return (
    <article class="message assistant running" aria-busy="true" data-attempt={attempt}>
      {attempt > 1 && (
        <p class="passed">Its worker was lost. Another took the answer over (attempt {attempt}).</p>
      )}
      {thinking !== "" && <ThinkingCard text={thinking} live={text === ""} />}
      {tools.map((tool) => (
        <ToolCard key={tool.tool_call_id} tool={tool} live />
      ))}
      {text !== "" && <Markdown text={text} />}
      {!waiting && (
        <p class="pulse" aria-hidden={!silent}>
          <i />
          {stopping ? "Stopping…" : state === "ready" ? "Waiting for a worker…" : silent ? "Thinking…" : ""}
        </p>
      )}
    </article>
  );
});

function Ended({
  last,
  messages,
  onRetry,
}: {
  readonly last: Outcome | null;
  readonly messages: readonly Said[];
  readonly onRetry: (request_id: string) => void;
}): ComponentChildren {
  if (!last || last.ok || ["cancelled", "superseded", "removed", "delivered"].includes(last.error_type)) return null;
  if (messages.at(-1)?.request_id !== last.request_id) return null;
  const retryable = last.event?.event === "chat_error" && last.event.error_retryable;
  return (
    <div class="failed" role="alert">
      <Warning size={18} />
      <p>
        <strong>{last.error_type === "worker_lost" ? "The answer was lost with its workers." : "The answer failed."}</strong>{" "}
        <span>{plain(last.message)}</span>
        <code>{plain(last.error_type)}</code>
      </p>
      <button type="button" class={retryable ? "primary" : ""} onClick={() => onRetry(last.request_id)}>
        Try again
      </button>
    </div>
  );
}

function Older({ thread }: { readonly thread: UsedThread }) {
  const doing = useDoing();
  const [loading, setLoading] = useState(false);
  return (
    <button
      type="button"
      class="more"
      disabled={loading}
      onClick={() => {
        setLoading(true);
        void doing(() => thread.older()).then(() => setLoading(false));
      }}
    >
      {loading ? "Loading…" : "Show older messages"}
    </button>
  );
}

/** Pixels from the end within which a person counts as reading along. */
const NEAR = 80;

/** Keep the newest in sight while the person reads along, and not when they have scrolled away. */
function useFollowing() {
  const frame = useRef<HTMLDivElement>(null);
  const content = useRef<HTMLDivElement>(null);
  const [following, setFollowing] = useState(true);
  const wanted = useRef(true);
  const stood = useRef(0);
  const toEnd = useCallback(() => {
    if (!frame.current || !wanted.current) return;
    frame.current.scrollTop = frame.current.scrollHeight;
    stood.current = frame.current.scrollTop;
  }, []);
  useLayoutEffect(() => {
    if (!content.current) return;
    const observer = new ResizeObserver(toEnd);
    observer.observe(content.current);
    if (frame.current) observer.observe(frame.current);
    return () => observer.disconnect();
  }, [toEnd]);
  const scrolled = useCallback(() => {
    const { scrollTop = 0, scrollHeight = 0, clientHeight = 0 } = frame.current ?? {};
    const near = scrollHeight - scrollTop - clientHeight < NEAR;
    const back = scrollTop < stood.current;
    stood.current = scrollTop;
    // told a frame late, also of our own scrolling: there may be more to see by then, or less room for it
    if (!near && !back) return;
    wanted.current = near;
    setFollowing(near);
  }, []);
  const follow = useCallback(() => {
    wanted.current = true;
    setFollowing(true);
    toEnd();
  }, [toEnd]);
  return { frame, content, following, scrolled, follow };
}
