import { isRecord } from "./errors.js";

/** A place in a thread's log: everything up to `offset` of `epoch` has been seen. */
export interface Cursor {
  readonly epoch: string;
  readonly offset: number;
}

/** What each event of a thread carries. */
export interface Envelope {
  /** The socket that started the turn; `http` for a start by HTTP. */
  readonly client_id: string;
  readonly thread_id: string;
  /** The turn. */
  readonly request_id: string;
  /** The identity of the log. */
  readonly epoch: string;
  /** The place in the log: 1, 2, 3, … without a hole. */
  readonly offset: number;
  /** The place in the turn, from 0. */
  readonly seq: number;
  /** Unix milliseconds, from the server's clock. */
  readonly ts: number;
}

export type Lane = "followup" | "steer" | "collect" | "parallel";
export type Metadata = Readonly<Record<string, unknown>>;

/** A piece of text; several neighbouring ones may have been merged into one, `first_offset` to `offset`. */
export interface Delta extends Envelope {
  readonly delta: string;
  readonly round: number;
  readonly first_offset?: number;
}

export interface ChatAccepted extends Envelope {
  readonly event: "chat_accepted";
  readonly message: string;
  readonly lane?: Lane;
  readonly client_message_id?: string;
  readonly metadata?: Metadata;
}
export interface InferenceStart extends Envelope {
  readonly event: "inference_start";
  /** The name of the worker that has taken the turn. */
  readonly worker?: string;
  readonly attempt: number;
}
export interface InferenceHeartbeat extends Envelope {
  readonly event: "inference_heartbeat";
}
export interface IterationStart extends Envelope {
  readonly event: "iteration_start";
  readonly round: number;
}
export interface TextDelta extends Delta {
  readonly event: "text_delta";
}
export interface ThinkingDelta extends Delta {
  readonly event: "thinking_delta";
}
export interface ToolArgsDelta extends Delta {
  readonly event: "tool_args_delta";
  readonly tool_call_id: string;
  readonly tool_name: string;
}
export interface ToolCall extends Envelope {
  readonly event: "tool_call";
  readonly tool_name: string;
  readonly args: Readonly<Record<string, unknown>>;
  readonly tool_call_id: string;
  readonly round: number;
}
export interface ToolResult extends Envelope {
  readonly event: "tool_result";
  readonly tool_name: string;
  readonly output: string;
  readonly success: boolean;
  readonly tool_call_id: string;
  readonly round: number;
}
export interface ApprovalRequest extends Envelope {
  readonly event: "approval_request";
  readonly approval_id: string;
  /** Unix milliseconds; then it is refused. */
  readonly expires_at: number;
  readonly kind: "approval" | "question";
  /** What may be answered; any text when it is missing or null. */
  readonly options?: readonly string[] | null;
  readonly tool_name?: string;
  readonly args?: Readonly<Record<string, unknown>>;
  readonly question?: string;
}
export interface ApprovalDecided extends Envelope {
  readonly event: "approval_decided";
  readonly approval_id: string;
  readonly state: "decided" | "expired" | "withdrawn";
  readonly decision: string | null;
  readonly by: string | null;
}
export interface StepDone extends Envelope {
  readonly event: "step_done";
  readonly step: string;
}
export interface TurnRestarted extends Envelope {
  readonly event: "turn_restarted";
  readonly attempt: number;
  readonly policy: string;
  readonly kept_offset?: number;
  /** Unicode code points of the text that stand. */
  readonly kept_text?: number;
}
export interface QueueItemQueued extends Envelope {
  readonly event: "queue_item_queued";
  readonly item_id: string;
  readonly lane: Lane;
  readonly position: number;
  readonly preview: string;
  readonly from_lane?: Lane;
  readonly client_message_id?: string;
  readonly metadata?: Metadata;
}
export interface QueueItemDelivered extends Envelope {
  readonly event: "queue_item_delivered";
  readonly item_id: string;
  readonly lane: Lane;
  readonly into_request_id?: string;
  readonly message?: string;
}
export interface QueueItemRemoved extends Envelope {
  readonly event: "queue_item_removed";
  readonly item_id: string;
  readonly lane: Lane;
}
export interface Usage {
  readonly input_tokens: number;
  readonly output_tokens: number;
  readonly model: string;
}
/** The message that began a turn, and all behind it, left the conversation; another one in its place follows. */
export interface ThreadEdited extends Envelope {
  readonly event: "thread_edited";
  /** With it, `thread:history` answers with the messages as they were. */
  readonly branch: string;
  readonly message_id: number;
  readonly edited_request_id: string;
}
export interface ChatDone extends Envelope {
  readonly event: "chat_done";
  readonly full_response: string;
  readonly usage?: Usage;
  readonly timing?: { readonly first_text_ms: number | null; readonly total_ms: number };
}
/** When a cancelled turn stopped, and how. Unix milliseconds of the server's clock; null as far as it is not known. */
export interface CancelProof {
  readonly cancel_requested_ms: number | null;
  readonly cancel_seen_ms: number | null;
  readonly cancel_stopped_ms: number | null;
  readonly stopped: "cooperative" | "hard" | "fenced" | "unowned" | null;
}
export interface ChatError extends Envelope, Partial<CancelProof> {
  readonly event: "chat_error";
  readonly message: string;
  /** `cancelled`, `superseded`, `turn_timeout`, `worker_lost`, … or a type of the agent's own. */
  readonly error_type: string;
  readonly error_source: string;
  readonly error_retryable: boolean;
  readonly error_retry_after_ms?: number;
}

/**
 * One event of a thread; `switch (event.event)` tells them apart. Events that this version does not know are
 * passed on as well: give a `switch` a `default`.
 */
export type ThreadEvent =
  | ChatAccepted
  | InferenceStart
  | InferenceHeartbeat
  | IterationStart
  | TextDelta
  | ThinkingDelta
  | ToolArgsDelta
  | ToolCall
  | ToolResult
  | ApprovalRequest
  | ApprovalDecided
  | StepDone
  | TurnRestarted
  | QueueItemQueued
  | QueueItemDelivered
  | QueueItemRemoved
  | ThreadEdited
  | ChatDone
  | ChatError;

/** A message as the history holds it. */
export interface HistoryMessage {
  /** Its number, from 1; 0 in a snapshot that this client made, for a message that came as an event. */
  readonly id: number;
  readonly ts: number;
  readonly role: "user" | "assistant";
  readonly content: string;
  readonly request_id: string;
  readonly interrupted?: boolean;
  readonly steer?: boolean;
  readonly context?: boolean;
}

/** An approval within a snapshot. */
export interface SnapshotApproval {
  readonly approval_id: string;
  readonly state: "pending" | "decided" | "expired" | "withdrawn";
  readonly expires_at: number;
  readonly decision: string | null;
  readonly by: string | null;
  readonly kind: "approval" | "question";
  readonly options?: readonly string[] | null;
  readonly tool_name?: string;
  readonly args?: Readonly<Record<string, unknown>>;
  readonly question?: string;
}

/** A tool call within a snapshot. */
export interface SnapshotTool {
  readonly tool_call_id: string;
  readonly tool_name: string;
  readonly args: Readonly<Record<string, unknown>> | null;
  readonly round: number;
  readonly output?: string | null;
  readonly success?: boolean | null;
}

/** A running turn within a snapshot. */
export interface SnapshotTurn {
  readonly request_id: string;
  readonly lane?: string;
  readonly state: "ready" | "running" | "waiting";
  readonly attempt: number;
  readonly text: string;
  readonly thinking: string;
  readonly tools: readonly SnapshotTool[];
  readonly approvals?: readonly SnapshotApproval[];
}

/**
 * How a thread stands at `offset`: the first item of a stream, and later what comes in place of events that are no
 * longer to be had.
 */
export interface Snapshot extends Cursor {
  readonly event: "snapshot";
  readonly thread_id: string;
  /** null for the first one; false when events were lost to this client. */
  readonly recovered: false | null;
  /** False for a thread that nobody has written to; it has no epoch then. */
  readonly exists: boolean;
  readonly messages: readonly HistoryMessage[];
  /** The primary turn in flight. */
  readonly turn: SnapshotTurn | null;
  /** The turns that run beside it. */
  readonly parallel: readonly SnapshotTurn[];
}

/** What a stream yields. */
export type Item = ThreadEvent | Snapshot;

/** The first offset that an event stands for; the others of it follow without a hole. */
export function firstOffset(event: ThreadEvent): number {
  const first = "first_offset" in event ? event.first_offset : undefined;
  return first === undefined ? event.offset : Math.min(first, event.offset);
}

/** Whether the turn ends with this event. */
export function isTerminal(event: Item): event is ChatDone | ChatError {
  return event.event === "chat_done" || event.event === "chat_error";
}

/**
 * Return the event that a frame carries, or undefined for a frame that is no entry of a log.
 *
 * Aliases (`chat:done` for `chat_done`) are undefined too: they say again what the event itself says.
 */
export function parseEvent(name: string, fields: unknown): ThreadEvent | undefined {
  if (name.includes(":") || !isRecord(fields)) return undefined;
  const { offset, epoch, thread_id } = fields;
  if (!isOffset(offset) || offset === 0 || typeof epoch !== "string" || typeof thread_id !== "string") return undefined;
  // The gateway is believed about the fields of its own events; the name of the frame wins over the field.
  return (fields["event"] === name ? fields : { ...fields, event: name }) as unknown as ThreadEvent;
}

/** Return the snapshot that the acknowledgement of `thread:subscribe` carries. */
export function parseSnapshot(thread_id: string, answer: Readonly<Record<string, unknown>>): Snapshot {
  const inside = isRecord(answer["snapshot"]) ? answer["snapshot"] : {};
  return {
    event: "snapshot",
    thread_id,
    epoch: typeof answer["epoch"] === "string" ? answer["epoch"] : "",
    offset: isOffset(answer["offset"]) ? answer["offset"] : 0,
    recovered: answer["recovered"] === false ? false : null,
    exists: true,
    messages: records(inside["messages"]) as unknown as HistoryMessage[],
    turn: isRecord(inside["turn"]) ? (inside["turn"] as unknown as SnapshotTurn) : null,
    parallel: records(inside["parallel"]) as unknown as SnapshotTurn[],
  };
}

/** The snapshot of a thread that nobody has written to. */
export function absent(thread_id: string): Snapshot {
  return {
    event: "snapshot",
    thread_id,
    epoch: "",
    offset: 0,
    recovered: null,
    exists: false,
    messages: [],
    turn: null,
    parallel: [],
  };
}

export function isOffset(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function records(value: unknown): Record<string, unknown>[] {
  return Array.isArray(value) ? value.filter(isRecord) : [];
}
