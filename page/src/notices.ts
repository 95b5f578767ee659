/** Short notices to the person: what an act truly did, or why it did not. */
import { createContext } from "preact";
import { useCallback, useContext, useEffect, useState } from "preact/hooks";
import { ThreadlineError } from "@threadline/client";

export interface Notice {
  readonly text: string;
  readonly kind: "told" | "failed";
}

export type Tell = (text: string, kind?: Notice["kind"]) => void;

export const Telling = createContext<Tell>(() => {});
export const useTell = (): Tell => useContext(Telling);

const SHOWN_MS = 6000;

/** Return the notice that is to be seen, and how to give another. */
export function useNotice(): readonly [Notice | null, Tell] {
  const [notice, setNotice] = useState<Notice | null>(null);
  useEffect(() => {
    if (!notice) return;
    const timer = setTimeout(() => setNotice(null), SHOWN_MS);
    return () => clearTimeout(timer);
  }, [notice]);
  return [notice, useCallback<Tell>((text, kind = "told") => setNotice({ text, kind }), [])];
}

/** Return a function that does something, and tells if it failed. */
export function useDoing(): (work: () => Promise<unknown>) => Promise<boolean> {
  const tell = useTell();
  return useCallback(
    async (work) => {
      try {
        await work();
        return true;
      } catch (error) {
        if (!(error instanceof DOMException && error.name === "AbortError")) tell(reasonOf(error), "failed");
        return false;
      }
    },
    [tell],
  );
}

const REASONS: Readonly<Record<string, string>> = {
  queue_full: "The queue is full. Wait until one of the waiting messages is done, or remove one.",
  rate_limited: "That was too fast. Try again in a moment.",
  too_large: "This message is too long.",
  turn_running: "An answer is being written. Stop it, or put the message in the queue.",
  edit_conflict: "The conversation has gone on meanwhile. Look at it again, then edit.",
  not_found: "This is no longer there.",
  too_many_threads: "Too many threads are open here. Reload the page.",
};

export function reasonOf(error: unknown): string {
  if (error instanceof ThreadlineError) return REASONS[error.code] ?? error.message;
  return error instanceof Error ? error.message : String(error);
}
