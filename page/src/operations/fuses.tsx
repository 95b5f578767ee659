/** Leases as burning fuses: the shorter, the sooner another worker may take the turn over. */
import { addressOf } from "../place.js";
import { plain } from "../plain.js";
import { lasting } from "../times.js";
import type { Mark, Seen } from "./fleet.js";
import { useWidth } from "./width.js";

const ROW = 22;
const MOST = 12;

export function Fuses({ seen }: { readonly seen: Seen }) {
  const [element, width] = useWidth();
  // a deadline of a turn that waits for a person lies far off: it burns for nobody
  const soon = seen.due.filter((mark) => mark.seconds <= seen.lease * 1.5).slice(0, MOST);
  return (
    <div class="drawing" ref={element}>
      {soon.length === 0 ? (
        <p class="nothing">No lease is held: nothing runs.</p>
      ) : (
        width > 0 && <Burning marks={soon} lease={seen.lease} width={width} />
      )}
    </div>
  );
}

function Burning({ marks, lease, width }: { readonly marks: readonly Mark[]; readonly lease: number; readonly width: number }) {
  const label = Math.min(180, width * 0.36);
  const room = width - label - 64;
  return (
    <svg width={width} height={marks.length * ROW + 2} role="img" aria-label={`${marks.length} leases`}>
      {marks.map((mark, n) => {
        const part = Math.max(0, Math.min(1, mark.seconds / lease));
        const state = mark.seconds <= 0 ? "lapsed" : part < 0.4 ? "soon" : "well";
        return (
          <a key={mark.request_id} href={addressOf(mark.thread_id)} class={`fuse ${state}`}>
            <text x={0} y={n * ROW + 15}>
              {plain(mark.thread_id.length > 20 ? `${mark.thread_id.slice(0, 19)}…` : mark.thread_id)}
            </text>
            <rect class="whole" x={label} y={n * ROW + 8} width={room} height={6} rx={3} />
            <rect class="left" x={label} y={n * ROW + 8} width={Math.max(4, room * part)} height={6} rx={3} />
            <circle cx={label + Math.max(4, room * part)} cy={n * ROW + 11} r={4.5} />
            <text x={width} y={n * ROW + 15} class="end">
              {mark.seconds <= 0 ? "lapsed" : lasting(mark.seconds * 1000)}
            </text>
          </a>
        );
      })}
    </svg>
  );
}
