import { io } from "socket.io-client";
import type { Socket } from "socket.io-client";
import { isRecord, refusal } from "./errors.js";
import type { ThreadlineError } from "./errors.js";
import type { Answer } from "./tracker.js";

/** Milliseconds for TCP, WebSocket and Socket.IO handshakes together; a node that needs more is not well. */
const CONNECT_TIMEOUT = 5_000;
/** Milliseconds for an acknowledgement: twice what a gateway itself gives Redis for one command. */
const CALL_TIMEOUT = 10_000;

export type Transport = "websocket" | "polling";

/** The connection ended, or did not come about; another one may do better. */
export class LinkLost extends Error {}

interface Frames {
  [name: string]: (fields: unknown) => void;
}
interface Calls {
  [name: string]: (payload: object, acknowledged: (answer: unknown) => void) => void;
}

/** One Socket.IO connection to one gateway, from its handshake to its end. It never comes back: see connection.ts. */
export class Link {
  /** Resolves once, with the reason, when the connection has ended. */
  readonly gone: Promise<string>;
  /** Whether it has ended. */
  ended = false;
  private readonly end: (reason: string) => void;
  private readonly waiting = new Set<(lost: LinkLost) => void>();

  private constructor(
    readonly url: string,
    private readonly socket: Socket<Frames, Calls>,
  ) {
    let end: (reason: string) => void = () => {};
    this.gone = new Promise((resolve) => (end = resolve));
    this.end = end;
  }

  /** The name that the gateway gave it. */
  get sid(): string | null {
    return this.socket.id ?? null;
  }

  /**
   * Shake hands.
   *
   * @throws ThreadlineError when the gateway answered and said no.
   * @throws LinkLost when it could not be reached.
   */
  static async open(
    url: string,
    token: string | null,
    transports: readonly Transport[],
    onFrame: (name: string, fields: unknown) => void,
  ): Promise<Link> {
    const { origin, pathname } = new URL(url);
    const socket: Socket<Frames, Calls> = io(origin, {
      path: `${pathname.replace(/\/+$/, "")}/socket.io`,
      auth: token === null ? {} : { token },
      forceNew: true, // one manager for each link: nothing of a dead one is used again
      reconnection: false, // connection.ts decides, and it alone
      transports: [...transports],
      timeout: CONNECT_TIMEOUT,
    });
    const link = new Link(url, socket);
    socket.onAny(onFrame);
    // before the handshake is awaited: a gateway may take its leave in the moment in which it lets us in
    socket.on("disconnect", (reason: unknown) => link.cut(String(reason)));
    try {
      await link.shaken();
    } catch (error) {
      link.close();
      throw error;
    }
    return link;
  }

  /**
   * Make a call. `onAnswer` is called in the answer's place among the frames: before it all that came earlier, after
   * it all that comes later. A gateway that does not answer in time is given up.
   *
   * @throws LinkLost when the connection ended first.
   */
  call(event: string, payload: object, onAnswer?: (answer: Answer) => void): Promise<Answer> {
    return new Promise((resolve, reject) => {
      if (this.ended) {
        reject(new LinkLost("the connection has ended"));
        return;
      }
      const settle = (): void => {
        clearTimeout(timer);
        this.waiting.delete(lost);
      };
      const lost = (error: LinkLost): void => {
        settle();
        reject(error);
      };
      const timer = setTimeout(() => this.cut(`no answer to ${event} in ${CALL_TIMEOUT} ms`), CALL_TIMEOUT);
      this.waiting.add(lost);
      this.socket.emit(event, payload, (told) => {
        if (!this.waiting.has(lost)) return;
        settle();
        const answer = isRecord(told) ? told : { ok: false };
        onAnswer?.(answer);
        resolve(answer);
      });
    });
  }

  /** Give the connection up; calls that wait reject with `LinkLost`. */
  cut(reason: string): void {
    if (this.ended) return;
    this.ended = true;
    this.socket.offAny();
    this.close();
    for (const lost of [...this.waiting]) lost(new LinkLost(reason));
    this.end(reason);
  }

  private close(): void {
    this.socket.disconnect();
    // a socket that was refused, or whose node is silent, keeps its transport otherwise
    this.socket.io.engine?.close();
  }

  private shaken(): Promise<void> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new LinkLost(`${this.url} did not answer in time`)), CONNECT_TIMEOUT);
      const settled = (act: () => void): void => {
        clearTimeout(timer);
        act();
      };
      this.socket.once("connect", () => settled(resolve));
      this.socket.once("disconnect", () => settled(() => reject(new LinkLost(`${this.url} closed the connection`))));
      // A transport that ends before the greeting is an end to the engine alone. When the gateway refuses, the engine is
      // closed just before the refusal is told: that one comes first.
      const ended = (): void => settled(() => reject(new LinkLost(`${this.url} closed the connection`)));
      this.socket.io.engine.once("close", () => queueMicrotask(ended));
      this.socket.once("connect_error", (error: unknown) => settled(() => reject(refusedOr(this.url, error))));
    });
  }
}

/** The gateway's own error, which it tells as the `data` of a connect_error; else a lost link. */
function refusedOr(url: string, error: unknown): ThreadlineError | LinkLost {
  const data = error instanceof Error && "data" in error ? error.data : undefined;
  if (isRecord(data)) return refusal(data);
  return new LinkLost(`${url}: ${error instanceof Error ? error.message : "not reached"}`);
}
