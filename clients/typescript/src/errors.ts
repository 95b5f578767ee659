/** The protocol's codes (docs/protocol.md, "Errors"), and those of this client: `closed`, `invalid_answer`. */
export type ErrorCode =
  | "invalid_payload"
  | "invalid_thread_id"
  | "too_large"
  | "unknown_event"
  | "unauthorized"
  | "not_found"
  | "idempotency_conflict"
  | "turn_running"
  | "queue_full"
  | "rate_limited"
  | "unavailable"
  | "internal"
  | "closed"
  | "invalid_answer"
  | (string & {});

/** A gateway said no, or there will be no answer. A call that was given up by its signal rejects with the signal's reason. */
export class ThreadlineError extends Error {
  override readonly name = "ThreadlineError";
  /** The protocol's stable word. */
  readonly code: ErrorCode;
  /** Whether the same call may succeed later. */
  readonly retryable: boolean;
  /** Milliseconds after which to come back, if the gateway said so. */
  readonly retry_after_ms: number | undefined;
  /** Everything that the gateway told, such as `field`, `limit`, `lane`, `reason`. */
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: ErrorCode, message: string, details: Readonly<Record<string, unknown>> = {}) {
    super(message);
    this.code = code;
    this.details = details;
    this.retryable = details["retryable"] === true;
    const after = details["retry_after_ms"];
    this.retry_after_ms = typeof after === "number" ? after : undefined;
  }
}

/** Return the error that the `error` of an acknowledgement tells of, whatever its form. */
export function refusal(error: unknown): ThreadlineError {
  const told = isRecord(error) ? error : {};
  const code = typeof told["code"] === "string" ? told["code"] : "invalid_answer";
  const message = typeof told["message"] === "string" ? told["message"] : `expected an acknowledgement of the protocol, got ${typeof error}`;
  return new ThreadlineError(code, message, told);
}

/** The error of everything that waits when the client is closed. */
export function closed(): ThreadlineError {
  return new ThreadlineError("closed", "the client was closed; make another with connect()");
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
