import { useEffect, useRef, useState } from "preact/hooks";
import { useClient, useStatus } from "@threadline/client/react";
import { Warning } from "./icons.js";

/** Milliseconds of silence before an interruption is worth a word: most are over by then. */
const PATIENCE = 700;

/** Which gateway the page talks to, and whether it does. */
export function Where() {
  const { state, url, degraded } = useStatus();
  const moved = useMoved(url);
  const name = url ? new URL(url).host : "";
  const words: Readonly<Record<string, string>> = {
    connecting: "Connecting…",
    connected: degraded ? `${name} has lost Redis` : name,
    offline: "Reconnecting…",
    refused: "Not let in",
    closed: "Closed",
  };
  return (
    <p class={`where ${degraded ? "degraded" : state}${moved ? " moved" : ""}`} title={`Gateway: ${url ?? "none"}`}>
      <i />
      <span>{words[state]}</span>
    </p>
  );
}

function useMoved(url: string | null): boolean {
  const last = useRef(url);
  const [moved, setMoved] = useState(false);
  useEffect(() => {
    if (!url || url === last.current) return;
    const first = last.current === null;
    last.current = url;
    if (first) return;
    setMoved(true);
    const timer = setTimeout(() => setMoved(false), 2500);
    return () => clearTimeout(timer);
  }, [url]);
  return moved;
}

/** Says why what is shown may be behind, when that lasts. */
export function Banner() {
  const { state, degraded } = useStatus();
  const client = useClient();
  const trouble = degraded ? "degraded" : state === "offline" || state === "connecting" ? "offline" : null;
  const [shown, setShown] = useState<typeof trouble>(null);
  useEffect(() => {
    if (trouble === null) {
      setShown(null);
      return;
    }
    const timer = setTimeout(() => setShown(trouble), PATIENCE);
    return () => clearTimeout(timer);
  }, [trouble]);
  if (shown === null) return null;
  return (
    <div class="banner" role="status">
      <Warning size={16} />
      {shown === "degraded" ? (
        <p>This gateway has lost its Redis. Running answers go on; what they say comes as soon as it is back.</p>
      ) : (
        <p>
          No gateway can be reached. What you write is kept and sent as soon as one is back.
          <button type="button" onClick={() => client.status.state !== "connected" && client.reconnect()}>
            Try now
          </button>
        </p>
      )}
    </div>
  );
}
