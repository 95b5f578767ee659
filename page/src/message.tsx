import { memo } from "preact/compat";
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import type { Message as Said } from "@threadline/client";
import { ThinkingCard, ToolCard } from "./cards.js";
import { CopyButton } from "./copy.js";
import { Pencil, Retry } from "./icons.js";
import { Markdown } from "./markdown.js";
import { plain } from "./plain.js";
import { timeOf, wholeTime } from "./times.js";

interface MessageProps {
  readonly message: Said;
  /** Whether nothing comes behind it. */
  readonly isLast: boolean;
  readonly editing: boolean;
  readonly onEdit: (key: string | null) => void;
  /** Ask once more what began the turn, or something else in its place. */
  readonly onRedo: (request_id: string, text?: string) => void;
}

/** One message of the conversation. */
export const Message = memo(function Message(props: MessageProps) {
  return props.message.role === "user" ? <Theirs {...props} /> : <Answer {...props} />;
});

function Theirs({ message, editing, onEdit, onRedo }: MessageProps) {
  const { content, steer, context, ts, request_id, key } = message;
  if (editing) return <Edit text={content} onCancel={() => onEdit(null)} onDone={(text) => onRedo(request_id, text)} />;
  return (
    <article class="message user">
      {(steer || context) && <p class="lane">{steer ? "Told to the running answer" : "Added as context"}</p>}
      <div class="bubble" dir="auto">
        {plain(content)}
      </div>
      <footer>
        <time title={wholeTime(ts)}>{timeOf(ts)}</time>
        <CopyButton text={content} label="Copy the message" />
        {!steer && !context && (
          <button type="button" class="quiet" aria-label="Edit" title="Edit, and ask again" onClick={() => onEdit(key)}>
            <Pencil size={15} />
          </button>
        )}
      </footer>
    </article>
  );
}

const WHY: Readonly<Record<string, string>> = {
  cancelled: "Stopped",
  superseded: "A newer message took its place",
  worker_lost: "Lost with its workers",
  turn_timeout: "Took too long",
};

function Answer({ message, isLast, onRedo }: MessageProps) {
  const { content, thinking, tools, interrupted, error_type, request_id, ts, usage } = message;
  return (
    <article class={`message assistant${interrupted ? " interrupted" : ""}`}>
      {thinking !== "" && <ThinkingCard text={thinking} live={false} />}
      {tools.map((tool) => (
        <ToolCard key={tool.tool_call_id} tool={tool} live={false} />
      ))}
      <Markdown text={content} />
      <footer class={isLast ? "stays" : ""}>
        {interrupted && <span class="why">{WHY[error_type] ?? "Stopped in the middle"}</span>}
        <CopyButton text={content} label="Copy the answer" />
        <button
          type="button"
          class="quiet"
          aria-label="Answer again"
          title="Answer again"
          onClick={() => onRedo(request_id)}
        >
          <Retry size={15} />
        </button>
        <time title={wholeTime(ts)}>{timeOf(ts)}</time>
        {usage && <span class="usage">{usage.output_tokens.toLocaleString()} tokens</span>}
      </footer>
    </article>
  );
}

interface EditProps {
  readonly text: string;
  readonly onCancel: () => void;
  readonly onDone: (text: string) => void;
}

function Edit({ text, onCancel, onDone }: EditProps) {
  const [value, setValue] = useState(text);
  const area = useRef<HTMLTextAreaElement>(null);
  useLayoutEffect(() => {
    area.current?.focus();
    area.current?.setSelectionRange(text.length, text.length);
  }, []);
  const done = (): void => {
    if (value.trim()) onDone(value);
  };
  return (
    <article class="message user editing">
      <textarea
        ref={area}
        value={value}
        dir="auto"
        rows={Math.min(12, value.split("\n").length + 1)}
        aria-label="The message"
        onInput={(event) => setValue(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key === "Escape") {
            event.stopPropagation();
            onCancel();
          } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
            event.preventDefault();
            done();
          }
        }}
      />
      <p>What stands behind this message leaves the conversation.</p>
      <div class="choices">
        <button type="button" onClick={onCancel}>
          Cancel
        </button>
        <button type="button" class="primary" disabled={!value.trim()} onClick={done}>
          Ask again
        </button>
      </div>
    </article>
  );
}
