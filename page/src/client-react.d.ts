/** The client's hooks, as Preact sees them: their own types are those of React. */
declare module "@threadline/client/react" {
  import type { ComponentChildren, VNode } from "preact";
  import type { Client, Status, Thread, ThreadState } from "@threadline/client";

  export type UsedThread = ThreadState &
    Pick<Thread, "send" | "cancel" | "decide" | "older"> & { readonly thread: Thread };
  export function ThreadlineProvider(props: { readonly client: Client; readonly children?: ComponentChildren }): VNode;
  export function useClient(): Client;
  export function useStatus(): Status;
  export function useThread(id: string): UsedThread;
}
