import { useRef } from "preact/hooks";
import { Mark } from "./icons.js";

const TRIES: readonly { readonly say: string; readonly shows: string }[] = [
  { say: "tell me a long story slowly", shows: "Time to pull a plug" },
  { say: "think about rivers", shows: "Thinking, then the answer" },
  { say: "what is 12 * (3 + 4)?", shows: "A tool at work" },
  { say: "order three cups of tea", shows: "It asks before it acts" },
];

/** What an empty conversation says. */
export function Welcome({ onSay }: { readonly onSay: (text: string) => Promise<unknown> }) {
  const saying = useRef(false); // a second tap may come before the first is seen to have done something
  const say = (text: string): void => {
    if (saying.current) return;
    saying.current = true;
    void onSay(text).then(() => (saying.current = false));
  };
  return (
    <section class="welcome">
      <Mark size={52} />
      <h2>What is on your mind?</h2>
      <p>A conversation here goes on whatever breaks: the connection, the gateway, the worker that answers.</p>
      <ul>
        {TRIES.map(({ say: words, shows }) => (
          <li key={words}>
            <button type="button" onClick={() => say(words)}>
              <span>{words}</span>
              <small>{shows}</small>
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}
