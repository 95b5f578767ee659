/** The fleet, drawn: gateways at the left, Redis in the middle, workers with their slots at the right. */
import type { ComponentChildren } from "preact";
import { plain } from "../plain.js";
import { GONE, gatewaysOf, workersOf } from "./fleet.js";
import type { GatewayMember, Seen, WorkerMember } from "./fleet.js";
import { useWidth } from "./width.js";

const NARROW = 620;
const GAP = 12;
const HIGH = 66;
const STORE = 84;

export function FleetMap({ seen, mine }: { readonly seen: Seen; readonly mine: string | null }) {
  const [element, width] = useWidth();
  return (
    <div class="drawing" ref={element}>
      {width > 0 && <Drawing seen={seen} mine={mine} width={width} />}
    </div>
  );
}

function Drawing({ seen, mine, width }: { readonly seen: Seen; readonly mine: string | null; readonly width: number }) {
  const gateways = gatewaysOf(seen);
  const workers = workersOf(seen);
  const narrow = width < NARROW;
  const wire = narrow ? 18 : Math.max(40, width * 0.08);
  const store = narrow ? 66 : STORE;
  const box = Math.floor((width - store - 2 * wire) / 2);
  const slotRows = (worker: WorkerMember): number => Math.ceil(Math.min(worker.slots, MOST_SLOTS) / slotsAcross(box));
  const tall = workers.map((worker) => Math.max(HIGH, 50 + slotRows(worker) * SLOT));
  const left = stacked(gateways.map(() => HIGH));
  const right = stacked(tall);
  const height = Math.max(left.height, right.height, 120);
  const middle = height / 2;
  const storeX = box + wire;
  const at = (side: { readonly tops: readonly number[]; readonly height: number }, n: number): number =>
    (side.tops[n] ?? 0) + (height - side.height) / 2;
  return (
    <svg class={narrow ? "narrow" : ""} width={width} height={height} role="img" aria-label={spoken(gateways, workers)}>
      {gateways.map((one, n) => (
        <Wire key={one.node_id} from={[box, at(left, n) + HIGH / 2]} to={[storeX, middle]} state={stateOfGateway(one)} />
      ))}
      {workers.map((one, n) => (
        <Wire
          key={one.node_id}
          from={[storeX + store, middle]}
          to={[width - box, at(right, n) + (tall[n] ?? HIGH) / 2]}
          state={one.silent > GONE ? "gone" : one.running > 0 ? "busy" : "well"}
        />
      ))}
      <g class="store" transform={`translate(${storeX} ${middle - 30})`}>
        <rect width={store} height={60} rx={12} />
        <text x={store / 2} y={27} class="name">
          Redis
        </text>
        <text x={store / 2} y={44} class="fact">
          {seen.under_way} turn{seen.under_way === 1 ? "" : "s"}
        </text>
      </g>
      {gateways.map((one, n) => (
        <Gateway key={one.node_id} one={one} x={0} y={at(left, n)} width={box} mine={isMine(one, mine)} narrow={narrow} />
      ))}
      {workers.map((one, n) => (
        <Worker key={one.node_id} one={one} x={width - box} y={at(right, n)} width={box} height={tall[n] ?? HIGH} narrow={narrow} />
      ))}
    </svg>
  );
}

function stacked(heights: readonly number[]): { readonly tops: readonly number[]; readonly height: number } {
  const tops: number[] = [];
  let top = 0;
  for (const height of heights) {
    tops.push(top);
    top += height + GAP;
  }
  return { tops, height: Math.max(0, top - GAP) };
}

function isMine(one: GatewayMember, mine: string | null): boolean {
  return mine !== null && one.silent < GONE && new URL(one.url).port === new URL(mine).port;
}

function stateOfGateway(one: GatewayMember): "gone" | "deaf" | "unready" | "busy" | "well" {
  if (one.silent > GONE) return "gone";
  if (one.deaf) return "deaf";
  if (!one.ready) return "unready";
  return one.sent_per_second > 0 ? "busy" : "well";
}

function Wire({ from, to, state }: { readonly from: readonly number[]; readonly to: readonly number[]; readonly state: string }) {
  const [x1 = 0, y1 = 0] = from;
  const [x2 = 0, y2 = 0] = to;
  const bend = (x1 + x2) / 2;
  return <path class={`wire ${state}`} d={`M${x1} ${y1} C${bend} ${y1} ${bend} ${y2} ${x2} ${y2}`} />;
}

interface BoxProps {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
  readonly state: string;
  readonly title: string;
  readonly children: ComponentChildren;
}

function Box({ x, y, width, height, state, title, children }: BoxProps) {
  return (
    <g class={`member ${state}`} transform={`translate(${x} ${y})`}>
      <title>{title}</title>
      <rect x={0.5} y={0.5} width={width - 1} height={height - 1} rx={12} />
      {children}
    </g>
  );
}

interface GatewayProps {
  readonly one: GatewayMember;
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly mine: boolean;
  readonly narrow: boolean;
}

const WORDS: Readonly<Record<string, string>> = { gone: "silent", deaf: "deaf", unready: "not ready" };

function Gateway({ one, x, y, width, mine, narrow }: GatewayProps) {
  const state = stateOfGateway(one);
  const { port } = new URL(one.url);
  const trouble = WORDS[state];
  const facts = trouble ? `${trouble} for ${Math.round(one.silent)} s` : `${one.sockets} socket${one.sockets === 1 ? "" : "s"}`;
  return (
    <Box
      x={x}
      y={y}
      width={width}
      height={HIGH}
      state={`${state}${mine ? " mine" : ""}`}
      title={`gateway ${one.node_id}, pid ${one.pid}, ${one.url}`}
    >
      <circle class="lamp" cx={18} cy={22} r={4} />
      <text x={30} y={27} class="name">
        :{port}
      </text>
      <text x={16} y={48} class="fact">
        {state === "deaf" ? "deaf: hears no events" : facts}
        {narrow && mine ? ", you" : narrow || trouble ? "" : `, ${one.sent_per_second} events/s`}
      </text>
      {mine && !narrow && (
        <text x={width - 14} y={27} class="tag">
          you
        </text>
      )}
    </Box>
  );
}

const SLOT = 14;
const MOST_SLOTS = 96;
const slotsAcross = (width: number): number => Math.max(1, Math.floor((width - 28) / SLOT));

interface WorkerProps {
  readonly one: WorkerMember;
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
  readonly narrow: boolean;
}

function Worker({ one, x, y, width, height, narrow }: WorkerProps) {
  const gone = one.silent > GONE;
  const across = slotsAcross(width);
  const shown = Math.min(one.slots, MOST_SLOTS);
  return (
    <Box
      x={x}
      y={y}
      width={width}
      height={height}
      state={gone ? "gone" : one.running > 0 ? "busy" : "well"}
      title={`worker ${one.node_id}, pid ${one.pid}, ${one.agent}, ${one.running} of ${one.slots} slots busy`}
    >
      <circle class="lamp" cx={18} cy={22} r={4} />
      <text x={30} y={27} class="name">
        {plain(shortened(one.node_id, narrow ? 9 : 28))}
      </text>
      {!narrow && (
        <text x={width - 14} y={27} class="tag">
          {gone ? `silent for ${Math.round(one.silent)} s` : `${one.running} / ${one.slots}`}
        </text>
      )}
      {Array.from({ length: shown }, (_, n) => (
        <rect
          key={n}
          class={`slot${n < one.running ? " taken" : ""}`}
          x={16 + (n % across) * SLOT}
          y={40 + Math.floor(n / across) * SLOT}
          width={SLOT - 4}
          height={SLOT - 4}
          rx={3}
        />
      ))}
    </Box>
  );
}

/** The end of a name tells more than its beginning: `host-worker-2`. */
export function shortened(name: string, most: number): string {
  return name.length > most ? `…${name.slice(1 - most)}` : name;
}

function spoken(gateways: readonly GatewayMember[], workers: readonly WorkerMember[]): string {
  const deaf = gateways.filter((one) => one.deaf).length;
  const busy = workers.reduce((sum, one) => sum + one.running, 0);
  const slots = workers.reduce((sum, one) => sum + one.slots, 0);
  return `${gateways.length} gateways, ${deaf} of them deaf; ${workers.length} workers, ${busy} of ${slots} slots busy`;
}
