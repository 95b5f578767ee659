import { useState } from "preact/hooks";
import { Mark } from "./icons.js";

/** Asks for a token. It is kept for this tab alone. */
export function SignIn({ onToken, refused }: { readonly onToken: (token: string) => void; readonly refused?: string }) {
  const [value, setValue] = useState("");
  const given = value.trim();
  return (
    <main class="signin">
      <form
        onSubmit={(event) => {
          event.preventDefault();
          if (given) onToken(given);
        }}
      >
        <Mark size={44} />
        <h1>Threadline</h1>
        <p>This gateway asks for a token. It stays in this tab, and is gone when you close it.</p>
        {refused && <p class="problem">{refused}</p>}
        <label>
          <span>Token</span>
          <input
            type="password"
            value={value}
            autocomplete="off"
            spellcheck={false}
            autofocus
            placeholder="eyJ…"
            onInput={(event) => setValue(event.currentTarget.value)}
          />
        </label>
        <button class="primary" disabled={!given}>
          Open
        </button>
      </form>
    </main>
  );
}
