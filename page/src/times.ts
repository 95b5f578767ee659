/** Times and durations, as people read them. */

const DAY = 24 * 3600 * 1000;
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const weekday = new Intl.DateTimeFormat(undefined, { weekday: "short" });
const date = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const whole = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

/** How long ago, in the space of a word. */
export function when(ts: number, now = Date.now()): string {
  const ago = now - ts;
  if (ago < 60_000) return "now";
  if (ago < 3600_000) return `${Math.floor(ago / 60_000)} min`;
  if (new Date(ts).toDateString() === new Date(now).toDateString()) return clock.format(ts);
  return ago < 6 * DAY ? weekday.format(ts) : date.format(ts);
}

export const timeOf = (ts: number): string => clock.format(ts);
export const wholeTime = (ts: number): string => whole.format(ts);

/** Milliseconds, in the unit that suits them. */
export function lasting(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s`;
  return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
}
