import type { Item, Snapshot } from "./events.js";

/** Items that are kept for a reader that lags. Beyond that it gets a snapshot of the present in their place. */
const BACKLOG = 10_000;

/** An async iterator of what happens in a thread, from now on. Leaving the loop, or its signal, ends it. */
export class Reader implements AsyncIterableIterator<Item> {
  private items: Item[] = [];
  private at = 0;
  private behind = false;
  private ended = false;
  private error: unknown;
  private failed = false;
  /** Whoever waits in `next`: there may be several, and each is asked to look again. */
  private waiting: (() => void)[] = [];

  constructor(
    private readonly present: () => Snapshot,
    private readonly left: (reader: Reader) => void,
    private readonly signal?: AbortSignal,
  ) {
    signal?.addEventListener("abort", this.abort, { once: true });
    if (signal?.aborted) this.abort();
  }

  /** Take an item. */
  put(item: Item): void {
    if (this.items.length - this.at >= BACKLOG) {
      this.items = [];
      this.at = 0;
      this.behind = true;
    }
    if (!this.behind) this.items.push(item);
    this.arrived();
  }

  /** What has come can still be read; then it is over. */
  end(): void {
    this.ended = true;
    this.arrived();
    this.leave();
  }

  /** What has come can still be read; then the error is thrown. */
  fail(error: unknown): void {
    this.error = error;
    this.failed = true;
    this.end();
  }

  async next(): Promise<IteratorResult<Item, undefined>> {
    for (;;) {
      if (this.behind) {
        this.behind = false;
        return { done: false, value: { ...this.present(), recovered: false } };
      }
      const item = this.items[this.at];
      if (item) {
        this.at += 1;
        if (this.at === this.items.length) {
          this.items = [];
          this.at = 0;
        }
        return { done: false, value: item };
      }
      if (this.failed) {
        this.failed = false;
        throw this.error;
      }
      if (this.ended) return { done: true, value: undefined };
      await new Promise<void>((resolve) => this.waiting.push(resolve));
    }
  }

  async return(): Promise<IteratorResult<Item, undefined>> {
    this.items = [];
    this.behind = false;
    this.end();
    return { done: true, value: undefined };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  private arrived(): void {
    const { waiting } = this;
    this.waiting = [];
    for (const look of waiting) look();
  }

  private readonly abort = (): void => {
    this.items = [];
    this.fail(this.signal?.reason);
  };

  private leave(): void {
    this.signal?.removeEventListener("abort", this.abort);
    this.left(this);
  }
}
