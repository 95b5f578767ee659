/** A gateway in a test's hand: the link to it is no socket, and it answers, tells and breaks off as the test says. */
import { vi } from "vitest";
import { Link, LinkLost } from "../src/link.js";
import type { Answer } from "../src/tracker.js";

export type Fields = Readonly<Record<string, unknown>>;
/** What the gateway answers to a call; one that is given no answer waits until the link is cut. */
export type Answers = (payload: Fields) => Answer | undefined | Promise<Answer | undefined>;

export const UNAVAILABLE = { ok: false, error: { code: "unavailable", message: "Redis did not answer", retryable: true } };
export const NOT_FOUND = { ok: false, error: { code: "not_found", message: "no such thread", retryable: false } };

export class ScriptedGateway {
  /** Every call, in its order. */
  readonly calls: { readonly event: string; readonly payload: Fields }[] = [];
  /** Why clients have given up their link. */
  readonly cuts: string[] = [];
  private end: (reason: string) => void = () => {};
  private frame: (name: string, fields: unknown) => void = () => {};

  /** Whoever connects from now on connects to this gateway; `vi.restoreAllMocks()` ends that. */
  constructor(private readonly answers: Readonly<Record<string, Answers>>) {
    vi.spyOn(Link, "open").mockImplementation(async (url, _token, _transports, onFrame) => {
      this.frame = onFrame;
      return this.link(url);
    });
  }

  /** Send an entry of the thread's log, or a notice. */
  tell(event: string, fields: Fields): void {
    this.frame(event, { event, thread_id: "tea", client_id: "c", request_id: "r1", epoch: "e", seq: 0, ts: 5, ...fields });
  }

  /** Break the link off, as a node that dies; clients come back to this gateway. */
  die(): void {
    this.end("the node died");
  }

  /** Return the payloads of a call. */
  asked(event: string): Fields[] {
    return this.calls.filter((call) => call.event === event).map(({ payload }) => payload);
  }

  private link(url: string): Link {
    const lost = new Set<(error: LinkLost) => void>();
    let gone: (reason: string) => void = () => {};
    const link = {
      url,
      sid: "s",
      ended: false,
      gone: new Promise<string>((resolve) => (gone = resolve)),
      cut: (reason: string): void => {
        if (!link.ended) this.cuts.push(reason);
        this.end(reason);
      },
      call: (event: string, payload: Fields, onAnswer?: (answer: Answer) => void): Promise<Answer> =>
        new Promise((resolve, reject) => {
          if (link.ended) return reject(new LinkLost("the connection has ended"));
          lost.add(reject);
          this.calls.push({ event, payload });
          void Promise.resolve(this.answers[event]?.(payload)).then((answer) => {
            if (!answer || link.ended) return;
            onAnswer?.(answer);
            resolve(answer);
          });
        }),
    };
    this.end = (reason) => {
      if (link.ended) return;
      link.ended = true;
      for (const reject of lost) reject(new LinkLost(reason));
      gone(reason);
    };
    return link as unknown as Link;
  }
}
