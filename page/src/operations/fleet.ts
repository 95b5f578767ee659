/** The fleet as any gateway tells it (docs/operations.md, "See the fleet"), looked at again and again. */
import { useEffect, useRef, useState } from "preact/hooks";
import { useStatus } from "@threadline/client/react";
import { configuration, token } from "../configuration.js";

export interface GatewayMember {
  readonly kind: "gateway";
  readonly node_id: string;
  readonly silent: number;
  readonly pid: number;
  readonly host: string;
  readonly url: string;
  readonly ready: boolean;
  readonly deaf: boolean;
  readonly sockets: number;
  readonly rooms: number;
  readonly gaps_filled: number;
  readonly slow_clients: number;
  readonly sent_per_second: number;
  readonly append_to_socket: { readonly events: number; readonly p50: number; readonly p99: number };
}

export interface WorkerTurn {
  readonly thread_id: string;
  readonly request_id: string;
  readonly attempt: number;
  /** Accepted, claimed, ended: Unix seconds of Redis' clock. */
  readonly began: number;
  readonly claimed: number;
  readonly ended?: number;
  readonly outcome?: string;
}

export interface WorkerMember {
  readonly kind: "worker";
  readonly node_id: string;
  readonly silent: number;
  readonly pid: number;
  readonly host: string;
  readonly agent: string;
  readonly slots: number;
  readonly running: number;
  readonly turns: readonly WorkerTurn[];
}

/** A turn that somebody must look at, and in how many seconds; or since how long it waits. */
export interface Mark {
  readonly thread_id: string;
  readonly request_id: string;
  readonly seconds: number;
}

export interface Seen {
  readonly now: number;
  readonly node_id: string;
  readonly lease: number;
  readonly plugs: boolean;
  readonly members: readonly (GatewayMember | WorkerMember)[];
  readonly waiting: number;
  readonly longest_waiting: readonly Mark[];
  readonly under_way: number;
  readonly due: readonly Mark[];
}

/** What is kept of one look for the charts. */
export interface Sample {
  readonly now: number;
  readonly rate: number;
  readonly p50: number | null;
  readonly p99: number | null;
}

export interface Fleet {
  readonly now: Seen | null;
  /** The last looks, oldest first. */
  readonly samples: readonly Sample[];
  /** Why there is nothing to see: nobody may look, or nobody answers. */
  readonly trouble: "forbidden" | "unreachable" | null;
}

const KEPT = 120;

/** Look every so many milliseconds, at the gateway in use or else at any other. */
export function useFleet(every: number): Fleet {
  const { url } = useStatus();
  const at = useRef(url);
  at.current = url ?? at.current;
  const [fleet, setFleet] = useState<Fleet>({ now: null, samples: [], trouble: null });
  useEffect(() => {
    let stopped = false;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const look = async (): Promise<void> => {
      const seen = document.visibilityState === "visible" ? await looked(at.current) : null;
      if (stopped) return;
      if (seen !== null) setFleet((before) => after(before, seen));
      timer = setTimeout(() => void look(), every);
    };
    void look();
    return () => {
      stopped = true;
      clearTimeout(timer);
    };
  }, [every]);
  return fleet;
}

function after(before: Fleet, seen: Seen | "forbidden" | "unreachable"): Fleet {
  if (typeof seen === "string") return { ...before, trouble: seen };
  return { now: seen, samples: [...before.samples, sampled(seen)].slice(-KEPT), trouble: null };
}

/** Every gateway; one that is gone and whose address another serves by now was replaced, and is left out. */
export function gatewaysOf(seen: Seen): GatewayMember[] {
  const all = seen.members.filter((member) => member.kind === "gateway");
  return all.filter((one) => !all.some((other) => other.url === one.url && other.silent < one.silent));
}
export const workersOf = (seen: Seen): readonly WorkerMember[] =>
  seen.members.filter((member) => member.kind === "worker");

/** Seconds without a report after which a member counts as gone: five reports. */
export const GONE = 6;

function sampled(seen: Seen): Sample {
  const living = gatewaysOf(seen).filter((one) => one.silent < GONE);
  const heard = living.map((one) => one.append_to_socket).filter((one) => one.events > 0);
  const events = heard.reduce((sum, one) => sum + one.events, 0);
  return {
    now: seen.now,
    rate: living.reduce((sum, one) => sum + one.sent_per_second, 0),
    p50: events === 0 ? null : heard.reduce((sum, one) => sum + one.p50 * one.events, 0) / events,
    p99: events === 0 ? null : Math.max(...heard.map((one) => one.p99)),
  };
}

async function looked(first: string | null): Promise<Seen | "forbidden" | "unreachable"> {
  const { gateways } = configuration;
  const order = first === null ? gateways : [first, ...gateways.filter((url) => url !== first)];
  for (const url of order) {
    try {
      const answer = await fetch(`${url}/v1/operations`, { headers: headers(), signal: AbortSignal.timeout(3000) });
      if (answer.ok) return (await answer.json()) as Seen;
      if (answer.status === 404 || answer.status === 401) return "forbidden";
    } catch {
      // the next one may do
    }
  }
  return "unreachable";
}

function headers(): Record<string, string> {
  const known = token.get();
  return known === null ? {} : { Authorization: `Bearer ${known}` };
}

/** Pull a plug. `url` is the gateway that does it. @throws Error with what it said. */
export async function pull(url: string, what: "socket" | "node" | "worker" | "turn", name: string): Promise<void> {
  const answer = await fetch(`${url}/v1/plugs/${what}/${encodeURIComponent(name)}`, { method: "POST", headers: headers() });
  if (answer.ok) return;
  const told = (await answer.json().catch(() => ({}))) as { readonly error?: { readonly message?: string } };
  throw new Error(told.error?.message ?? `the gateway answered ${answer.status}`);
}
