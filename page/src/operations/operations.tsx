import { useStatus } from "@threadline/client/react";
import { Menu } from "../icons.js";
import { Latency, Rate } from "./charts.js";
import { GONE, gatewaysOf, useFleet, workersOf } from "./fleet.js";
import type { Seen } from "./fleet.js";
import { Fuses } from "./fuses.js";
import { FleetMap } from "./map.js";
import { Timeline } from "./timeline.js";

/** The whole fleet at a glance, as it is this second. */
export function Operations({ onMenu }: { readonly onMenu: () => void }) {
  const fleet = useFleet(1000);
  const { url } = useStatus();
  const { now: seen, samples, trouble } = fleet;
  return (
    <main class="operations" aria-label="Operations">
      <header class="top">
        <button type="button" class="quiet menu" aria-label="Threads" onClick={onMenu}>
          <Menu />
        </button>
        <h1>Operations</h1>
        {seen && <Totals seen={seen} />}
      </header>
      {!seen ? (
        <p class="nothing">{trouble === null ? "Looking at the fleet…" : TROUBLES[trouble]}</p>
      ) : (
        <div class="boards">
          {trouble && <p class="problem wide">{TROUBLES[trouble]}</p>}
          <section class="board wide">
            <h2>Fleet</h2>
            <FleetMap seen={seen} mine={url} />
          </section>
          <section class="board wide">
            <h2>Turns</h2>
            <Timeline seen={seen} />
          </section>
          <section class="board">
            <h2>
              Events per second <small>sent to sockets, all gateways</small>
            </h2>
            <Rate samples={samples} />
          </section>
          <section class="board">
            <h2>
              Append to socket <small>p50 and p99</small>
            </h2>
            <Latency samples={samples} />
          </section>
          <section class="board wide">
            <h2>
              Leases <small>how long until somebody must look at a turn</small>
            </h2>
            <Fuses seen={seen} />
          </section>
        </div>
      )}
    </main>
  );
}

const TROUBLES = {
  forbidden: "There is nothing here for you. THREADLINE_OPERATORS of the gateway names who may look.",
  unreachable: "No gateway answers. What is shown is as it was last.",
} as const;

function Totals({ seen }: { readonly seen: Seen }) {
  const gateways = gatewaysOf(seen).filter((one) => one.silent < GONE);
  const workers = workersOf(seen).filter((one) => one.silent < GONE);
  const slots = workers.reduce((sum, one) => sum + one.slots, 0);
  const busy = workers.reduce((sum, one) => sum + one.running, 0);
  const facts: readonly (readonly [string, string, boolean])[] = [
    ["gateways", String(gateways.length), gateways.some((one) => !one.ready)],
    ["slots busy", `${busy} / ${slots}`, slots > 0 && busy === slots],
    ["under way", String(seen.under_way), false],
    ["waiting", String(seen.waiting), seen.waiting > 0],
  ];
  return (
    <dl class="totals">
      {facts.map(([name, value, alarming]) => (
        <div key={name} class={alarming ? "alarming" : ""}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}
