import type { QueueItem } from "@threadline/client";
import type { UsedThread } from "@threadline/client/react";
import { Cross } from "./icons.js";
import { useDoing } from "./notices.js";
import { plain } from "./plain.js";

const LANES: Readonly<Record<string, { readonly name: string; readonly means: string }>> = {
  followup: { name: "Next", means: "asked when the answer is done" },
  steer: { name: "Steer", means: "told to the running answer at its next safe point" },
  collect: { name: "Context", means: "goes with the next question" },
};

/** The messages that wait, as pills above the composer. */
export function Queue({ thread }: { readonly thread: UsedThread }) {
  const doing = useDoing();
  const { queue } = thread;
  if (queue.length === 0) return null;
  return (
    <ul class="queue" aria-label="Waiting messages">
      {queue.map((item) => (
        <Pill key={item.item_id} item={item} onRemove={() => void doing(() => thread.thread.queueRemove(item.item_id))} />
      ))}
      {queue.length > 1 && (
        <li>
          <button type="button" class="clear" onClick={() => void doing(() => thread.thread.queueClear())}>
            Remove all
          </button>
        </li>
      )}
    </ul>
  );
}

function Pill({ item, onRemove }: { readonly item: QueueItem; readonly onRemove: () => void }) {
  const lane = LANES[item.lane] ?? { name: item.lane, means: "" };
  return (
    <li class={`pill ${item.lane}`} title={`${lane.name}: ${lane.means}`}>
      <b>{lane.name}</b>
      <bdi>{plain(item.preview)}</bdi>
      <button type="button" class="quiet" aria-label={`Remove: ${plain(item.preview)}`} onClick={onRemove}>
        <Cross size={13} />
      </button>
    </li>
  );
}
