/** Where in the page one is, as the part of its address behind `#` tells. */
import { useSyncExternalStore } from "preact/compat";
import { useMemo } from "preact/hooks";

export type Place = { readonly view: "chat"; readonly thread_id: string | null } | { readonly view: "operations" };

/** Return where one is, and follow. */
export function usePlace(): Place {
  // not an effect of our own: it would miss a move between the first drawing and the listening
  const hash = useSyncExternalStore(follow, () => location.hash);
  return useMemo(() => placeOf(hash), [hash]);
}

function follow(moved: () => void): () => void {
  addEventListener("hashchange", moved);
  return () => removeEventListener("hashchange", moved);
}

function placeOf(hash: string): Place {
  if (hash === "#operations") return { view: "operations" };
  const thread_id = /^#thread\/([A-Za-z0-9._:-]{1,128})$/.exec(hash)?.[1] ?? null;
  return { view: "chat", thread_id };
}

/** Whether a thread is what is looked at now. */
export function isAt(thread_id: string): boolean {
  const place = placeOf(location.hash);
  return place.view === "chat" && place.thread_id === thread_id;
}

export const addressOf = (thread_id: string): string => `#thread/${thread_id}`;

/** Go there, at once: what is typed next belongs there. `instead` leaves no step back. */
export function go(hash: string, instead = false): void {
  if (location.hash === hash) return;
  const address = hash || location.pathname + location.search;
  if (instead) history.replaceState(null, "", address);
  else history.pushState(null, "", address);
  dispatchEvent(new HashChangeEvent("hashchange")); // for a new hash the browser itself tells of it a task later
}

/** Return an id for a new thread: nobody can guess it. */
export function newThreadId(): string {
  const letters = "0123456789abcdefghjkmnpqrstvwxyz";
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => letters[byte % 32]).join("");
}
