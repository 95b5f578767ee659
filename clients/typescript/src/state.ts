/**
 * A thread as a person sees it, folded from snapshots and events. Pure: no I/O, no clock, nothing is changed in place.
 *
 * What did not change keeps its identity, so that a view can compare with `===`; a delta costs the same however long
 * the answer is. The same sequences are folded by the Python client: tests/clients/sequences.
 */
import type {
  ApprovalRequest,
  ChatAccepted,
  ChatDone,
  ChatError,
  HistoryMessage,
  Item,
  Lane,
  QueueItemDelivered,
  Snapshot,
  ThreadEdited,
  ThreadEvent,
  Usage,
} from "./events.js";
import { type Outcome, outcomeOf } from "./outcome.js";
import { placed, type QueueItem, queued, unqueued } from "./queue.js";
import { hasEnded, newTurn, NO_TOOLS, progressed, stepped, type ToolUse, type TurnState, turnOf } from "./running.js";

/** One message of the conversation. */
export interface Message {
  /** Stable and unique within the thread, over snapshots and pages too: what a list of messages is keyed by. */
  readonly key: string;
  /** Its number in the history; null for one that came as an event. */
  readonly id: number | null;
  readonly role: "user" | "assistant";
  readonly content: string;
  readonly request_id: string;
  /** Unix milliseconds, from the server's clock. */
  readonly ts: number;
  /** True when the answer stopped in the middle (cancelled, superseded, failed). */
  readonly interrupted: boolean;
  /** True for a message that went into a turn that was running. */
  readonly steer: boolean;
  /** True for a message that was collected as context of a turn. */
  readonly context: boolean;
  /** The reasoning, as far as this client saw it: the history does not hold it. */
  readonly thinking: string;
  /** The tools, as far as this client saw them: the history does not hold them. */
  readonly tools: readonly ToolUse[];
  /** Why an answer was interrupted, if this client saw it; else empty. */
  readonly error_type: string;
  readonly usage: Usage | null;
}

/** A request for a decision that waits for one. */
export interface Approval {
  readonly approval_id: string;
  readonly request_id: string;
  readonly kind: "approval" | "question";
  /** What may be answered; null for any text. */
  readonly options: readonly string[] | null;
  readonly tool_name: string;
  readonly args: Readonly<Record<string, unknown>> | null;
  readonly question: string;
  /** Unix milliseconds; then it is refused. */
  readonly expires_at: number;
}

/** A message of ours that no gateway has acknowledged, or whose first event has not come. */
export interface Unsent {
  readonly client_message_id: string;
  readonly message: string;
  /** Unix milliseconds of this machine. */
  readonly created: number;
  /** Set once it is acknowledged; it disappears when the event at this place has come. */
  readonly cursor: { readonly epoch: string; readonly offset: number } | null;
}

/**
 * Why what is shown may be behind: no connection; not caught up yet; the gateway has lost Redis; the gateway refuses
 * the thread or the token.
 */
export type Degraded = "offline" | "behind" | "unavailable" | "refused";

export interface ThreadState {
  readonly thread_id: string;
  /** False until a gateway has told of the thread, and for one that nobody has written to. */
  readonly exists: boolean;
  readonly epoch: string;
  readonly offset: number;
  readonly messages: readonly Message[];
  /** Whether the history has messages before the first of `messages`. */
  readonly has_older: boolean;
  /** The `id` before which they stand: that of the first message, or of one in whose place an edit put the first. */
  readonly older_before: number | null;
  /** The primary turn, or null. */
  readonly turn: TurnState | null;
  /** Turns that run beside it, oldest first. */
  readonly parallel: readonly TurnState[];
  /** `idle`, or the state of the primary turn. */
  readonly status: "idle" | "ready" | "running" | "waiting";
  /** Messages that wait, lane by lane: steer, followup, collect. */
  readonly queue: readonly QueueItem[];
  /** Requests that wait for a decision. */
  readonly approvals: readonly Approval[];
  /** Messages of ours on their way. */
  readonly outbox: readonly Unsent[];
  /** How the last turn ended, if its end was seen. */
  readonly last: Outcome | null;
  /** Set while what is shown may be behind. */
  readonly degraded?: Degraded;
}

/** What this client itself has to tell the state, beside what a stream yields. */
export type Local =
  | { readonly event: "local:older"; readonly messages: readonly HistoryMessage[]; readonly has_older: boolean }
  | { readonly event: "local:queue"; readonly queue: readonly QueueItem[] }
  | { readonly event: "local:sending"; readonly unsent: Unsent }
  | { readonly event: "local:sent"; readonly client_message_id: string; readonly epoch: string; readonly offset: number }
  | { readonly event: "local:unsent"; readonly client_message_id: string }
  | { readonly event: "local:dismissed"; readonly request_id: string }
  | { readonly event: "local:degraded"; readonly degraded: Degraded | undefined };

/** Finished parallel turns that are kept to be read; no history holds them. */
const MOST_BESIDE = 16;

/** The state of a thread of which nothing is known. */
export function initialState(thread_id: string): ThreadState {
  return {
    thread_id,
    exists: false,
    epoch: "",
    offset: 0,
    messages: [],
    has_older: false,
    older_before: null,
    turn: null,
    parallel: [],
    status: "idle",
    queue: [],
    approvals: [],
    outbox: [],
    last: null,
  };
}

/** Return the state after one item: of a stream, in its order, or of this client itself. */
export function reduce(state: ThreadState, item: Item | Local): ThreadState {
  if (item.event.startsWith("local:")) return reduceLocal(state, item as Local);
  const arrived = item as Item;
  let next = arrived.event === "snapshot" ? replaced(state, arrived) : advanced(state, arrived);
  const status = next.turn === null ? "idle" : (next.turn.state as ThreadState["status"]);
  if (status !== next.status) next = { ...next, status };
  return next.outbox.length === 0 ? next : arrivedOf(next, keyIn(arrived));
}

function reduceLocal(state: ThreadState, item: Local): ThreadState {
  switch (item.event) {
    case "local:older": {
      const known = new Set(state.messages.map((message) => message.key));
      const older = item.messages.map((message) => messageOf(message)).filter((message) => !known.has(message.key));
      const older_before = item.messages[0]?.id ?? state.older_before;
      return { ...state, messages: [...older, ...state.messages], has_older: item.has_older, older_before };
    }
    case "local:queue":
      return { ...state, queue: placed(state.queue, item.queue) };
    case "local:sending":
      return { ...state, outbox: [...state.outbox, item.unsent] };
    case "local:sent": {
      const { epoch, offset } = item;
      const outbox = state.outbox.map((one) =>
        one.client_message_id === item.client_message_id ? { ...one, cursor: { epoch, offset } } : one,
      );
      return arrivedOf({ ...state, outbox });
    }
    case "local:unsent":
      return { ...state, outbox: state.outbox.filter((one) => one.client_message_id !== item.client_message_id) };
    case "local:dismissed":
      return {
        ...state,
        parallel: state.parallel.filter((turn) => turn.request_id !== item.request_id || !hasEnded(turn)),
      };
    case "local:degraded": {
      if (state.degraded === item.degraded) return state;
      const { degraded: _, ...rest } = state;
      return item.degraded === undefined ? rest : { ...rest, degraded: item.degraded };
    }
  }
}

/** The idempotency key of the message that an item is the first event of. */
const keyIn = (item: Item): string | undefined => ("client_message_id" in item ? item.client_message_id : undefined);

/** Drop from the outbox what the log has brought by now: `key` names a message whose event may come before its answer. */
function arrivedOf(state: ThreadState, key?: string): ThreadState {
  const { epoch, offset } = state;
  const left = state.outbox.filter(
    ({ client_message_id, cursor }) =>
      client_message_id !== key && (cursor === null || epoch === "" || (cursor.epoch === epoch && cursor.offset > offset)),
  );
  return left.length === state.outbox.length ? state : { ...state, outbox: left };
}

// --- snapshots ----------------------------------------------------------------------------------------------------

function replaced(state: ThreadState, told: Snapshot): ThreadState {
  const before = new Map(state.messages.map((message) => [message.key, message]));
  const turns = told.turn ? [told.turn, ...told.parallel] : told.parallel;
  return {
    ...state,
    exists: told.exists,
    epoch: told.epoch,
    offset: told.offset,
    messages: told.messages.map((message) => messageOf(message, before.get(keyOf(message)))),
    has_older: (told.messages[0]?.id ?? 1) > 1,
    older_before: told.messages[0]?.id || null,
    turn: told.turn && turnOf(told.turn, ""),
    parallel: told.parallel.map((turn) => turnOf(turn, "parallel")),
    queue: [],
    approvals: turns.flatMap((turn) =>
      (turn.approvals ?? [])
        .filter((asked) => asked.state === "pending")
        .map((asked) => approvalOf(asked, turn.request_id)),
    ),
  };
}

function keyOf(message: { readonly request_id: string; readonly role: string }): string {
  return `${message.request_id}:${message.role}`;
}

function messageOf(told: HistoryMessage, before?: Message): Message {
  const message = {
    key: keyOf(told),
    id: told.id || null,
    role: told.role,
    content: told.content,
    request_id: told.request_id,
    ts: told.ts,
    interrupted: told.interrupted === true,
    steer: told.steer === true,
    context: told.context === true,
    thinking: "",
    tools: NO_TOOLS,
    error_type: "",
    usage: null,
  };
  if (!before || before.content !== message.content) return message;
  const { thinking, tools, error_type, usage } = before;
  return before.id === message.id && before.interrupted === message.interrupted
    ? before
    : { ...message, thinking, tools, error_type, usage };
}

function approvalOf(asked: Omit<Approval, "request_id" | "options" | "tool_name" | "args" | "question"> & Partial<ApprovalRequest>, request_id: string): Approval {
  return {
    approval_id: asked.approval_id,
    request_id,
    kind: asked.kind,
    options: asked.options ?? null,
    tool_name: asked.tool_name ?? "",
    args: asked.args ?? null,
    question: asked.question ?? "",
    expires_at: asked.expires_at,
  };
}

// --- events -------------------------------------------------------------------------------------------------------

function advanced(before: ThreadState, event: ThreadEvent): ThreadState {
  const state = { ...before, exists: true, epoch: event.epoch, offset: event.offset };
  switch (event.event) {
    case "chat_accepted":
      return accepted(state, event);
    case "chat_done":
    case "chat_error":
      return ended(state, event);
    case "thread_edited":
      return edited(state, event);
    case "queue_item_queued":
      return { ...state, queue: queued(state.queue, event) };
    case "queue_item_delivered":
      return delivered(state, event);
    case "queue_item_removed":
      return { ...state, queue: unqueued(state.queue, event.item_id) };
    case "approval_request": {
      const others = state.approvals.filter((asked) => asked.approval_id !== event.approval_id);
      const approvals = [...others, approvalOf(event, event.request_id)];
      return changed({ ...state, approvals }, event, (turn) => ({ ...stepped(turn, event.offset), state: "waiting" }));
    }
    case "approval_decided": {
      const approvals = state.approvals.filter((asked) => asked.approval_id !== event.approval_id);
      const waits = approvals.some((asked) => asked.request_id === event.request_id);
      return changed({ ...state, approvals }, event, (turn) => (waits ? turn : { ...turn, state: "running" }));
    }
    default:
      return changed(state, event, (turn) => progressed(turn, event));
  }
}

/** Change the turn of an event, wherever it runs. */
function changed(state: ThreadState, event: ThreadEvent, change: (turn: TurnState) => TurnState): ThreadState {
  const { request_id } = event;
  if (state.turn?.request_id === request_id) {
    const turn = change(state.turn);
    return turn === state.turn ? state : { ...state, turn };
  }
  const at = state.parallel.findIndex((turn) => turn.request_id === request_id);
  const beside = state.parallel[at];
  if (!beside) {
    if (state.turn) return state;
    // a stream that begins in the middle of a turn
    const unknown = newTurn(request_id, "");
    const turn = change(unknown);
    return turn === unknown ? state : { ...state, turn };
  }
  const turn = change(beside);
  return turn === beside ? state : { ...state, parallel: state.parallel.with(at, turn) };
}

function accepted(state: ThreadState, event: ChatAccepted): ThreadState {
  const queue = unqueued(state.queue, event.request_id);
  const turn = { ...newTurn(event.request_id, event.lane ?? ""), message: event.message };
  if (event.lane === "parallel") {
    const others = state.parallel.filter((one) => one.request_id !== turn.request_id);
    return { ...state, queue, parallel: [...others, turn] };
  }
  return { ...state, queue, turn, messages: [...state.messages, userMessage(event, event.request_id, event.message)] };
}

function edited(state: ThreadState, event: ThreadEdited): ThreadState {
  const at = state.messages.findIndex((message) => message.request_id === event.edited_request_id);
  if (at > 0) return { ...state, messages: state.messages.slice(0, at) };
  // not held: it stands before all that is held, for what is held reaches up to the newest message
  const has_older = at < 0 ? event.message_id > 1 : state.has_older;
  return { ...state, messages: [], has_older, older_before: event.message_id };
}

function userMessage(event: ThreadEvent, request_id: string, content: string, lane?: Lane): Message {
  const told = { id: 0, ts: event.ts, role: "user" as const, content, request_id };
  return { ...messageOf({ ...told, steer: lane === "steer", context: lane === "collect" }), id: null };
}

function delivered(state: ThreadState, event: QueueItemDelivered): ThreadState {
  const queue = unqueued(state.queue, event.item_id);
  if (event.into_request_id === undefined) return { ...state, queue };
  const message = userMessage(event, event.item_id, event.message ?? "", event.lane);
  return { ...state, queue, messages: [...state.messages, message] };
}

function ended(state: ThreadState, event: ChatDone | ChatError): ThreadState {
  const { request_id } = event;
  const beside = state.parallel.find((turn) => turn.request_id === request_id);
  const primary = state.turn?.request_id === request_id ? state.turn : null;
  const turn = beside ?? primary;
  const last = outcomeOf(event, turn?.text ?? "");
  const approvals = state.approvals.filter((asked) => asked.request_id !== request_id);
  const rest = { ...state, last, approvals: approvals.length === state.approvals.length ? state.approvals : approvals };
  if (beside) {
    const state_ = last.ok ? ("done" as const) : ("failed" as const);
    const done = { ...beside, state: state_, text: last.text, error_type: last.error_type, kept: null };
    return { ...rest, parallel: fewest(state.parallel.map((one) => (one === beside ? done : one))) };
  }
  const messages = last.text === "" ? state.messages : [...state.messages, answerOf(event, last, primary)];
  return { ...rest, messages, turn: primary ? null : state.turn };
}

function answerOf(event: ChatDone | ChatError, outcome: Outcome, turn: TurnState | null): Message {
  const { request_id, ok, text: content } = outcome;
  const told = { id: 0, ts: event.ts, role: "assistant" as const, content, request_id, interrupted: !ok };
  return {
    ...messageOf(told),
    id: null,
    thinking: turn?.thinking ?? "",
    tools: turn?.tools ?? NO_TOOLS,
    error_type: outcome.error_type,
    usage: (event.event === "chat_done" && event.usage) || null,
  };
}

function fewest(turns: readonly TurnState[]): readonly TurnState[] {
  const surplus = turns.filter(hasEnded).length - MOST_BESIDE;
  if (surplus <= 0) return turns;
  const oldest = new Set(turns.filter(hasEnded).slice(0, surplus));
  return turns.filter((turn) => !oldest.has(turn));
}
