import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { Status, ThreadState } from "@threadline/client";
import { useClient, useStatus, useThread } from "@threadline/client/react";
import { configuration } from "./configuration.js";
import { Cross, Fleet, Plug } from "./icons.js";
import { useDoing } from "./notices.js";
import { gatewaysOf, pull, useFleet } from "./operations/fleet.js";
import type { GatewayMember, Seen } from "./operations/fleet.js";
import { lasting } from "./times.js";

/** Breaks things under a running conversation, and shows what that did to it: nothing. */
export function Plugs({ thread_id, onClose }: { readonly thread_id: string; readonly onClose: () => void }) {
  const client = useClient();
  const status = useStatus();
  const thread = useThread(thread_id);
  const { now } = useFleet(1000);
  const doing = useDoing();
  const [diary, write] = useDiary(status, thread);
  const owner = ownerOf(now, thread_id);
  const mine = now && nodeOf(now, status.url);
  const others = configuration.gateways.filter((url) => url !== status.url);
  const act = (what: string, work: () => unknown): void => {
    write(what, "pulled");
    void doing(async () => await work());
  };
  return (
    <aside class="plugs" aria-label="Pull a plug">
      <header>
        <h2>
          <Plug size={18} /> Pull a plug
        </h2>
        <button type="button" class="quiet" aria-label="Close" onClick={onClose}>
          <Cross size={16} />
        </button>
      </header>
      <p class="lead">
        Ask for a long answer, then break what carries it. The conversation goes on: no word is lost, and none comes
        twice.
      </p>
      <Act
        name="Drop my socket"
        what={status.url ? `the connection to ${hostOf(status.url)}` : "no connection just now"}
        disabled={status.sid === null}
        onClick={() => act("Dropped the socket", () => pull(String(status.url), "socket", String(status.sid)))}
      />
      <Act
        name="Move me to another node"
        what={others[0] ? `of ${others.length + 1}` : "there is only one: start more with --gateways 3"}
        disabled={others.length === 0 || status.url === null}
        onClick={() => {
          const next = others.find((url) => now && nodeOf(now, url)?.ready) ?? others[0];
          if (next) act(`Left for ${hostOf(next)}`, () => client.reconnect(next));
        }}
      />
      <Act
        name="Kill this turn’s worker"
        what={thread.turn ? (owner ?? "nobody has reported it yet") : "nothing is being answered"}
        disabled={!thread.turn || owner === null || status.url === null}
        danger
        onClick={() => act("Killed the worker (kill -9)", () => pull(String(status.url), "turn", thread_id))}
      />
      <Act
        name="Kill my node"
        what={mine ? `${mine.node_id}, pid ${mine.pid}` : "not known yet"}
        disabled={!mine}
        danger
        onClick={() => mine && act("Killed the node (kill -9)", () => pull(String(status.url), "node", mine.node_id))}
      />
      <h3>What happened</h3>
      <ol class="diary" aria-live="polite">
        {diary.map((entry) => (
          <li key={entry.key} class={entry.kind}>
            {entry.text}
          </li>
        ))}
        {diary.length === 0 && <li class="none">Nothing yet.</li>}
      </ol>
      <a class="entry" href="#operations">
        <Fleet size={16} /> Watch the whole fleet
      </a>
    </aside>
  );
}

interface ActProps {
  readonly name: string;
  readonly what: ComponentChildren;
  readonly disabled: boolean;
  readonly danger?: boolean;
  readonly onClick: () => void;
}

function Act({ name, what, disabled, danger = false, onClick }: ActProps) {
  return (
    <button type="button" class={`act${danger ? " danger" : ""}`} disabled={disabled} onClick={onClick}>
      <span>{name}</span>
      <small>{what}</small>
    </button>
  );
}

const hostOf = (url: string): string => new URL(url).host;

/** The member that serves an address: a port is one process of this machine, whatever name it is reached by. */
function nodeOf(seen: Seen, url: string | null): GatewayMember | null {
  if (url === null) return null;
  const { port } = new URL(url);
  const named = gatewaysOf(seen).filter((one) => new URL(one.url).port === port);
  return named.sort((one, other) => one.silent - other.silent)[0] ?? null; // a dead one may still be listed
}

function ownerOf(seen: Seen | null, thread_id: string): string | null {
  for (const member of seen?.members ?? []) {
    if (member.kind !== "worker" || member.silent > 3) continue;
    if (member.turns.some((turn) => turn.thread_id === thread_id && turn.ended === undefined)) {
      return `${member.node_id}, pid ${member.pid}`;
    }
  }
  return null;
}

interface Entry {
  readonly key: number;
  readonly text: string;
  readonly kind: "pulled" | "lost" | "healed";
}

/** What happened to the connection and to the turn since the panel was opened, newest first. */
function useDiary(status: Status, { turn, degraded }: ThreadState) {
  const [entries, setEntries] = useState<readonly Entry[]>([]);
  const key = useRef(0);
  const lostAt = useRef<number | null>(null);
  const before = useRef({ state: status.state, sid: status.sid, attempt: turn?.attempt ?? 1, request_id: turn?.request_id });
  const write = (text: string, kind: Entry["kind"]): void => {
    key.current += 1;
    const entry = { key: key.current, text, kind };
    setEntries((all) => [entry, ...all].slice(0, 12));
  };
  const caughtUp = degraded === undefined;
  useEffect(() => {
    const was = before.current;
    if (status.state !== "connected" && was.state === "connected") {
      lostAt.current = performance.now();
      write("The connection is gone", "lost");
    }
    before.current = { ...was, state: status.state, sid: status.sid };
  }, [status]);
  useEffect(() => {
    if (!caughtUp || lostAt.current === null || status.url === null) return;
    const took = lasting(performance.now() - lostAt.current);
    lostAt.current = null;
    write(`Went on at ${hostOf(status.url)} after ${took}, nothing missing`, "healed");
  }, [caughtUp, status]);
  useEffect(() => {
    const was = before.current;
    if (turn && turn.request_id === was.request_id && turn.attempt > was.attempt) {
      write(`The worker was lost; another took the turn over (attempt ${turn.attempt})`, "healed");
    }
    before.current = { ...was, attempt: turn?.attempt ?? 1, request_id: turn?.request_id };
  }, [turn?.attempt, turn?.request_id]);
  return [entries, write] as const;
}
