import { useMemo, useState } from "preact/hooks";
import type { ThreadSummary } from "@threadline/client";
import { Dialog } from "./dialog.js";
import { Chat, Fleet, Plus, Search } from "./icons.js";
import { addressOf, go } from "./place.js";
import { plain } from "./plain.js";
import { when } from "./times.js";

interface PaletteProps {
  readonly threads: readonly ThreadSummary[];
  readonly onBegin: () => void;
  readonly onClose: () => void;
}

interface Choice {
  readonly key: string;
  readonly icon: preact.ComponentChildren;
  readonly text: string;
  readonly beside: string;
  readonly act: () => void;
}

const nearest = (row: HTMLLIElement | null): void => row?.scrollIntoView({ block: "nearest" });

/** Finds a thread by what its title or its last message holds (Ctrl K). */
export function Palette({ threads, onBegin, onClose }: PaletteProps) {
  const [words, setWords] = useState("");
  const [at, setAt] = useState(0);
  const choices = useMemo<readonly Choice[]>(() => {
    const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (text: string): boolean => wanted.every((word) => text.toLowerCase().includes(word));
    const fixed: Choice[] = [
      { key: "+", icon: <Plus size={16} />, text: "New thread", beside: "Ctrl ⇧ O", act: onBegin },
      { key: "o", icon: <Fleet size={16} />, text: "Operations", beside: "", act: () => go("#operations") },
    ];
    const found = threads
      .filter((one) => fits(`${one.title} ${one.preview}`))
      .map((one) => ({
        key: one.thread_id,
        icon: <Chat size={16} />,
        text: plain(one.title),
        beside: when(one.active),
        act: () => go(addressOf(one.thread_id)),
      }));
    return [...fixed.filter((one) => fits(one.text)), ...found].slice(0, 60);
  }, [words, threads, onBegin]);
  const place = Math.min(at, choices.length - 1);
  const choose = (choice: Choice | undefined): void => {
    if (!choice) return;
    onClose();
    choice.act();
  };
  return (
    <Dialog label="Find a thread" kind="palette" onClose={onClose}>
      <label class="find">
        <Search />
        <input
          autofocus
          placeholder="Find a thread…"
          value={words}
          role="combobox"
          aria-expanded="true"
          aria-controls="choices"
          onInput={(event) => {
            setWords(event.currentTarget.value);
            setAt(0);
          }}
          onKeyDown={(event) => {
            if (event.isComposing) return; // the key is for the input method
            const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
            if (step !== undefined) {
              event.preventDefault();
              setAt((place + step + choices.length) % Math.max(1, choices.length));
            } else if (event.key === "Enter") {
              event.preventDefault(); // it would begin a line in the thread that is shown by then
              choose(choices[place]);
            }
          }}
        />
      </label>
      <ul id="choices" role="listbox">
        {choices.map((choice, index) => (
          <li
            key={choice.key}
            role="option"
            aria-selected={index === place}
            ref={index === place ? nearest : null}
            onMouseMove={() => setAt(index)}
            onClick={() => choose(choice)}
          >
            {choice.icon}
            <bdi>{choice.text}</bdi>
            <span>{choice.beside}</span>
          </li>
        ))}
        {choices.length === 0 && <li class="none">No thread has these words.</li>}
      </ul>
    </Dialog>
  );
}
