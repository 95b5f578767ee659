import { useEffect, useState } from "preact/hooks";
import type { Presence, Thread } from "@threadline/client";
import { plain } from "./plain.js";

/** Milliseconds between two looks at who is here; a gateway's own word on it is a second old at most. */
const EVERY = 4_000;

interface HereProps {
  readonly thread: Thread;
  /** The turn that runs, if any: when it changes, so does who answers. */
  readonly request: string | null;
  /** Whether a gateway can be asked. */
  readonly reached: boolean;
}

/** Who else watches this thread, over all gateways, and which worker answers in it. */
export function Here({ thread, request, reached }: HereProps) {
  const [here, setHere] = useState<Presence | null>(null);
  useEffect(() => {
    if (!reached) return;
    const gone = new AbortController();
    const look = (): void => {
      if (document.hidden) return;
      thread.presence({ signal: gone.signal }).then(setHere, () => setHere(null)); // a thread that is not there yet
    };
    look();
    const timer = setInterval(look, EVERY);
    return () => {
      gone.abort();
      clearInterval(timer);
    };
  }, [thread, request, reached]);

  const others = (here?.watchers.reduce((sum, { connections }) => sum + connections, 0) ?? 0) - 1;
  if (!here || (others < 1 && !here.worker)) return null;
  return (
    <p class="here">
      {others > 0 && <span title="This thread is open elsewhere, too">{others === 1 ? "1 other here" : `${others} others here`}</span>}
      {here.worker && (
        <span title="The worker that answers">
          <bdi>{plain(here.worker)}</bdi>
        </span>
      )}
    </p>
  );
}
