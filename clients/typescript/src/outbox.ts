import type { SendOptions, Started } from "./calls.js";
import type { Connection } from "./connection.js";

/** A message on its way. */
export interface Sending {
  readonly client_message_id: string;
  readonly started: Promise<Started>;
}

interface Entry {
  readonly key: string;
  readonly payload: object;
  readonly giveUp: AbortController;
  readonly signal: AbortSignal;
  readonly resolve: (started: Started) => void;
}

/**
 * Sends the messages of one thread one after another, each until it is acknowledged.
 *
 * It waits while there is no connection, and sends again under the same idempotency key when one was lost before
 * the acknowledgement came: one key is one turn.
 */
export class Outbox {
  private readonly entries: Entry[] = [];
  private sending = false;

  constructor(
    private readonly connection: Connection,
    private readonly thread_id: string,
  ) {}

  /** Put a message in. `started` rejects with a `ThreadlineError`, or with the reason for which it was given up. */
  put(message: string, { signal, client_message_id, ...options }: SendOptions): Sending {
    const key = client_message_id ?? newKey();
    const giveUp = new AbortController();
    const started = new Promise<Started>((resolve, reject) => {
      const entry: Entry = {
        key,
        payload: { thread_id: this.thread_id, message, client_message_id: key, ...options },
        giveUp,
        signal: signal ? AbortSignal.any([signal, giveUp.signal]) : giveUp.signal,
        resolve,
      };
      entry.signal.addEventListener("abort", () => this.drop(entry, reject), { once: true });
      this.entries.push(entry);
    });
    void this.pump();
    return { client_message_id: key, started };
  }

  /** Give a message up, or all of them. Returns whether there was one. */
  giveUp(key: string | null, reason: unknown): boolean {
    const found = this.entries.filter((entry) => key === null || entry.key === key);
    for (const entry of found) entry.giveUp.abort(reason);
    return found.length > 0;
  }

  private drop(entry: Entry, reject: (reason: unknown) => void): void {
    this.remove(entry);
    reject(entry.signal.reason);
  }

  /** Take an entry out, if it is there: one may be given up in the moment of its acknowledgement. */
  private remove(entry: Entry): void {
    const at = this.entries.indexOf(entry);
    if (at >= 0) this.entries.splice(at, 1);
  }

  private async pump(): Promise<void> {
    if (this.sending) return;
    this.sending = true;
    for (let entry = this.entries[0]; entry; entry = this.entries[0]) {
      try {
        const answer = await this.connection.call("chat:start", entry.payload, entry.signal);
        this.remove(entry);
        // the gateway is believed about the fields of its own acknowledgements
        entry.resolve(answer as unknown as Started);
      } catch (error) {
        entry.giveUp.abort(error);
      }
    }
    this.sending = false;
  }
}

/** An idempotency key that nobody else makes. */
export function newKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(15));
  return btoa(String.fromCharCode(...bytes)).replace(/\+/g, "-").replace(/\//g, "_");
}
