/** How turns end. */
import type { ChatDone, ChatError } from "./events.js";

/** How a turn ended. */
export interface Outcome {
  readonly request_id: string;
  readonly ok: boolean;
  /** The whole answer; for a turn that failed, what there was of it. */
  readonly text: string;
  /**
   * Empty when `ok`. `cancelled`, `superseded`, `worker_lost`, …; `removed` for a message taken out of its lane;
   * `delivered` for one that went into another turn; `unknown` when the log no longer tells.
   */
  readonly error_type: string;
  /** What went wrong, for people. */
  readonly message: string;
  /** The terminal event, if it was seen. */
  readonly event: ChatDone | ChatError | null;
}

/** How a turn ended, from its terminal event and the text that was seen of it. */
export function outcomeOf(event: ChatDone | ChatError, text: string): Outcome {
  const { request_id } = event;
  return event.event === "chat_done"
    ? { request_id, ok: true, text: event.full_response, error_type: "", message: "", event }
    : { request_id, ok: false, text, error_type: event.error_type, message: event.message, event };
}
