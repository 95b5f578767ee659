/** The list of the person's threads, kept fresh. */
import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import type { ThreadSummary } from "@threadline/client";
import { useClient, useStatus } from "@threadline/client/react";

/** Milliseconds between looks while the page is seen: other tabs and machines start turns too. */
const FRESH = 4_000;
const PAGE = 40;

export interface Threads {
  readonly all: readonly ThreadSummary[];
  /** Whether the list has come. */
  readonly loaded: boolean;
  readonly more: boolean;
  readonly refresh: () => void;
  readonly older: () => void;
}

export function useThreads(): Threads {
  const client = useClient();
  const { state } = useStatus();
  const [{ all, next, loaded }, setPage] = useState<{
    all: readonly ThreadSummary[];
    next: string | null;
    loaded: boolean;
  }>({ all: [], next: null, loaded: false });
  const wanted = useRef(PAGE);
  const asking = useRef(false);
  const again = useRef(false);

  const refresh = useCallback(() => {
    again.current = true;
    if (asking.current) return;
    asking.current = true;
    void (async () => {
      while (again.current) {
        again.current = false;
        try {
          const page = await read(client, wanted.current);
          setPage((before) => (same(before.all, page.all) && before.loaded ? before : { ...page, loaded: true }));
        } catch {
          break; // the connection tells of itself; the next look comes soon
        }
      }
      asking.current = false;
    })();
  }, [client]);

  useEffect(() => {
    if (state !== "connected") return;
    refresh();
    const timer = setInterval(() => document.visibilityState === "visible" && refresh(), FRESH);
    addEventListener("focus", refresh);
    return () => {
      clearInterval(timer);
      removeEventListener("focus", refresh);
    };
  }, [state, refresh]);

  const older = useCallback(() => {
    wanted.current += PAGE;
    refresh();
  }, [refresh]);
  return { all, loaded, more: next !== null, refresh, older };
}

async function read(
  client: ReturnType<typeof useClient>,
  wanted: number,
): Promise<{ all: readonly ThreadSummary[]; next: string | null }> {
  const all: ThreadSummary[] = [];
  let before: string | undefined;
  for (;;) {
    const page = await client.threads({ limit: Math.min(100, wanted - all.length), ...(before !== undefined && { before }) });
    all.push(...page.threads);
    if (page.next === null || all.length >= wanted) return { all, next: page.next };
    before = page.next;
  }
}

function same(one: readonly ThreadSummary[], other: readonly ThreadSummary[]): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}
