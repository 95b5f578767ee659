/** What the calls of a thread take and answer, as docs/protocol.md names it. */
import type { CancelProof, HistoryMessage, Lane, Metadata } from "./events.js";

export type QueueMode = "interrupt" | "reject" | "followup" | "steer" | "collect" | "parallel";
export type Policy = "retry" | "resume" | "fail";

/** Every call takes a signal; a call that it ends rejects with the signal's reason. */
export interface CallOptions {
  readonly signal?: AbortSignal | undefined;
}

/** The trace that a call belongs to, by W3C Trace Context; what is malformed is ignored. */
export interface TraceOptions extends CallOptions {
  readonly traceparent?: string | undefined;
  readonly tracestate?: string | undefined;
}

/** What may go with a message, new or in the place of an earlier one. */
interface MessageOptions extends TraceOptions {
  /** The idempotency key; made here unless given. One key is one turn, however often it is sent. */
  readonly client_message_id?: string | undefined;
  /** What becomes of the turn when its worker is lost. */
  readonly policy?: Policy | undefined;
  readonly model?: string | undefined;
  /** Wins over `model`. */
  readonly model_override?: string | undefined;
  readonly temperature?: number | undefined;
  readonly locale?: string | undefined;
  /** Kept with the message, and handed to the agent. */
  readonly metadata?: Metadata | undefined;
}

export interface SendOptions extends MessageOptions {
  /** What to do when a turn runs; `interrupt` unless given. */
  readonly queue_mode?: QueueMode | undefined;
}

export interface EditOptions extends MessageOptions {
  /** The `id` of the message to put another in place of; the newest one unless given. */
  readonly message_id?: number | undefined;
  /** The turn that it began, in place of `message_id`: for a message that came as an event, whose `id` is null. */
  readonly request_id?: string | undefined;
  /** The `id` of the newest message that was shown: refuse if there are newer ones. */
  readonly newest_id?: number | undefined;
}

/** What became of a cancel, and the proof of it as far as it is known. */
export interface CancelResult extends CancelProof {
  readonly cancelled: boolean;
  readonly request_id: string | null;
  /** The state in which the cancel found the turn. */
  readonly state:
    | "queued"
    | "ready"
    | "waiting"
    | "running"
    | "done"
    | "failed"
    | "cancelled"
    | "delivered"
    | "unknown"
    | "idle";
  /** What a cancel of everything took out of the lanes. */
  readonly dropped: readonly string[];
}

export interface HistoryOptions extends CallOptions {
  /** The `id` of a message; only older ones are returned. */
  readonly before?: number | undefined;
  readonly limit?: number | undefined;
  /** The `request_id` of an edit's turn: the messages as they were before it. */
  readonly branch?: string | undefined;
}

export interface WaitingItem {
  readonly item_id: string;
  readonly preview: string;
  /** Unix milliseconds. */
  readonly created: number;
  readonly position?: number;
  readonly state?: string;
}

export interface QueueStatus {
  readonly running: string | null;
  readonly state: "ready" | "running" | "waiting" | "idle";
  readonly lanes: Readonly<Record<Lane, readonly WaitingItem[]>>;
}

/** What became of a decision: `decided` is true for the call that decided, else the rest says what stands. */
export interface DecideResult {
  readonly approval_id: string;
  readonly decided: boolean;
  readonly state: "decided" | "expired" | "withdrawn";
  readonly decision: string | null;
  readonly by: string | null;
}

/** What a list shows of a thread. Times are Unix milliseconds. */
export interface ThreadSummary {
  readonly thread_id: string;
  readonly title: string;
  /** The beginning of its newest message, and whose message that is. */
  readonly preview: string;
  readonly role: "user" | "assistant";
  /** The turn in flight, or null. */
  readonly running: string | null;
  readonly state: "ready" | "running" | "waiting" | "idle";
  readonly created: number;
  /** When it was last started. */
  readonly active: number;
}

/** A page of the caller's threads, the one started last first. */
export interface ThreadPage {
  readonly threads: readonly ThreadSummary[];
  /** Where the page behind begins: give it as `before`; null when there is none. */
  readonly next: string | null;
}

export interface PageOptions extends CallOptions {
  readonly limit?: number | undefined;
  readonly before?: string | undefined;
}

/** Who watches a thread, over all gateways, and which worker answers. */
export interface Presence {
  readonly watchers: readonly { readonly subject: string; readonly connections: number }[];
  readonly running: string | null;
  readonly state: "ready" | "running" | "waiting" | "idle";
  readonly worker: string | null;
}

/** The acknowledgement of `chat:start`. */
export interface Started {
  readonly state: "accepted" | "queued";
  readonly request_id: string;
  readonly epoch: string;
  readonly offset: number;
  readonly lane?: Lane;
  readonly position?: number;
}

export type { HistoryMessage };
