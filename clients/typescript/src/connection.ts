import { Backoff } from "./backoff.js";
import { ThreadlineError, closed, isRecord, refusal } from "./errors.js";
import { parseEvent } from "./events.js";
import type { ThreadEvent } from "./events.js";
import { Link, LinkLost } from "./link.js";
import type { Transport } from "./link.js";
import { Listeners } from "./listeners.js";
import { Alarm, tokenOf } from "./token.js";
import type { Token } from "./token.js";
import type { Answer } from "./tracker.js";

/** Milliseconds after which a connection counts as a success, and the next failure is the first one again. */
const STEADY = 1_000;
/** Codes that are retryable, but say something about the thread that the caller asked to know. */
const ANSWERS: ReadonlySet<string> = new Set(["turn_running", "queue_full"]);
/** Milliseconds between looks at a gateway that says nothing while a turn runs, far below Engine.IO's 45 seconds. */
const QUIET = 10_000;
/** Refusals one after another of what a token function returns, before it is believed that it has no better one. */
const MOST_REFUSALS = 3;

/** How the client stands towards the gateways. */
export interface Status {
  /**
   * `connecting`: for the first time; `connected`; `offline`: between two connections; `refused`: the token was
   * refused, and nothing is tried until `reconnect()`; `closed`.
   */
  readonly state: "connecting" | "connected" | "offline" | "refused" | "closed";
  /** The gateway in use, or null. */
  readonly url: string | null;
  /** The name of the connection at its gateway, or null: the `client_id` of what is started on it. */
  readonly sid: string | null;
  /** True while the gateway in use has lost Redis: nothing new comes until it has it again; then nothing is missing. */
  readonly degraded: boolean;
  /** Why the last connection ended or was not had, for people; null while all is well. */
  readonly error: Error | null;
}

/** Who wants the events of one thread. */
export interface Watcher {
  readonly thread_id: string;
  /** Whether a turn runs, so that silence is worth a question. */
  readonly busy: boolean;
  event(event: ThreadEvent): void;
  /** The thread was erased; `epoch` is that of the log which went. */
  deleted(epoch: string): void;
  linked(): void;
  lost(): void;
  /** `status.degraded` has changed. */
  degraded(): void;
  failed(error: ThreadlineError): void;
}

/** The one place that decides when to connect, where to, and when to give up. */
export class Connection {
  status: Status = { state: "connecting", url: null, sid: null, degraded: false, error: null };
  /** What the gateway said of Redis, perhaps before its handshake was done. */
  private degraded = false;
  private current: Link | null = null;
  private failure: ThreadlineError | null = null;
  private next = 0;
  private wake: () => void = () => {};
  private readonly backoff = new Backoff();
  private readonly waiting = new Set<() => void>();
  private readonly watchers = new Set<Watcher>();
  private readonly listeners = new Listeners();
  private readonly alarm = new Alarm(() => void this.refresh());
  private heard = 0;
  private refusals = 0;
  private running = false;
  private readonly watchdog: ReturnType<typeof setInterval>;

  constructor(
    readonly urls: readonly string[],
    private readonly token: Token,
    private readonly transports: readonly Transport[],
  ) {
    this.watchdog = setInterval(() => this.look(), QUIET);
    globalThis.addEventListener?.("online", this.hasten);
    globalThis.document?.addEventListener("visibilitychange", this.hasten);
    void this.run();
  }

  /** Hear of each change of `status`. Returns how to stop that. */
  subscribe(listener: () => void): () => void {
    return this.listeners.add(listener);
  }

  /** Give a watcher the events of its thread from now on. */
  watch(watcher: Watcher): void {
    this.watchers.add(watcher);
    if (this.failure) watcher.failed(this.failure);
    else if (this.current) watcher.linked();
  }

  /** Stop that; the gateway is told. */
  unwatch(watcher: Watcher): void {
    this.watchers.delete(watcher);
    this.current?.call("thread:unsubscribe", { thread_id: watcher.thread_id }).catch(ignore);
  }

  /** The live link, or null. */
  get link(): Link | null {
    return this.current;
  }

  /**
   * Wait for a live link.
   *
   * @throws ThreadlineError when there will be none: `closed`, or what the gateway refused the token with.
   */
  async linked(signal?: AbortSignal): Promise<Link> {
    for (;;) {
      signal?.throwIfAborted();
      if (this.failure) throw this.failure;
      if (this.current) return this.current;
      await this.changed(signal);
    }
  }

  /**
   * Make a call, over as many connections as it takes. What is retryable is tried again, but for the answers that
   * the caller asked for (`turn_running`, `queue_full`).
   *
   * @throws ThreadlineError with the gateway's code.
   */
  async call(event: string, payload: object, signal?: AbortSignal): Promise<Answer> {
    const backoff = new Backoff({ atOnce: false });
    for (;;) {
      const link = await this.linked(signal);
      let answer: Answer;
      try {
        answer = await unless(link.call(event, payload), signal);
      } catch (error) {
        if (error instanceof LinkLost) continue; // the connection spaces its attempts
        throw error;
      }
      if (answer["ok"] === true) return answer;
      const refused = refusal(answer["error"]);
      if (!refused.retryable || ANSWERS.has(refused.code)) throw refused;
      await pause(Math.max(backoff.delay(), refused.retry_after_ms ?? 0), signal);
    }
  }

  /** Leave the gateway in use, for `url` or the next of the list; also tries again after a refused token. */
  reconnect(url?: string): void {
    if (this.status.state === "closed") return;
    const at = url === undefined ? this.next : this.urls.indexOf(url);
    if (at < 0) throw new RangeError(`expected one of ${this.urls.join(", ")}, got ${url}; name a gateway of this client`);
    // who leaves a gateway goes to the one behind it
    this.next = url !== undefined && this.current ? at + this.urls.length - 1 : at;
    this.backoff.reset();
    this.refusals = 0;
    if (this.failure) {
      this.failure = null;
      this.tell({ state: "connecting", url: null, sid: null, degraded: false, error: null });
      if (!this.running) void this.run();
    }
    this.current?.cut("left on purpose");
    this.wake();
  }

  /** Leave. Calls and streams that wait reject with `closed`. */
  close(): void {
    if (this.status.state === "closed") return;
    clearInterval(this.watchdog);
    this.alarm.clear();
    globalThis.removeEventListener?.("online", this.hasten);
    globalThis.document?.removeEventListener("visibilitychange", this.hasten);
    this.fail("closed", closed());
    this.current?.cut("closed");
    this.current = null;
    this.wake();
  }

  private async run(): Promise<void> {
    this.running = true;
    while (!this.failure) {
      await this.rest(this.backoff.delay());
      if (this.failure) break;
      const url = this.urls[this.next % this.urls.length] as string;
      const link = await this.open(url);
      if (this.urls[this.next % this.urls.length] !== url) {
        link?.cut("left on purpose"); // `reconnect` has named another one meanwhile
        continue;
      }
      if (!link) {
        this.next += 1;
        continue;
      }
      const since = Date.now();
      this.arrived(link);
      const reason = await link.gone;
      if (Date.now() - since >= STEADY) this.backoff.reset();
      this.next += 1;
      this.left(reason);
    }
    this.running = false;
  }

  private async open(url: string): Promise<Link | null> {
    try {
      this.degraded = false; // each gateway says how it is there
      const token = await tokenOf(this.token);
      if (this.failure) return null;
      const link = await Link.open(url, token, this.transports, (name, fields) => this.frame(name, fields));
      if (this.failure) {
        link.cut("closed");
        return null;
      }
      this.alarm.set(token);
      return link;
    } catch (error) {
      // Where a token cannot be had just now (a callback that needs the network), the next attempt asks again.
      if (error instanceof ThreadlineError && !error.retryable && this.isFinal()) this.fail("refused", error);
      else this.tell({ ...this.status, error: asError(error) });
      return null;
    }
  }

  /** A function may have returned a token that ended on its way: it is asked again, some times. */
  private isFinal(): boolean {
    this.refusals += 1;
    return typeof this.token !== "function" || this.refusals >= MOST_REFUSALS;
  }

  private arrived(link: Link): void {
    this.refusals = 0;
    this.current = link;
    this.heard = Date.now();
    this.tell({ state: "connected", url: link.url, sid: link.sid, degraded: this.degraded, error: null });
    for (const watcher of this.watchers) watcher.linked();
  }

  private left(reason: string): void {
    this.current = null;
    this.alarm.clear();
    if (this.failure) return;
    this.tell({ state: "offline", url: null, sid: null, degraded: false, error: new LinkLost(reason) });
    for (const watcher of this.watchers) watcher.lost();
  }

  private fail(state: "refused" | "closed", error: ThreadlineError): void {
    this.failure = error;
    this.tell({ state, url: null, sid: null, degraded: false, error });
    for (const watcher of this.watchers) watcher.failed(error);
  }

  private tell(status: Status): void {
    this.status = status;
    for (const settle of [...this.waiting]) settle();
    this.listeners.tell();
  }

  private changed(signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const settle = (): void => {
        this.waiting.delete(settle);
        signal?.removeEventListener("abort", aborted);
        resolve();
      };
      const aborted = (): void => {
        this.waiting.delete(settle);
        reject(signal?.reason);
      };
      this.waiting.add(settle);
      signal?.addEventListener("abort", aborted, { once: true });
    });
  }

  private frame(name: string, fields: unknown): void {
    this.heard = Date.now();
    if (name === "degraded") {
      this.degraded = isRecord(fields) && fields["active"] === true;
      if (this.current) this.tell({ ...this.status, degraded: this.degraded });
      for (const watcher of this.watchers) watcher.degraded();
      return;
    }
    if (name === "auth_expired") {
      void this.refresh();
      return;
    }
    if (name === "thread_deleted" && isRecord(fields)) {
      for (const watcher of [...this.watchers]) {
        if (watcher.thread_id === fields["thread_id"]) watcher.deleted(String(fields["epoch"]));
      }
      return;
    }
    const event = parseEvent(name, fields);
    if (!event) return;
    for (const watcher of [...this.watchers]) {
      if (watcher.thread_id === event.thread_id) watcher.event(event);
    }
  }

  /** Show the gateway a newer token in band. If it will not have it, a new connection gets a new one. */
  private async refresh(): Promise<void> {
    const link = this.current;
    if (!link || typeof this.token !== "function") return;
    try {
      const token = await tokenOf(this.token);
      if (token === null || link.ended) return;
      const answer = await link.call("auth:refresh", { token });
      if (answer["ok"] === true) {
        this.alarm.set(token);
        this.backoff.reset();
      } else if (refusal(answer["error"]).retryable) {
        this.alarm.again(STEADY);
      } else {
        link.cut("the gateway refused the new token");
      }
    } catch {
      if (!link.ended) this.alarm.again(STEADY); // the program's callback failed; the old token may still do
    }
  }

  /** Ask a gateway that has been silent for long while a turn runs; if it does not answer, it is given up. */
  private look(): void {
    if (Date.now() - this.heard < QUIET || ![...this.watchers].some((watcher) => watcher.busy)) return;
    this.probe();
  }

  private probe(): void {
    // the cheapest call: it changes nothing for a thread that is not watched, and nobody can watch this one
    this.current
      ?.call("thread:unsubscribe", { thread_id: "-" })
      .then(() => (this.heard = Date.now()))
      .catch(ignore);
  }

  /** The machine woke up, or the network is back: no waiting now, and no trust in an old connection. */
  private readonly hasten = (): void => {
    if (globalThis.document?.visibilityState === "hidden") return;
    if (this.current) this.probe();
    else {
      this.backoff.reset();
      this.wake();
    }
  };

  private rest(milliseconds: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

/** Wait, unless the signal says otherwise. */
export function pause(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return unless(new Promise((resolve) => setTimeout(resolve, milliseconds)), signal);
}

/** Settle as `work` does, or reject with the signal's reason, whichever comes first. */
export function unless<Result>(work: Promise<Result>, signal: AbortSignal | undefined): Promise<Result> {
  if (!signal) return work;
  return new Promise((resolve, reject) => {
    const aborted = (): void => reject(signal.reason);
    if (signal.aborted) aborted();
    signal.addEventListener("abort", aborted, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", aborted));
  });
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error));
}

function ignore(): void {
  // the answer does not matter, and a connection that is gone is no error here
}
