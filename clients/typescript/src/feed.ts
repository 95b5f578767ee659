import { Backoff } from "./backoff.js";
import type { Connection, Watcher } from "./connection.js";
import { ThreadlineError, refusal } from "./errors.js";
import type { Cursor, Item, ThreadEvent } from "./events.js";
import { LinkLost } from "./link.js";
import type { Degraded } from "./state.js";
import { Tracker } from "./tracker.js";

/** Milliseconds between looks for a thread that does not exist yet, at first and at most; nothing announces a birth. */
const ABSENT_FIRST = 2_000;
const ABSENT_MOST = 15_000;

/** What a feed tells its thread. */
export interface FeedListener {
  readonly busy: boolean;
  items(items: readonly Item[]): void;
  /** The log is asked for. */
  asking(): void;
  /** Whether the log, from which all has come by now, lacks what was acknowledged before it was asked for. */
  lacks(): boolean;
  /** There is no such thread (any more): so says the answer to that, or a notice, of the log `epoch` alone. */
  absent(epoch?: string): void;
  degraded(degraded: Degraded | undefined): void;
  failed(error: ThreadlineError): void;
}

/** Keeps one thread up to date over any number of connections: never a double, never a silent loss. */
export class Feed implements Watcher {
  private readonly tracker: Tracker;
  private readonly backoff = new Backoff();
  private open = false;
  private asking = false;
  private absentWait = ABSENT_FIRST;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly connection: Connection,
    readonly thread_id: string,
    private readonly listener: FeedListener,
    after: Cursor | null,
    history: number | undefined,
  ) {
    this.tracker = new Tracker(thread_id, after, history);
  }

  get busy(): boolean {
    return this.listener.busy;
  }

  /** Whether what has come is all that there is, as far as is known. */
  get live(): boolean {
    return this.open && (this.tracker.standing === "live" || this.tracker.standing === "absent");
  }

  start(): void {
    if (this.open) return;
    this.open = true;
    this.tracker.lost();
    this.listener.degraded(this.connection.link ? "behind" : "offline");
    this.connection.watch(this);
  }

  stop(): void {
    if (!this.open) return;
    this.open = false;
    clearTimeout(this.timer);
    this.connection.unwatch(this);
  }

  /** A start in the thread was acknowledged. */
  existsNow(epoch: string): void {
    this.tracker.existsNow(epoch);
    this.settle();
  }

  event(event: ThreadEvent): void {
    this.pass(this.tracker.event(event));
    this.settle();
  }

  deleted(epoch: string): void {
    this.pass(this.tracker.deleted(epoch));
    if (this.tracker.standing === "absent") this.listener.absent(epoch);
    this.settle();
  }

  linked(): void {
    this.asking = false;
    this.backoff.reset();
    this.tracker.lost();
    this.settle();
  }

  lost(): void {
    this.asking = false;
    this.tracker.lost();
    clearTimeout(this.timer);
    this.listener.degraded("offline");
  }

  degraded(): void {
    this.settle();
  }

  failed(error: ThreadlineError): void {
    clearTimeout(this.timer);
    this.listener.degraded("refused");
    this.listener.failed(error);
  }

  private pass(items: readonly Item[]): void {
    if (items.length > 0) this.listener.items(items);
  }

  /** Do what the tracker's standing asks for. */
  private settle(): void {
    if (!this.open || this.asking || !this.connection.link) return;
    clearTimeout(this.timer);
    const { standing } = this.tracker;
    if (standing === "live" || standing === "absent") {
      this.listener.degraded(this.connection.status.degraded ? "unavailable" : undefined);
      if (standing === "absent") this.lookAgain();
      else this.absentWait = ABSENT_FIRST;
      return;
    }
    this.listener.degraded("behind");
    const delay = this.backoff.delay();
    if (delay === 0) this.ask();
    else this.timer = setTimeout(() => this.ask(), delay);
  }

  private lookAgain(): void {
    this.timer = setTimeout(() => {
      this.tracker.lost();
      this.ask();
    }, this.absentWait);
    this.absentWait = Math.min(ABSENT_MOST, this.absentWait * 1.5);
  }

  private ask(): void {
    const { link } = this.connection;
    if (!this.open || this.asking || !link) return;
    this.asking = true;
    this.listener.asking();
    let refused: ThreadlineError | undefined;
    link
      .call("thread:subscribe", this.tracker.ask(), (answer) => {
        this.asking = false;
        let items: readonly Item[] = [];
        try {
          items = this.tracker.answer(answer);
        } catch (error) {
          refused = error instanceof ThreadlineError ? error : refusal(undefined);
        }
        this.pass(items);
        if (answer["recovered"] === true && this.tracker.standing === "live" && this.listener.lacks()) this.tracker.anew();
        if (this.tracker.standing === "live") this.backoff.reset();
        if (this.tracker.standing === "absent") this.listener.absent();
      })
      .then(() => {
        if (this.connection.link !== link) return;
        if (refused && !refused.retryable) this.failed(refused);
        else if (refused?.retry_after_ms) this.timer = setTimeout(() => this.settle(), refused.retry_after_ms);
        else if (!refused && this.tracker.stuck) link.cut("the gateway did not send again what is missing here");
        else this.settle();
      })
      .catch((error: unknown) => {
        if (!(error instanceof LinkLost)) throw error; // the connection tells of its end itself
      });
  }
}
