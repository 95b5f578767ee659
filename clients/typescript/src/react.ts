/**
 * Threads in React: `<ThreadlineProvider client={client}>` above, `useThread(id)` below.
 *
 * A component is rendered at most once for each frame, however many deltas come.
 */
import { createContext, createElement, useCallback, useContext, useMemo, useSyncExternalStore } from "react";
import type { ReactElement, ReactNode } from "react";
import type { Client } from "./client.js";
import type { Status } from "./connection.js";
import type { ThreadState } from "./state.js";
import type { Thread } from "./thread.js";

const Context = createContext<Client | null>(null);

/** Give the components below a client. Who made it closes it. */
export function ThreadlineProvider(props: { readonly client: Client; readonly children?: ReactNode }): ReactElement {
  return createElement(Context.Provider, { value: props.client }, props.children);
}

/** Return the client of the provider above. */
export function useClient(): Client {
  const client = useContext(Context);
  if (!client) throw new Error("expected a <ThreadlineProvider client={…}> above this component, got none; add one");
  return client;
}

/** Return how the client stands towards the gateways. */
export function useStatus(): Status {
  const client = useClient();
  return useSyncExternalStore(client.subscribe, client.getStatus, client.getStatus);
}

/** The state of a thread, and what one does with it. */
export type UsedThread = ThreadState & Pick<Thread, "send" | "cancel" | "decide" | "older"> & { readonly thread: Thread };

/**
 * Return a thread as it stands, kept up to date while the component is there, and what one does with it.
 *
 * `messages`, `turn`, `queue` and their members keep their identity while they do not change: `memo` works on them.
 */
export function useThread(id: string): UsedThread {
  const client = useClient();
  const thread = useMemo(() => client.thread(id), [client, id]);
  const subscribe = useCallback((changed: () => void) => thread.subscribe.call(thread, perFrame(changed)), [thread]);
  const state = useSyncExternalStore(subscribe, thread.getState, thread.getState);
  const verbs = useMemo(
    () => ({
      thread,
      send: thread.send.bind(thread),
      cancel: thread.cancel.bind(thread),
      decide: thread.decide.bind(thread),
      older: thread.older.bind(thread),
    }),
    [thread],
  );
  return useMemo(() => ({ ...state, ...verbs }), [state, verbs]);
}

/** Call back once for each frame; at once where there are none. A hidden page has none, and needs none. */
function perFrame(call: () => void): () => void {
  if (typeof requestAnimationFrame !== "function") return call;
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      call();
    });
  };
}
