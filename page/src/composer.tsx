import { useCallback, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { QueueMode, ThreadState } from "@threadline/client";
import { useDraft } from "./drafts.js";
import type { Drafts } from "./drafts.js";
import { Send, Stop } from "./icons.js";

interface ComposerProps {
  readonly id: string;
  readonly drafts: Drafts;
  readonly begun: number;
  readonly status: ThreadState["status"];
  readonly onSend: (text: string, mode: QueueMode) => Promise<boolean>;
  readonly onStop: () => void;
  readonly stopping: boolean;
}

/** What to do with a message while an answer is being written. */
const MODES: readonly { readonly mode: QueueMode; readonly name: string; readonly means: string }[] = [
  { mode: "followup", name: "Next", means: "Ask it when this answer is done" },
  { mode: "steer", name: "Steer", means: "Tell it to the running answer" },
  { mode: "collect", name: "Context", means: "Keep it for the next question" },
  { mode: "interrupt", name: "Instead", means: "Stop this answer, and ask this" },
];

/** Where a message is written. Enter sends, Shift Enter begins a line, Escape stops the answer. */
export function Composer({ id, drafts, begun, status, onSend, onStop, stopping }: ComposerProps) {
  const [text, setText] = useDraft(drafts, id);
  const [mode, setMode] = useState<QueueMode>("followup");
  const area = useRef<HTMLTextAreaElement>(null);
  const busy = status !== "idle";

  useLayoutEffect(() => {
    const element = area.current;
    if (!element) return;
    element.style.height = "auto";
    element.style.height = `${Math.min(element.scrollHeight, 220)}px`;
  }, [text]);
  // both with the drawing, and not behind it: the next key is for what is seen
  useLayoutEffect(() => {
    if (matchMedia("(hover: hover)").matches) area.current?.focus(); // on a phone the keyboard would jump up
  }, [id, begun]);
  useLayoutEffect(() => {
    const pressed = (event: KeyboardEvent): void => {
      if (event.key !== "Escape" || !busy || event.isComposing || event.defaultPrevented) return;
      event.preventDefault();
      onStop();
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, [busy, onStop]);

  const send = useCallback(() => {
    const said = drafts.of(id).trim(); // not `text`: what was typed just now is not drawn yet
    if (!said) return;
    setText("");
    // an idle thread answers it at once; where a turn runs that we have not heard of yet, none is lost
    void onSend(said, busy ? mode : "followup").then((done) => done || drafts.giveBack(id, said));
  }, [setText, busy, mode, onSend, drafts, id]);

  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      <div class="box">
        <textarea
          ref={area}
          rows={1}
          value={text}
          dir="auto"
          placeholder={busy ? "Say something meanwhile…" : "Write a message…"}
          aria-label="Message"
          enterkeyhint="send"
          onInput={(event) => setText(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
            event.preventDefault();
            send();
          }}
        />
        <div class="row">
          {busy ? (
            <div class="modes" role="radiogroup" aria-label="What to do with the message">
              {MODES.map((one) => (
                <button
                  type="button"
                  key={one.mode}
                  role="radio"
                  aria-checked={mode === one.mode}
                  title={one.means}
                  onClick={() => setMode(one.mode)}
                >
                  {one.name}
                </button>
              ))}
            </div>
          ) : (
            <span class="hint">
              <kbd>Enter</kbd> to send, <kbd>Shift</kbd> <kbd>Enter</kbd> for a new line
            </span>
          )}
          {busy && (
            <button
              type="button"
              class="stop"
              disabled={stopping}
              aria-label="Stop the answer"
              title="Stop the answer (Esc)"
              onClick={onStop}
            >
              <Stop size={16} />
            </button>
          )}
          <button class="send" disabled={!text.trim()} aria-label="Send" title="Send (Enter)">
            <Send size={18} />
          </button>
        </div>
      </div>
    </form>
  );
}
