/**
 * A client of Threadline: conversations that go on, whichever gateway lives.
 *
 *     const client = connect({ urls: ["http://127.0.0.1:8080", "http://127.0.0.1:8081"] });
 *     const turn = await client.thread("tea").send("How long for green tea?");
 *     console.log((await turn.wait()).text);
 */
export type {
  CallOptions,
  CancelResult,
  DecideResult,
  EditOptions,
  HistoryOptions,
  PageOptions,
  Policy,
  Presence,
  QueueMode,
  QueueStatus,
  SendOptions,
  ThreadPage,
  ThreadSummary,
  TraceOptions,
  WaitingItem,
} from "./calls.js";
export { connect } from "./client.js";
export type { Client, ConnectOptions, ThreadOptions } from "./client.js";
export type { Status } from "./connection.js";
export { ThreadlineError } from "./errors.js";
export type { ErrorCode } from "./errors.js";
export { isTerminal, parseEvent, parseSnapshot } from "./events.js";
export type * from "./events.js";
export type { Transport } from "./link.js";
export type { Outcome } from "./outcome.js";
export type { QueueItem } from "./queue.js";
export type { ToolUse, TurnState } from "./running.js";
export { initialState, reduce } from "./state.js";
export type * from "./state.js";
export type { Thread } from "./thread.js";
export type { Token } from "./token.js";
export type { Turn } from "./turn.js";
