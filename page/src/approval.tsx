import { useEffect, useState } from "preact/hooks";
import type { Approval, DecideResult } from "@threadline/client";
import { Question, Tool } from "./icons.js";
import { useDoing, useTell } from "./notices.js";
import { plain } from "./plain.js";
import { lasting } from "./times.js";

interface AskedProps {
  readonly asked: Approval;
  readonly decide: (approval_id: string, decision: string) => Promise<DecideResult>;
}

/** What an agent asks a person: may it run a tool, or a question. */
export function Asked({ asked, decide }: AskedProps) {
  const { approval_id, kind, tool_name, args, question, options } = asked;
  const [busy, setBusy] = useState(false);
  const [text, setText] = useState("");
  const tell = useTell();
  const doing = useDoing();
  const say = (decision: string): void => {
    setBusy(true);
    void doing(async () => {
      const result = await decide(approval_id, decision);
      if (!result.decided) tell(standing(result));
    }).then(() => setBusy(false));
  };
  const label = kind === "approval" ? `The agent wants to run ${plain(tool_name)}` : plain(question);
  return (
    <section class="asked" role="group" aria-label={label}>
      <header>
        {kind === "approval" ? <Tool /> : <Question />}
        <h3 dir="auto">
          {kind === "approval" ? (
            <>
              May it run <code>{plain(tool_name)}</code>?
            </>
          ) : (
            plain(question)
          )}
        </h3>
        <Left until={asked.expires_at} />
      </header>
      {kind === "approval" && args && Object.keys(args).length > 0 && (
        <dl dir="ltr">
          {Object.entries(args).map(([name, value]) => (
            <div key={name}>
              <dt>{plain(name)}</dt>
              <dd>{plain(typeof value === "string" ? value : JSON.stringify(value))}</dd>
            </div>
          ))}
        </dl>
      )}
      {kind === "approval" ? (
        <div class="choices">
          <button type="button" disabled={busy} onClick={() => say("denied")}>
            Deny
          </button>
          <button type="button" class="primary" disabled={busy} onClick={() => say("approved")}>
            Approve
          </button>
        </div>
      ) : options && options.length > 0 ? (
        <div class="choices options">
          {options.map((option) => (
            <button type="button" key={option} disabled={busy} onClick={() => say(option)}>
              {plain(option)}
            </button>
          ))}
        </div>
      ) : (
        <form
          class="choices"
          onSubmit={(event) => {
            event.preventDefault();
            if (text.trim()) say(text);
          }}
        >
          <input
            value={text}
            dir="auto"
            maxLength={4000}
            placeholder="Your answer"
            aria-label="Your answer"
            onInput={(event) => setText(event.currentTarget.value)}
          />
          <button class="primary" disabled={busy || !text.trim()}>
            Answer
          </button>
        </form>
      )}
    </section>
  );
}

function standing({ state, decision, by }: DecideResult): string {
  if (state === "expired") return "Nobody answered in time: it was refused.";
  if (state === "withdrawn") return "The turn ended first: there is nothing to decide any more.";
  return `${by ?? "Somebody"} was first, and said: ${decision ?? ""}`;
}

/** Milliseconds before the end from which on the time left is shown. */
const SOON = 15 * 60_000;

function Left({ until }: { readonly until: number }) {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 1000);
    return () => clearInterval(timer);
  }, []);
  const left = until - now;
  return left < SOON ? <time class="left">{left > 0 ? `${lasting(left)} left` : "time is up"}</time> : null;
}
