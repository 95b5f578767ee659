/** Where in the page one is, as the part of its address behind `#` tells. */
import { useEffect, useState } from "preact/hooks";

export type Place = { readonly view: "chat"; readonly thread_id: string | null } | { readonly view: "operations" };

/** Return where one is, and follow. */
export function usePlace(): Place {
  const [place, setPlace] = useState(current);
  useEffect(() => {
    const moved = (): void => setPlace(current());
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  return place;
}

function current(): Place {
  if (location.hash === "#operations") return { view: "operations" };
  const thread_id = /^#thread\/([A-Za-z0-9._:-]{1,128})$/.exec(location.hash)?.[1] ?? null;
  return { view: "chat", thread_id };
}

/** Whether a thread is what is looked at now. */
export function isAt(thread_id: string): boolean {
  const place = current();
  return place.view === "chat" && place.thread_id === thread_id;
}

export const addressOf = (thread_id: string): string => `#thread/${thread_id}`;

/** Go there. `instead` leaves no step back. */
export function go(hash: string, instead = false): void {
  if (!instead) location.hash = hash;
  else {
    history.replaceState(null, "", hash === "" ? location.pathname : hash);
    dispatchEvent(new HashChangeEvent("hashchange"));
  }
}

/** Return an id for a new thread: nobody can guess it. */
export function newThreadId(): string {
  const letters = "0123456789abcdefghjkmnpqrstvwxyz";
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => letters[byte % 32]).join("");
}
