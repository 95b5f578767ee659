import type { CallOptions, PageOptions, ThreadPage } from "./calls.js";
import { Connection } from "./connection.js";
import type { Status } from "./connection.js";
import type { Transport } from "./link.js";
import type { ThreadState } from "./state.js";
import { Thread } from "./thread.js";
import type { Token } from "./token.js";

export interface ConnectOptions {
  /** Where the gateways of one deployment are, in the order in which they are tried; in a browser, the page's own. */
  readonly urls?: string | readonly string[];
  /**
   * What to show them, or a function that returns it, asked at each connection and before the token ends. If the
   * function throws, the connection goes on trying.
   */
  readonly token?: Token;
  /** `["websocket"]` unless given. Add `"polling"` only before one node, or a balancer that keeps a client at one. */
  readonly transports?: readonly Transport[];
  /** Messages that a snapshot brings; 50 unless given. */
  readonly history?: number;
}

export interface ThreadOptions {
  /** A state that was saved (it is plain JSON): the stream goes on behind it. Only the first call for an id reads it. */
  readonly state?: ThreadState;
}

/** A connection to whichever gateway lives. Made by `connect`. */
export class Client {
  private readonly known = new Map<string, WeakRef<Thread>>();
  private readonly forgotten = new FinalizationRegistry<string>((id) => {
    if (!this.known.get(id)?.deref()) this.known.delete(id);
  });

  /** @internal */
  constructor(
    private readonly connection: Connection,
    private readonly history: number | undefined,
  ) {}

  /** How the client stands towards the gateways. The same object until something changes. */
  get status(): Status {
    return this.connection.status;
  }

  /** Every gateway that may be used. */
  get urls(): readonly string[] {
    return this.connection.urls;
  }

  /** Call back after each change of `status`. Returns how to stop that. */
  readonly subscribe = (listener: () => void): (() => void) => this.connection.subscribe(listener);

  /** Bound, for `useSyncExternalStore` and its kin: what `status` is. */
  readonly getStatus = (): Status => this.connection.status;

  /**
   * Wait for a connection. No call needs it: calls wait by themselves.
   *
   * @throws ThreadlineError when there will be none: `closed`, or what the token was refused with.
   */
  async connected({ signal }: CallOptions = {}): Promise<void> {
    await this.connection.linked(signal);
  }

  /** Return a thread by its id (1 to 128 letters, digits, or `. _ : -`); the same object for the same id. */
  thread(id: string, { state }: ThreadOptions = {}): Thread {
    const key = id.trim();
    const made = this.known.get(key)?.deref();
    if (made) return made;
    const thread = new Thread(this.connection, key, state, this.history);
    this.known.set(key, new WeakRef(thread));
    this.forgotten.register(thread, key);
    return thread;
  }

  /** Return a page of the caller's threads, the one started last first: 50 of them unless `limit` says otherwise. */
  async threads({ limit, before, signal }: PageOptions = {}): Promise<ThreadPage> {
    return (await this.connection.call("thread:list", { limit, before }, signal)) as unknown as ThreadPage;
  }

  /** Leave the gateway in use, for `url` or the next of the list. Also the way on after `status.state` `refused`. */
  reconnect(url?: string): void {
    this.connection.reconnect(url === undefined ? undefined : tidied(url));
  }

  /** Leave for good. Turns go on without us; calls and streams that wait reject with `closed`. */
  close(): void {
    this.connection.close();
  }
}

/**
 * Return a client of one or more gateways of a deployment. It begins to connect at once, and reconnects for ever, to
 * the next gateway of the list at once and then with growing pauses; it gives up only when the token is refused.
 *
 * @throws RangeError for something that is not a list of URLs.
 */
export function connect(options: ConnectOptions = {}): Client {
  const { urls = globalThis.location?.origin ?? [], token = null, transports = ["websocket"], history } = options;
  const list = (typeof urls === "string" ? [urls] : urls).map(tidied);
  if (list.length === 0 || !list.every((url) => /^https?:\/\//.test(url))) {
    throw new RangeError(`expected URLs such as http://127.0.0.1:8080, got ${list.join(", ") || "none"}; name a gateway`);
  }
  return new Client(new Connection(list, token, transports), history);
}

function tidied(url: string): string {
  return url.trim().replace(/\/+$/, "");
}
