/** Messages that wait in the lanes of a thread. Pure: nothing is changed in place. */
import type { Lane, QueueItemQueued } from "./events.js";

/** A message that waits in a lane. */
export interface QueueItem {
  readonly item_id: string;
  readonly lane: Lane;
  /** 1 is next. */
  readonly position: number;
  readonly preview: string;
}

const LANES: readonly Lane[] = ["steer", "followup", "collect"];

export function queued(queue: readonly QueueItem[], event: QueueItemQueued): readonly QueueItem[] {
  const { item_id, lane, position, preview } = event;
  const others = queue.filter((item) => item.item_id !== item_id);
  const mine = others.filter((item) => item.lane === lane);
  mine.splice(position - 1, 0, { item_id, lane, position, preview });
  return placed(queue, [...others.filter((item) => item.lane !== lane), ...mine]);
}

export function unqueued(queue: readonly QueueItem[], item_id: string): readonly QueueItem[] {
  const left = queue.filter((item) => item.item_id !== item_id);
  return left.length === queue.length ? queue : placed(queue, left);
}

/** Lane by lane, with their positions; an item that stays as it was keeps its identity. */
export function placed(before: readonly QueueItem[], items: readonly QueueItem[]): readonly QueueItem[] {
  const known = new Map(before.map((item) => [item.item_id, item]));
  return LANES.flatMap((lane) =>
    items
      .filter((item) => item.lane === lane)
      .map((item, n) => {
        const old = known.get(item.item_id);
        return old?.lane === lane && old.position === n + 1 ? old : { ...item, position: n + 1 };
      }),
  );
}
