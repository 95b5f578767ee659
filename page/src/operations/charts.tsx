/** Two curves of the last two minutes. */
import { lasting } from "../times.js";
import type { Sample } from "./fleet.js";
import { useWidth } from "./width.js";

const HIGH = 132;
const FOOT = 4;
/** Seconds that are shown. */
const SPAN = 120;

interface Curve {
  readonly name: string;
  readonly filled: boolean;
  readonly value: (sample: Sample) => number | null;
}

interface ChartProps {
  readonly samples: readonly Sample[];
  readonly curves: readonly Curve[];
  /** The least that the axis reaches to. */
  readonly least: number;
  readonly show: (value: number) => string;
}

export function Rate({ samples }: { readonly samples: readonly Sample[] }) {
  const curves = [{ name: "rate", filled: true, value: (sample: Sample) => sample.rate }];
  return <Chart samples={samples} curves={curves} least={20} show={(value) => Math.round(value).toLocaleString()} />;
}

export function Latency({ samples }: { readonly samples: readonly Sample[] }) {
  const curves = [
    { name: "p99", filled: false, value: (sample: Sample) => sample.p99 },
    { name: "p50", filled: false, value: (sample: Sample) => sample.p50 },
  ];
  return <Chart samples={samples} curves={curves} least={0.01} show={(value) => lasting(value * 1000)} />;
}

function Chart({ samples, curves, least, show }: ChartProps) {
  const [element, width] = useWidth();
  const last = samples.at(-1);
  const values = samples.flatMap((sample) => curves.map((curve) => curve.value(sample) ?? 0));
  const top = rounded(Math.max(least, ...values));
  const x = (now: number): number => width - (((last?.now ?? now) - now) / SPAN) * width;
  const y = (value: number): number => HIGH - FOOT - (value / top) * (HIGH - 28);
  return (
    <figure class="chart">
      <figcaption>
        {curves.map((curve) => {
          const now = [...samples].reverse().find((sample) => curve.value(sample) !== null);
          const value = now && curve.value(now);
          return (
            <span key={curve.name} class={curve.name}>
              {curves.length > 1 && <small>{curve.name}</small>}
              <b>{value === null || value === undefined ? "–" : show(value)}</b>
            </span>
          );
        })}
      </figcaption>
      <div class="drawing" ref={element}>
        {width > 0 && (
          <svg width={width} height={HIGH} aria-hidden="true">
            {[0, 0.5, 1].map((part) => (
              <g key={part} class="tick">
                <line x1={0} x2={width} y1={y(top * part)} y2={y(top * part)} />
                {part > 0 && (
                  <text x={2} y={y(top * part) - 4} class="start">
                    {show(top * part)}
                  </text>
                )}
              </g>
            ))}
            {curves.map((curve) => {
              const points = samples
                .map((sample) => ({ at: x(sample.now), value: curve.value(sample) }))
                .filter((point): point is { at: number; value: number } => point.value !== null && point.at >= -8);
              const line = points.map(({ at, value }, n) => `${n ? "L" : "M"}${at.toFixed(1)} ${y(value).toFixed(1)}`).join("");
              const [from, to] = [points[0], points.at(-1)];
              return (
                <g key={curve.name} class={`curve ${curve.name}`}>
                  {curve.filled && from && to && <path class="area" d={`${line}L${to.at} ${y(0)}L${from.at} ${y(0)}Z`} />}
                  <path class="line" d={line} />
                  {to && <circle cx={to.at - 1} cy={y(to.value)} r={3} />}
                </g>
              );
            })}
          </svg>
        )}
      </div>
    </figure>
  );
}

/** The next of 1, 2, 5, 10, 20, … */
function rounded(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * ([1, 2, 5, 10].find((step) => step * power >= value) ?? 10);
}
