import { memo } from "preact/compat";
import { useState } from "preact/hooks";
import type { ToolUse } from "@threadline/client";
import { CopyButton } from "./copy.js";
import { Check, Chevron, Cross, Thought, Tool } from "./icons.js";
import { plain } from "./plain.js";

/** What the model thought: open while it thinks, folded when it speaks, unless the person said otherwise. */
export function ThinkingCard({ text, live }: { readonly text: string; readonly live: boolean }) {
  const [chosen, setChosen] = useState<boolean | null>(null);
  const open = chosen ?? live;
  return (
    <section class={`card thinking${live ? " live" : ""}`}>
      <button type="button" class="head" aria-expanded={open} onClick={() => setChosen(!open)}>
        <Thought size={16} />
        <span>{live ? "Thinking…" : "Thought about it"}</span>
        <Chevron size={14} />
      </button>
      {open && (
        <p class="body" dir="auto">
          {plain(text)}
        </p>
      )}
    </section>
  );
}

/** Characters of arguments that fit into one line. */
const GLANCE = 90;

/** A call of a tool: what with, and what came of it. */
export const ToolCard = memo(function ToolCard({ tool, live }: { readonly tool: ToolUse; readonly live: boolean }) {
  const [open, setOpen] = useState(false);
  const { tool_name, args, args_text, output, success } = tool;
  const given = args ? JSON.stringify(args, null, 2) : args_text;
  const state = output === null ? (live ? "running" : "ended") : success === false ? "failed" : "done";
  return (
    <section class={`card tool ${state}`}>
      <button type="button" class="head" aria-expanded={open} onClick={() => setOpen(!open)}>
        <Tool size={16} />
        <code dir="ltr">{plain(tool_name)}</code>
        <span class="glance" dir="ltr">
          {plain(glance(args, args_text))}
        </span>
        <span class="became">
          {state === "running" && <i class="spin" role="img" aria-label="runs" />}
          {state === "done" && <Check size={15} />}
          {state === "failed" && <Cross size={15} />}
        </span>
        <Chevron size={14} />
      </button>
      {open && (
        <div class="body">
          <Field name="With" text={given} />
          {output !== null && <Field name={success === false ? "Failed with" : "Result"} text={output} />}
        </div>
      )}
    </section>
  );
});

function Field({ name, text }: { readonly name: string; readonly text: string }) {
  return (
    <div class="field">
      <h4>
        {name}
        <CopyButton text={text} label={`Copy: ${name}`} />
      </h4>
      <pre dir="ltr">{plain(text)}</pre>
    </div>
  );
}

function glance(args: Readonly<Record<string, unknown>> | null, text: string): string {
  const short = args
    ? Object.entries(args)
        .map(([name, value]) => `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`)
        .join(", ")
    : text;
  const line = short.replace(/\s+/g, " ");
  return line.length > GLANCE ? `${line.slice(0, GLANCE)}…` : line;
}
