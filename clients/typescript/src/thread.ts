import type {
  CallOptions,
  CancelResult,
  DecideResult,
  EditOptions,
  HistoryOptions,
  Presence,
  QueueStatus,
  SendOptions,
  Started,
  TraceOptions,
  WaitingItem,
} from "./calls.js";
import type { Connection } from "./connection.js";
import { ThreadlineError, isRecord } from "./errors.js";
import type { HistoryMessage, Item, Lane, Snapshot } from "./events.js";
import { Feed } from "./feed.js";
import { Listeners } from "./listeners.js";
import { Outbox, newKey } from "./outbox.js";
import { Reader } from "./reader.js";
import type { QueueItem } from "./queue.js";
import type { Degraded, Local, ThreadState } from "./state.js";
import { initialState, reduce } from "./state.js";
import { Turn, endedIn, endingOf } from "./turn.js";

/** Milliseconds for which a thread that nobody watches any more is kept up to date: views come and go. */
const LINGER = 1_000;
/** Messages of one page of the history; the gateway's own default. */
const PAGE = 50;
/** Messages of one look for a number: as many as a gateway gives. */
const LOOK = 200;

/** One conversation, reached through whichever gateway lives. Made by `client.thread(id)`. */
export class Thread {
  private current: ThreadState;
  private readonly feed: Feed;
  private readonly outbox: Outbox;
  private readonly listeners = new Listeners();
  private readonly readers = new Set<Reader>();
  private readonly turns = new Set<Turn>();
  /** Those of `turns` that a gateway had acknowledged when the log was last asked for. */
  private asked: ReadonlySet<Turn> = new Set();
  private readonly recordings = new Set<Item[]>();
  private holds = 0;
  private lingering: ReturnType<typeof setTimeout> | undefined;
  private notifying = false;
  private failure: ThreadlineError | null = null;
  /** Changes with each event of the lanes, and with each snapshot, which may stand for some. */
  private laneChanges = 0;
  /** The message that is out of its lane, and whose turn begins with the next event. */
  private delivering: string | null = null;
  /** Whether `state.queue` is as the log has it: a snapshot says nothing of the lanes. */
  private lanesKnown = false;
  /** The turn that ran when the lanes were read: it waits no more, and its first event may be on its way yet. */
  private running: string | null = null;
  /** Whether anything is known of the thread, be it that it does not exist. */
  private told: boolean;
  private paging: Promise<boolean> | null = null;

  /** @internal */
  constructor(
    private readonly connection: Connection,
    readonly id: string,
    seed: ThreadState | undefined,
    history: number | undefined,
  ) {
    // what was on its way when the state was saved is not known to be sent
    const { degraded: _, ...known } = seed ?? initialState(id);
    this.current = { ...known, outbox: [] };
    const after = known.epoch === "" ? null : { epoch: known.epoch, offset: known.offset };
    this.lanesKnown = this.told = after !== null;
    const thread = this;
    this.feed = new Feed(
      connection,
      id,
      {
        get busy() {
          return thread.current.turn !== null || thread.current.parallel.length > 0;
        },
        items: (items) => this.take(items),
        asking: () => (this.asked = new Set(this.turns)),
        lacks: () => [...this.asked].some((turn) => this.lacks(turn)),
        absent: (epoch) =>
          this.settle((turn) => (epoch === undefined ? this.asked.has(turn) : turn.cursor.epoch === epoch)),
        degraded: (degraded) => this.stand(degraded),
        failed: (error) => this.fail(error),
      },
      after,
      history,
    );
    this.outbox = new Outbox(connection, id);
  }

  /** The thread as it stands. The same object until something changes, and never changed in place. */
  get state(): ThreadState {
    return this.current;
  }

  /**
   * Call back after each change of `state`, and keep it up to date from now on. Returns how to stop that.
   *
   * Bound, so that it can be handed to `useSyncExternalStore` and its kin.
   */
  readonly subscribe = (listener: () => void): (() => void) => {
    const leave = this.listeners.add(listener);
    const release = this.hold();
    return () => {
      leave();
      release();
    };
  };

  /** Bound, for `useSyncExternalStore` and its kin: what `state` is. */
  readonly getState = (): ThreadState => this.current;

  /**
   * Iterate over what happens from now on: a `snapshot` of how things stand, then each event once, in order. Another
   * snapshot means that events were lost to this client, and how things stand without them.
   *
   * A thread that does not exist yields a snapshot that says so, and is then waited for.
   */
  events(options: CallOptions = {}): AsyncIterableIterator<Item, undefined> {
    return this.reader(options, true);
  }

  /** What comes from now on; with `present`, behind how things stand. @internal */
  reader({ signal }: CallOptions, present: boolean): Reader {
    signal?.throwIfAborted();
    const release = this.hold();
    const left = (reader: Reader): void => {
      this.readers.delete(reader);
      release();
    };
    const reader = new Reader(() => snapshotOf(this.current), left, signal);
    if (this.failure) reader.fail(this.failure);
    else this.readers.add(reader);
    if (present && this.told) reader.put(snapshotOf(this.current));
    return reader;
  }

  /**
   * Send a message, and return its turn once a gateway has acknowledged it.
   *
   * It waits in `state.outbox` while there is no connection, and is sent again, under one idempotency key, until it
   * is acknowledged. Messages of a thread are sent one after another. A signal gives it up; a gateway may have taken
   * it by then.
   *
   * @throws ThreadlineError with the gateway's code, such as `turn_running`, `queue_full` or `too_large`.
   */
  async send(message: string, options: SendOptions = {}): Promise<Turn> {
    options.signal?.throwIfAborted();
    const release = this.hold();
    const recording: Item[] = [];
    this.recordings.add(recording);
    const { client_message_id, started } = this.outbox.put(message, options);
    this.apply({
      event: "local:sending",
      unsent: { client_message_id, message, created: Date.now(), cursor: null },
    });
    try {
      const told = await started;
      const turn = new Turn(this, client_message_id, told);
      this.follow(turn, recording, release);
      this.apply({ event: "local:sent", client_message_id, epoch: told.epoch, offset: told.offset });
      this.feed.existsNow(told.epoch);
      return turn;
    } catch (error) {
      release();
      this.apply({ event: "local:unsent", client_message_id });
      throw error;
    } finally {
      this.recordings.delete(recording);
    }
  }

  /**
   * Put a message in the place of an earlier one, and return its turn; without a text, ask the same once more.
   *
   * The turn that runs ends, and what stands behind that message leaves the conversation; `history` shows it with
   * `branch`, the `request_id` of the turn that is returned. It is sent again, under one idempotency key, until it is
   * acknowledged.
   *
   * @throws ThreadlineError `edit_conflict`, when that message is no more part of the conversation, or there are newer.
   * @throws RangeError for a `message_id` of null: without a number the newest message would be meant.
   */
  async edit(message?: string, options: EditOptions = {}): Promise<Turn> {
    const { signal, client_message_id = newKey(), request_id, ...given } = options;
    signal?.throwIfAborted();
    if (given.message_id === null) {
      throw new RangeError("message_id: expected a number, got null, as of a message that came as an event; give its request_id");
    }
    const release = this.hold();
    const recording: Item[] = [];
    this.recordings.add(recording);
    try {
      const named = given.message_id === undefined && request_id !== undefined;
      const message_id = named ? await this.numberOf(request_id, signal) : given.message_id;
      const payload = { ...(message !== undefined && { message }), client_message_id, ...given, message_id };
      const turn = new Turn(this, client_message_id, (await this.call("thread:edit", payload, signal)) as unknown as Started);
      this.follow(turn, recording, release);
      return turn;
    } catch (error) {
      release();
      throw error;
    } finally {
      this.recordings.delete(recording);
    }
  }

  /** Give the thread another title, of 1 to 120 characters. */
  async rename(title: string, { signal }: CallOptions = {}): Promise<void> {
    await this.call("thread:rename", { title }, signal);
  }

  /** End what runs in the thread, and erase it everywhere. False when there was none (any more). */
  async delete({ signal }: CallOptions = {}): Promise<boolean> {
    return (await this.call("thread:delete", {}, signal))["deleted"] === true;
  }

  /** Return who watches the thread, and which worker answers. */
  async presence({ signal }: CallOptions = {}): Promise<Presence> {
    return (await this.call("thread:presence", {}, signal)) as unknown as Presence;
  }

  /** Take a message out of `state.outbox`, if no gateway has acknowledged it; `send` then rejects. */
  unsend(client_message_id: string): boolean {
    return this.outbox.giveUp(client_message_id, new DOMException("the message was taken back", "AbortError"));
  }

  /**
   * Cancel a turn; without `request_id` the primary one that runs, and everything that waits. Any gateway will do.
   * The result is the truth; the end itself comes as an event.
   */
  async cancel(request_id?: string, { signal, ...trace }: TraceOptions = {}): Promise<CancelResult> {
    const asked = request_id === undefined ? trace : { request_id, ...trace };
    const answer = await this.call("chat:cancel", asked, signal);
    return answer as unknown as CancelResult;
  }

  /** Answer an approval or a question. `decided` is false when somebody else was first: the rest says what stands. */
  async decide(
    approval_id: string,
    decision: string,
    { signal, ...trace }: TraceOptions = {},
  ): Promise<DecideResult> {
    const answer = await this.call("approval:decide", { approval_id, decision, ...trace }, signal);
    return answer as unknown as DecideResult;
  }

  /** Return what runs, and what waits in which lane. */
  async queueStatus({ signal }: CallOptions = {}): Promise<QueueStatus> {
    return (await this.call("queue:status", {}, signal)) as unknown as QueueStatus;
  }

  /** Take everything that waits out of the lanes; return the ids. */
  async queueClear({ signal }: CallOptions = {}): Promise<readonly string[]> {
    return (await this.call("queue:clear", {}, signal))["removed"] as readonly string[];
  }

  /** Take one message out of its lane. @throws ThreadlineError `not_found` when it does not wait any more. */
  async queueRemove(item_id: string, { signal }: CallOptions = {}): Promise<void> {
    await this.call("queue:remove", { item_id }, signal);
  }

  /**
   * Return messages, oldest first: the newest, or those before one; with `branch`, as they were before an edit.
   *
   * @throws ThreadlineError `not_found`, when there is no such thread or branch.
   */
  async history({ signal, ...asked }: HistoryOptions = {}): Promise<readonly HistoryMessage[]> {
    const answer = await this.call("thread:history", asked, signal);
    return Array.isArray(answer["messages"]) ? (answer["messages"] as HistoryMessage[]) : [];
  }

  /** Load a page of older messages into `state.messages`. Returns whether there are more. */
  older({ limit = PAGE, signal }: { readonly limit?: number } & CallOptions = {}): Promise<boolean> {
    this.paging ??= this.page(limit, signal).finally(() => (this.paging = null));
    return this.paging;
  }

  /** Take a parallel turn that has ended out of `state.parallel`: nothing but this keeps it. */
  dismiss(request_id: string): void {
    this.apply({ event: "local:dismissed", request_id });
  }

  private async page(limit: number, signal: AbortSignal | undefined): Promise<boolean> {
    const { has_older: some, older_before: before } = this.current;
    if (!some || before === null) return false;
    const messages = await this.history({ before, limit, signal });
    const has_older = messages.length > 0 && (messages[0]?.id ?? 1) > 1;
    // a snapshot or an edit that came meanwhile has begun the list anew
    if (this.current.older_before === before) this.apply({ event: "local:older", messages, has_older });
    return this.current.has_older;
  }

  /** Return the number of the message that began a turn; the history knows it, however far back. */
  private async numberOf(request_id: string, signal: AbortSignal | undefined): Promise<number> {
    const begun = (message: { readonly request_id: string; readonly role: string }): boolean =>
      message.request_id === request_id && message.role === "user";
    let found = this.current.messages.find(begun)?.id || null;
    for (let before: number | undefined; found === null; ) {
      const page = await this.history({ limit: LOOK, before, signal });
      found = page.find(begun)?.id ?? null;
      before = page[0]?.id ?? 0;
      if (found === null && before <= 1) {
        throw new ThreadlineError("edit_conflict", "expected the message in the thread's history, found none; look again");
      }
    }
    return found;
  }

  private call(event: string, payload: object, signal: AbortSignal | undefined): Promise<Readonly<Record<string, unknown>>> {
    return this.connection.call(event, { thread_id: this.id, ...payload }, signal);
  }

  /** Keep the thread up to date until the returned function is called. */
  private hold(): () => void {
    clearTimeout(this.lingering);
    this.holds += 1;
    if (this.holds === 1) {
      if (this.failure) this.feed.stop(); // it lingers, and has given up: whoever comes now wants it tried again
      this.failure = null;
      this.feed.start();
    }
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      this.holds -= 1;
      if (this.holds > 0) return;
      this.lingering = setTimeout(() => this.feed.stop(), this.connection.status.state === "closed" ? 0 : LINGER);
    };
  }

  private take(items: readonly Item[]): void {
    this.told = true;
    for (const item of items) {
      const text = item.event === "snapshot" ? "" : textOf(this.current, item.request_id);
      this.apply(item);
      for (const recording of this.recordings) recording.push(item);
      this.delivering = item.event === "queue_item_delivered" ? item.item_id : null;
      if (item.event === "snapshot") {
        this.lanesKnown = !item.exists;
        this.running = null;
      }
      if (/^(snapshot|chat_accepted|queue_item)/.test(item.event)) this.laneChanges += 1;
      for (const turn of [...this.turns]) {
        turn.note(item);
        if (item.event !== "snapshot" && item.request_id === turn.request_id) this.end(turn, endingOf(item, text));
      }
      if (item.event === "snapshot") {
        this.settle((turn) => item.exists && (item.epoch !== turn.cursor.epoch || this.asked.has(turn)));
      }
      for (const reader of [...this.readers]) reader.put(item);
      if (item.event === "snapshot" && item.exists) void this.readLanes();
    }
  }

  private stand(degraded: Degraded | undefined): void {
    if (this.current.degraded === degraded) return;
    this.apply({ event: "local:degraded", degraded });
    if (degraded !== undefined) return;
    this.failure = null;
    this.settle();
  }

  private fail(error: ThreadlineError): void {
    this.failure = error;
    for (const reader of [...this.readers]) reader.fail(error);
    for (const turn of [...this.turns]) {
      this.turns.delete(turn);
      turn.fail(error);
      this.releases.get(turn)?.();
    }
  }

  private apply(item: Item | Local): void {
    const before = this.current;
    this.current = reduce(before, item);
    if (this.current === before || this.notifying) return;
    this.notifying = true;
    queueMicrotask(() => {
      this.notifying = false;
      this.listeners.tell();
    });
  }

  // --- turns of ours ----------------------------------------------------------------------------------------------

  private readonly releases = new WeakMap<Turn, () => void>();

  private follow(turn: Turn, recording: readonly Item[], release: () => void): void {
    this.turns.add(turn);
    this.releases.set(turn, release);
    let text = "";
    for (const item of recording) {
      turn.note(item);
      if (item.event === "snapshot" || item.request_id !== turn.request_id) continue;
      if (item.event === "text_delta") text += item.delta;
      this.end(turn, endingOf(item, text));
    }
    turn.attached(this.current);
    this.settle();
  }

  /** Whether a turn was acknowledged, and is not in the log although all that is there has come: a failover lost it. */
  private lacks(turn: Turn): boolean {
    const { epoch, offset } = this.current;
    return this.turns.has(turn) && !turn.met && (epoch !== turn.cursor.epoch || offset < turn.cursor.offset);
  }

  private end(turn: Turn, outcome: ReturnType<typeof endingOf>): void {
    if (!outcome || !this.turns.delete(turn)) return;
    turn.end(outcome);
    this.releases.get(turn)?.();
  }

  /**
   * End the turns of which the present says that they have ended, although their end was not seen.
   *
   * For a turn that is not in our log it must be known that its log is gone, and not that ours is out of date.
   */
  private settle(isGone: (turn: Turn) => boolean = () => false): void {
    if (!this.feed.live) return;
    const { epoch, offset, messages } = this.current;
    for (const turn of [...this.turns]) {
      if ((epoch !== turn.cursor.epoch || offset < turn.cursor.offset) && !isGone(turn)) continue;
      const { request_id, state } = turn;
      if (request_id === this.delivering) continue;
      const begun = state === "accepted" || messages.some((message) => message.request_id === request_id);
      const toldOf = begun || (this.lanesKnown && request_id !== this.running);
      if (toldOf) this.end(turn, endedIn(this.current, request_id));
    }
  }

  // --- lanes ------------------------------------------------------------------------------------------------------

  private async readLanes(): Promise<void> {
    const turns = new Set(this.turns); // of those that came later, the snapshot says nothing
    try {
      let seen: number;
      let status: QueueStatus;
      do {
        seen = this.laneChanges;
        status = await this.queueStatus();
      } while (seen !== this.laneChanges);
      this.apply({ event: "local:queue", queue: itemsOf(status) });
      this.running = status.running;
      this.lanesKnown = true;
      this.settle((turn) => turns.has(turn));
    } catch {
      // The thread is gone, or the client closed: then nothing waits that could be shown.
    }
  }
}

function itemsOf(status: QueueStatus): QueueItem[] {
  if (!isRecord(status.lanes)) return [];
  const lanes = Object.entries(status.lanes) as [Lane, readonly WaitingItem[]][];
  return lanes.flatMap(([lane, items]) =>
    lane === "parallel" ? [] : items.map(({ item_id, preview }, n) => ({ item_id, lane, position: n + 1, preview })),
  );
}

function textOf(state: ThreadState, request_id: string): string {
  const turns = state.turn ? [state.turn, ...state.parallel] : state.parallel;
  return turns.find((turn) => turn.request_id === request_id)?.text ?? "";
}

/** The present, in the form in which a gateway tells it. */
function snapshotOf(state: ThreadState): Snapshot {
  const shown = (turn: ThreadState["parallel"][number]): Snapshot["parallel"][number] => ({
    request_id: turn.request_id,
    lane: turn.lane,
    state: turn.state as "ready" | "running" | "waiting",
    attempt: turn.attempt,
    text: turn.text,
    thinking: turn.thinking,
    tools: turn.tools,
    approvals: state.approvals
      .filter((asked) => asked.request_id === turn.request_id)
      .map(({ request_id: _, ...asked }) => ({ ...asked, state: "pending", decision: null, by: null, args: asked.args ?? {} })),
  });
  return {
    event: "snapshot",
    thread_id: state.thread_id,
    epoch: state.epoch,
    offset: state.offset,
    recovered: null,
    exists: state.exists,
    messages: state.messages.map((message) => ({
      id: message.id ?? 0,
      ts: message.ts,
      role: message.role,
      content: message.content,
      request_id: message.request_id,
      ...(message.interrupted && { interrupted: true }),
      ...(message.steer && { steer: true }),
      ...(message.context && { context: true }),
    })),
    turn: state.turn && shown(state.turn),
    parallel: state.parallel.filter((turn) => turn.state !== "done" && turn.state !== "failed").map(shown),
  };
}
