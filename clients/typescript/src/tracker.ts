/**
 * Decides, without I/O, which events to pass on, which to drop, and when to ask for the log again.
 *
 *     absent  ── first event, or a start of ours ──> stale or live
 *     stale   ── subscribe sent ──> asked ── answer ──> live, stale (a hole), or absent (not found)
 *     live    ── a hole, another epoch that does not follow on, a lost connection ──> stale
 *
 * While an answer is awaited, missed events come in order and are taken. An event further on (the socket may be in
 * the thread's room already) is left alone: if it is not in the answer, the log is asked again. So each offset
 * passes once, in order, or a snapshot says that it cannot.
 */
import { refusal } from "./errors.js";
import { absent, firstOffset, isOffset, parseSnapshot } from "./events.js";
import type { Cursor, Item, ThreadEvent } from "./events.js";

export type Standing = "stale" | "asked" | "live" | "absent";
export type Answer = Readonly<Record<string, unknown>>;

export class Tracker {
  cursor: Cursor | null;
  standing: Standing = "stale";
  private toldAbsent = false;
  private askedFrom: Cursor | null = null;
  /** The furthest event that was left alone since the log was last asked. */
  private beyond: Cursor | null = null;
  /** True when another epoch was entered before the answer that confirms it. */
  private unsure = false;

  constructor(
    private readonly threadId: string,
    after: Cursor | null = null,
    private readonly history?: number,
  ) {
    this.cursor = after;
  }

  /** Return the payload of `thread:subscribe`, and wait for its answer from now on. */
  ask(): Record<string, unknown> {
    this.standing = "asked";
    this.askedFrom = this.cursor;
    this.beyond = null;
    return {
      thread_id: this.threadId,
      ...(this.cursor && { epoch: this.cursor.epoch, after: this.cursor.offset }),
      ...(this.history !== undefined && { history: this.history }),
    };
  }

  /** Note that the connection is gone. */
  lost(): void {
    this.doubt();
    this.standing = "stale";
  }

  /** Begin with a snapshot: the log went back behind what is known of it. */
  anew(): void {
    this.cursor = null;
    this.standing = "stale";
  }

  /** Note that the thread came into being: a start of ours was acknowledged. */
  existsNow(epoch: string): void {
    if (this.standing === "absent") {
      this.cursor = { epoch, offset: 0 };
      this.standing = "stale";
    }
  }

  /** Return what to pass on when the thread was erased: nothing, when a later one with its id is known. */
  deleted(epoch: string): Item[] {
    if (this.standing === "absent" || (this.cursor && this.cursor.epoch !== epoch)) return [];
    this.cursor = null;
    this.unsure = false;
    this.standing = "absent";
    this.toldAbsent = true;
    return [absent(this.threadId)];
  }

  /** Return what to pass on for an event that came. */
  event(event: ThreadEvent): Item[] {
    if (this.standing === "absent") {
      this.cursor = { epoch: event.epoch, offset: 0 };
      this.toldAbsent = false;
      this.standing = "live";
    }
    const { cursor } = this;
    if (!cursor || !this.mayFollow(event, cursor)) return this.leave(event);
    if (event.offset <= cursor.offset) return [];
    if (firstOffset(event) !== cursor.offset + 1) return this.leave(event);
    this.cursor = { epoch: event.epoch, offset: event.offset };
    return [event];
  }

  /**
   * Return what to pass on for the acknowledgement of `thread:subscribe`.
   *
   * @throws ThreadlineError when the gateway refused for another reason than that the thread does not exist.
   */
  answer(answer: Answer): Item[] {
    if (answer["ok"] !== true) {
      this.doubt();
      return this.refused(answer);
    }
    this.unsure = false;
    this.toldAbsent = false;
    const told = parseSnapshot(this.threadId, answer);
    const recovered = answer["recovered"] === true;
    this.standing = "live";
    if (!recovered) this.cursor = { epoch: told.epoch, offset: told.offset };
    this.check(told, recovered);
    return recovered ? [] : [told];
  }

  /** Whether the last answer brought nothing of what it said was there: the gateway thinks that we have it. */
  get stuck(): boolean {
    return this.standing === "stale" && this.cursor !== null && this.cursor === this.askedFrom;
  }

  /**
   * Whether an event is of the log that we know, be it in the epoch which follows ours.
   *
   * A failover that has lost nothing of what we have begins another epoch in mid-stream. While we stand in the log a
   * node has made sure of that; while an answer is awaited, it has if the answer says `recovered`.
   */
  private mayFollow(event: ThreadEvent, cursor: Cursor): boolean {
    if (event.epoch === cursor.epoch) return true;
    if (this.standing === "stale" || firstOffset(event) !== cursor.offset + 1) return false;
    this.unsure ||= this.standing === "asked";
    return true;
  }

  /** No answer has confirmed the epoch that was entered: begin with a snapshot. */
  private doubt(): void {
    if (this.unsure) this.cursor = null;
    this.unsure = false;
  }

  private check(top: Cursor, recovered: boolean): void {
    const { cursor, askedFrom, beyond } = this;
    if (!cursor || cursor.epoch !== top.epoch || !isOffset(top.offset)) {
      // "recovered" without what it recovers, or from another log: start anew, with a snapshot
      this.anew();
    } else if (cursor.offset < top.offset) {
      this.standing = "stale";
    } else if (recovered && askedFrom && askedFrom.offset > top.offset) {
      // not to be confused with live events that overtook the answer: those came after the question
      this.anew();
    } else if (beyond && (beyond.epoch !== cursor.epoch || beyond.offset > cursor.offset)) {
      this.standing = "stale";
    }
  }

  private refused(answer: Answer): Item[] {
    const error = refusal(answer["error"]);
    if (error.code !== "not_found") {
      this.standing = "stale";
      throw error;
    }
    this.cursor = null;
    this.standing = "absent";
    if (this.toldAbsent) return [];
    this.toldAbsent = true;
    return [absent(this.threadId)];
  }

  private leave(event: ThreadEvent): Item[] {
    if (this.standing === "live") this.standing = "stale";
    const { beyond } = this;
    if (!beyond || event.epoch !== beyond.epoch || event.offset > beyond.offset) {
      this.beyond = { epoch: event.epoch, offset: event.offset };
    }
    return [];
  }
}
