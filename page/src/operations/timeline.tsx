/** Turns as lanes on the last minute: hatched while they wait, full while they run, coloured by how they ended. */
import { useEffect, useMemo, useState } from "preact/hooks";
import { addressOf } from "../place.js";
import { plain } from "../plain.js";
import { lasting } from "../times.js";
import { GONE, workersOf } from "./fleet.js";
import type { Seen, WorkerTurn } from "./fleet.js";
import { shortened } from "./map.js";
import { useWidth } from "./width.js";

/** Seconds that are shown. */
const SPAN = 45;
const LANE = 18;
const HEAD = 20;
/** Lanes of one worker at most; what does not fit is counted. */
const MOST = 10;

interface Bar {
  readonly key: string;
  readonly thread_id: string;
  readonly request_id: string;
  readonly attempt: number;
  readonly began: number;
  readonly claimed: number;
  /** null while it goes on. */
  readonly ended: number | null;
  readonly outcome: string;
}

interface Group {
  readonly name: string;
  readonly lanes: readonly (readonly Bar[])[];
  readonly hidden: number;
}

export function Timeline({ seen }: { readonly seen: Seen }) {
  const [element, width] = useWidth();
  const now = useClock(seen.now);
  const groups = useMemo(() => grouped(seen), [seen]);
  return (
    <>
      <ul class="legend">
        {["queued", "running", "done", "taken over", "cancelled", "failed"].map((name) => (
          <li key={name} class={name.replace(" ", "-")}>
            {name}
          </li>
        ))}
      </ul>
      <div class="drawing" ref={element}>
        {width > 0 && <Lanes groups={groups} now={now} width={width} />}
      </div>
    </>
  );
}

/** Redis' clock, going on between two looks. */
function useClock(seen: number): number {
  const [{ at, base }, setBase] = useState({ at: performance.now(), base: seen });
  const [, tick] = useState(0);
  useEffect(() => setBase({ at: performance.now(), base: seen }), [seen]);
  useEffect(() => {
    const every = matchMedia("(prefers-reduced-motion: reduce)").matches ? 1000 : 100;
    const timer = setInterval(() => document.visibilityState === "visible" && tick((n) => n + 1), every);
    return () => clearInterval(timer);
  }, []);
  return base + (performance.now() - at) / 1000;
}

function grouped(seen: Seen): readonly Group[] {
  const since = seen.now - SPAN;
  const waiting = seen.longest_waiting.map(
    (mark): Bar => ({
      key: mark.request_id,
      thread_id: mark.thread_id,
      request_id: mark.request_id,
      attempt: 1,
      began: seen.now - mark.seconds,
      claimed: Number.POSITIVE_INFINITY,
      ended: null,
      outcome: "",
    }),
  );
  const workers = workersOf(seen).map((worker) => {
    const heard = seen.now - worker.silent;
    const bars = worker.turns
      .filter((turn) => (turn.ended ?? seen.now) > since)
      .map((turn) => barOf(turn, worker.silent > Math.max(GONE / 2, seen.lease) ? heard : null));
    return groupOf(worker.node_id, bars);
  });
  return waiting.length > 0 ? [groupOf("waiting", waiting), ...workers] : workers;
}

/** `lost` is when a worker was heard last that says nothing any more: what it ran, ended by then. */
function barOf(turn: WorkerTurn, lost: number | null): Bar {
  const { thread_id, request_id, attempt, claimed } = turn;
  const over = turn.ended ?? lost;
  return {
    key: `${request_id}.${attempt}`,
    thread_id,
    request_id,
    attempt,
    began: attempt > 1 ? claimed : turn.began, // the first attempt shows how long it waited
    claimed,
    ended: over,
    outcome: turn.outcome ?? (lost === null ? "" : "lost"),
  };
}

function groupOf(name: string, bars: readonly Bar[]): Group {
  const lanes: Bar[][] = [];
  let hidden = 0;
  for (const bar of [...bars].sort((one, other) => one.began - other.began)) {
    const free = lanes.find((lane) => (lane.at(-1)?.ended ?? Number.POSITIVE_INFINITY) + 0.4 < bar.began);
    if (free) free.push(bar);
    else if (lanes.length < MOST) lanes.push([bar]);
    else hidden += 1;
  }
  return { name, lanes: lanes.length > 0 ? lanes : [[]], hidden };
}

function Lanes({ groups, now, width }: { readonly groups: readonly Group[]; readonly now: number; readonly width: number }) {
  const label = width < 620 ? 0 : 150;
  const x = (at: number): number => label + ((at - now + SPAN) / SPAN) * (width - label - 2);
  const tops: number[] = [];
  let height = 6;
  for (const group of groups) {
    tops.push(height);
    height += (label === 0 ? HEAD : 6) + group.lanes.length * LANE + 8;
  }
  const places = new Map<string, { readonly y: number; readonly bar: Bar }>();
  groups.forEach((group, g) => {
    group.lanes.forEach((lane, n) => {
      const y = (tops[g] ?? 0) + (label === 0 ? HEAD : 6) + n * LANE;
      for (const bar of lane) places.set(bar.key, { y, bar });
    });
  });
  return (
    <svg class="lanes" width={width} height={height + 18} role="img" aria-label={`${places.size} turns in the last ${SPAN} seconds`}>
      <defs>
        <pattern id="waits" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
          <rect class="hatch-ground" width="6" height="6" />
          <rect class="hatch" width="2.5" height="6" />
        </pattern>
        <clipPath id="stage">
          <rect x={label} y={0} width={width - label} height={height} />
        </clipPath>
      </defs>
      {[0, 15, 30, 45].map((ago) => (
        <g key={ago} class="tick">
          <line x1={x(now - ago)} x2={x(now - ago)} y1={0} y2={height} />
          <text x={x(now - ago)} y={height + 14} class={ago === 0 ? "end" : ago === SPAN ? "start" : ""}>
            {ago === 0 ? "now" : `${ago} s ago`}
          </text>
        </g>
      ))}
      {groups.map((group, g) => (
        <text key={group.name} x={label === 0 ? 2 : 0} y={(tops[g] ?? 0) + (label === 0 ? 14 : 18)} class="group">
          {plain(shortened(group.name, 22))}
          {group.hidden > 0 ? ` +${group.hidden}` : ""}
        </text>
      ))}
      <g clip-path="url(#stage)">
        {[...places.values()].map(({ y, bar }) => {
          const earlier = bar.attempt > 1 ? places.get(`${bar.request_id}.${bar.attempt - 1}`) : undefined;
          return (
            <g key={bar.key}>
              {earlier && <Over from={[x(earlier.bar.ended ?? bar.claimed), earlier.y]} to={[x(bar.claimed), y]} />}
              <BarOf bar={bar} now={now} x={x} y={y} />
            </g>
          );
        })}
      </g>
    </svg>
  );
}

/** The way of a turn from a worker that was lost to the one that took it over. */
function Over({ from, to }: { readonly from: readonly number[]; readonly to: readonly number[] }) {
  const [x1 = 0, y1 = 0] = from;
  const [x2 = 0, y2 = 0] = to;
  const middle = (x1 + x2) / 2;
  const a = y1 + (LANE - 5) / 2;
  const b = y2 + (LANE - 5) / 2;
  return <path class="over" d={`M${x1} ${a} C${middle} ${a} ${middle} ${b} ${x2} ${b}`} />;
}

const KINDS: Readonly<Record<string, string>> = {
  "": "running",
  done: "done",
  failed: "failed",
  cancelled: "cancelled",
  parked: "parked",
};

function BarOf({ bar, now, x, y }: { readonly bar: Bar; readonly now: number; readonly x: (at: number) => number; readonly y: number }) {
  const end = bar.ended ?? now;
  const claimed = Math.min(bar.claimed, end);
  // fenced, handed back, crashed, lost: what this worker began, another one ends
  const kind = bar.attempt > 1 && bar.outcome === "" ? "running again" : (KINDS[bar.outcome] ?? "lost");
  const ran = Math.max(3, x(end) - x(claimed));
  return (
    <a class={`bar ${kind}`} href={addressOf(bar.thread_id)}>
      <title>
        {`${bar.thread_id}, attempt ${bar.attempt}: ${bar.outcome || "running"}; waited ${lasting((claimed - bar.began) * 1000)}, ran ${lasting((end - claimed) * 1000)}`}
      </title>
      {x(claimed) - x(bar.began) > 1 && (
        <rect class="waited" x={x(bar.began)} y={y} width={x(claimed) - x(bar.began)} height={LANE - 5} rx={4} />
      )}
      {Number.isFinite(bar.claimed) && <rect class="ran" x={x(claimed)} y={y} width={ran} height={LANE - 5} rx={4} />}
      {bar.attempt > 1 && <circle class="again" cx={x(claimed)} cy={y + (LANE - 5) / 2} r={4.5} />}
    </a>
  );
}
