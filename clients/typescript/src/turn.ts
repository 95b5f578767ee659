import type { CallOptions, CancelResult, Started, TraceOptions } from "./calls.js";
import { unless } from "./connection.js";
import { isTerminal } from "./events.js";
import type { Cursor, Item, Lane, Snapshot } from "./events.js";
import { type Outcome, outcomeOf } from "./outcome.js";
import type { ThreadState } from "./state.js";
import type { Thread } from "./thread.js";

/** One acknowledged message, and the answer to come. */
export class Turn implements AsyncIterable<Item> {
  readonly request_id: string;
  /** `accepted`, or `queued` behind the running turn, when it was acknowledged. */
  readonly state: "accepted" | "queued";
  readonly lane: Lane | null;
  readonly position: number | null;
  /** The place in the log at which it was accepted or queued. */
  readonly cursor: Cursor;
  private readonly ending: Promise<Outcome>;
  private resolve: (outcome: Outcome) => void = () => {};
  private reject: (error: unknown) => void = () => {};
  /** What has come already, until the program had its chance to iterate. */
  private early: Item[] | null = [];
  /** Whether anything of it has come, or how things stood when it was there. @internal */
  met = false;

  /** @internal */
  constructor(
    readonly thread: Thread,
    readonly client_message_id: string,
    started: Started,
  ) {
    this.request_id = started.request_id;
    this.state = started.state;
    this.lane = started.lane ?? null;
    this.position = started.position ?? null;
    this.cursor = { epoch: started.epoch, offset: started.offset };
    this.ending = new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
    this.ending.catch(() => {}); // nobody has to wait for it
    setTimeout(() => (this.early = null));
  }

  /** Wait until the turn has ended, however long that takes, and return how. */
  wait({ signal }: CallOptions = {}): Promise<Outcome> {
    return unless(this.ending, signal);
  }

  /** Cancel this turn; another one that runs by now is left alone. */
  cancel(options?: TraceOptions): Promise<CancelResult> {
    return this.thread.cancel(this.request_id, options);
  }

  /**
   * Yield this turn's events up to its end, the first ones too if it is called at once; else a snapshot comes first.
   * Another snapshot means that events were lost to this client.
   */
  async *events({ signal }: CallOptions = {}): AsyncGenerator<Item, void> {
    const { early } = this;
    const reader = this.thread.reader({ signal }, early === null);
    this.early = null;
    try {
      for (const item of early ?? []) {
        yield item;
        if (this.isLast(item)) return;
      }
      this.ending.then(() => reader.end(), () => {});
      for await (const item of reader) {
        if (item.event !== "snapshot" && item.request_id !== this.request_id) continue;
        yield item;
        if (this.isLast(item)) return;
      }
    } finally {
      await reader.return();
    }
  }

  [Symbol.asyncIterator](): AsyncGenerator<Item, void> {
    return this.events();
  }

  /** Take an item of the thread. @internal */
  note(item: Item): void {
    if (item.event === "snapshot" ? !this.isBehind(item) : item.request_id !== this.request_id) return;
    this.met = true;
    this.early?.push(item);
  }

  /** What came before it was acknowledged has been noted; `state` is how the thread stands. @internal */
  attached({ epoch, offset }: ThreadState): void {
    const has = this.early?.some((item) => item.event === "snapshot" || item.offset === this.cursor.offset);
    // its first event had passed before it was sent again, under the same key: it is no more to be had
    if (!has && epoch === this.cursor.epoch && offset >= this.cursor.offset) this.early = null;
  }

  /** @internal */
  end(outcome: Outcome): void {
    this.resolve(outcome);
  }

  /** @internal */
  fail(error: unknown): void {
    this.reject(error);
  }

  /** Whether a snapshot was taken when this turn was there. */
  private isBehind({ exists, epoch, offset }: Snapshot): boolean {
    return exists && (epoch !== this.cursor.epoch || offset >= this.cursor.offset);
  }

  private isLast(item: Item): boolean {
    // behind a snapshot may come the rest of what has come by now, though the end is known
    return item.event !== "snapshot" && (isTerminal(item) || isDropped(item));
  }
}

/** Whether a message never has a turn of its own after this event. */
function isDropped(item: Item): boolean {
  return (
    item.event === "queue_item_removed" ||
    (item.event === "queue_item_delivered" && item.into_request_id !== undefined)
  );
}

/** How an event ends the turn that it is of, or null when it does not. `text` is what was seen of the answer. */
export function endingOf(item: Item, text: string): Outcome | null {
  if (isTerminal(item)) return outcomeOf(item, text);
  if (!isDropped(item) || item.event === "snapshot") return null;
  const went = item.event === "queue_item_delivered";
  return {
    request_id: item.request_id,
    ok: false,
    text: "",
    error_type: went ? "delivered" : "removed",
    message: went ? "the message went into another turn" : "the message was removed from the queue",
    event: null,
  };
}

/** How a turn ended whose end was not seen, as far as a state that came after it tells; null if it has not ended. */
export function endedIn(state: ThreadState, request_id: string): Outcome | null {
  const isThis = (one: { readonly request_id: string }): boolean => one.request_id === request_id;
  if (state.turn && isThis(state.turn)) return null;
  if (state.queue.some((item) => item.item_id === request_id)) return null;
  if (state.last && isThis(state.last)) return state.last;
  const beside = state.parallel.find(isThis);
  if (beside && beside.state !== "done" && beside.state !== "failed") return null;
  const nothing = { request_id, ok: false, text: "", message: "", event: null };
  if (beside) return { ...nothing, ok: beside.state === "done", text: beside.text, error_type: beside.error_type };
  const mine = state.messages.filter(isThis);
  const answer = mine.find((message) => message.role === "assistant");
  if (answer) {
    const error_type = answer.interrupted ? answer.error_type || "unknown" : "";
    return { ...nothing, ok: !answer.interrupted, text: answer.content, error_type };
  }
  const went = mine.some((message) => message.steer || message.context);
  return went
    ? { ...nothing, error_type: "delivered", message: "the message went into another turn" }
    : { ...nothing, error_type: "unknown", message: "the turn ended while its events could not be had" };
}
