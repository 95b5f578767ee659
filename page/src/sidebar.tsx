import { useRef, useState } from "preact/hooks";
import type { ThreadSummary } from "@threadline/client";
import { useClient } from "@threadline/client/react";
import { Where } from "./connection.js";
import { Dialog } from "./dialog.js";
import { Fleet, Mark, Pencil, Plus, Search, Trash } from "./icons.js";
import { useDoing } from "./notices.js";
import { addressOf, go, isAt } from "./place.js";
import { plain } from "./plain.js";
import { when, wholeTime } from "./times.js";
import type { Threads } from "./threads.js";

interface SidebarProps {
  readonly threads: Threads;
  readonly chosen: string | null;
  readonly place: "chat" | "operations";
  readonly onBegin: () => void;
  /** Something of the list was chosen, be it what is shown already. */
  readonly onChosen: () => void;
  readonly onSearch: () => void;
  readonly onLeave: (() => void) | null;
}

/** Every thread of the person, and the ways to the rest of the page. */
export function Sidebar({ threads, chosen, place, onBegin, onChosen, onSearch, onLeave }: SidebarProps) {
  const [going, setGoing] = useState<ThreadSummary | null>(null);
  const [naming, setNaming] = useState<string | null>(null);
  const rows = useRef(threads.all);
  // the list stands still while a title is typed in it: a field that is moved is left, and half a title would count
  if (naming === null) rows.current = threads.all;
  return (
    <aside class="sidebar" aria-label="Threads">
      <header>
        <a class="brand" href="#" onClick={(event) => (event.preventDefault(), onBegin())}>
          <Mark />
          <span>Threadline</span>
        </a>
        <button type="button" class="quiet" aria-label="Find a thread" title="Find a thread (Ctrl K)" onClick={onSearch}>
          <Search />
        </button>
      </header>
      <button type="button" class="begin" onClick={onBegin}>
        <Plus size={16} /> New thread <kbd>Ctrl ⇧ O</kbd>
      </button>
      <nav class="threads" aria-label="Threads">
        {rows.current.map((one) => (
          <Row
            key={one.thread_id}
            thread={one}
            chosen={one.thread_id === chosen}
            naming={one.thread_id === naming}
            onNaming={(begun) => setNaming(begun ? one.thread_id : null)}
            onChosen={onChosen}
            onDelete={() => setGoing(one)}
            onRenamed={threads.refresh}
          />
        ))}
        {threads.loaded && threads.all.length === 0 && (
          <p class="empty">Your conversations will be here. Write the first message to begin one.</p>
        )}
        {threads.more && (
          <button type="button" class="more" onClick={threads.older}>
            Show older threads
          </button>
        )}
      </nav>
      <footer>
        <a class={`entry${place === "operations" ? " chosen" : ""}`} href="#operations" onClick={onChosen}>
          <Fleet size={16} /> Operations
        </a>
        <Where />
        {onLeave && (
          <button type="button" class="entry" onClick={onLeave}>
            Forget the token
          </button>
        )}
      </footer>
      {going && (
        <Delete
          thread={going}
          onClose={() => setGoing(null)}
          onDeleted={() => {
            threads.refresh();
            if (isAt(going.thread_id)) onBegin(); // by now, and not when it was asked for
          }}
        />
      )}
    </aside>
  );
}

function entered(input: HTMLInputElement | null): void {
  if (!input || document.activeElement === input) return;
  input.focus();
  input.select();
}

const STATES: Readonly<Record<string, string>> = {
  ready: "waits for a worker",
  running: "is being answered",
  waiting: "waits for you",
};

interface RowProps {
  readonly thread: ThreadSummary;
  readonly chosen: boolean;
  /** Whether its title is being typed. */
  readonly naming: boolean;
  readonly onNaming: (begun: boolean) => void;
  readonly onChosen: () => void;
  readonly onDelete: () => void;
  readonly onRenamed: () => void;
}

function Row({ thread, chosen, naming, onNaming, onChosen, onDelete, onRenamed }: RowProps) {
  const client = useClient();
  const doing = useDoing();
  const { thread_id, title, preview, role, state, active } = thread;
  if (naming) {
    const rename = (given: string): void => {
      onNaming(false);
      const name = given.trim();
      if (!name || name === title) return;
      void doing(() => client.thread(thread_id).rename(name)).then(onRenamed);
    };
    return (
      <div class="thread naming">
        <input
          defaultValue={title} // and not its value: each drawing of the list would put the old title back
          maxLength={120}
          aria-label="Title of the thread"
          ref={entered}
          onBlur={(event) => rename(event.currentTarget.value)}
          onKeyDown={(event) => {
            event.stopPropagation();
            if (event.isComposing) return; // the key is for the input method
            if (event.key === "Escape") event.currentTarget.value = title;
            // a field that goes away tells that it is left, too: so that is the one way out
            if (event.key === "Escape" || event.key === "Enter") event.currentTarget.blur();
          }}
        />
      </div>
    );
  }
  return (
    <div class={`thread${chosen ? " chosen" : ""}`} data-state={state}>
      <a
        href={addressOf(thread_id)}
        aria-current={chosen ? "page" : undefined}
        onClick={(event) => {
          event.preventDefault();
          onChosen();
          go(addressOf(thread_id));
        }}
      >
        <span class="first">
          <bdi class="title">{plain(title)}</bdi>
          {state === "idle" ? (
            <time title={wholeTime(active)}>{when(active)}</time>
          ) : (
            <i class={`state ${state}`} role="img" aria-label={STATES[state] ?? state} title={STATES[state] ?? state} />
          )}
        </span>
        <bdi class="preview">
          {role === "user" ? "You: " : ""}
          {plain(preview)}
        </bdi>
      </a>
      <span class="acts">
        <button type="button" class="quiet" aria-label="Rename" title="Rename" onClick={() => onNaming(true)}>
          <Pencil size={14} />
        </button>
        <button type="button" class="quiet" aria-label="Delete" title="Delete" onClick={onDelete}>
          <Trash size={14} />
        </button>
      </span>
    </div>
  );
}

interface DeleteProps {
  readonly thread: ThreadSummary;
  readonly onClose: () => void;
  readonly onDeleted: () => void;
}

function Delete({ thread, onClose, onDeleted }: DeleteProps) {
  const client = useClient();
  const doing = useDoing();
  return (
    <Dialog label="Delete this thread?" onClose={onClose}>
      <h2>Delete this thread?</h2>
      <p>
        <bdi>“{plain(thread.title)}”</bdi> is erased everywhere, for everybody who watches it
        {thread.running ? ", and the answer that is being written stops" : ""}. It cannot be had back.
      </p>
      <div class="choices">
        <button type="button" autofocus onClick={onClose}>
          Keep it
        </button>
        <button
          type="button"
          class="danger"
          onClick={() => {
            onClose();
            void doing(() => client.thread(thread.thread_id).delete()).then((done) => done && onDeleted());
          }}
        >
          Delete
        </button>
      </div>
    </Dialog>
  );
}
