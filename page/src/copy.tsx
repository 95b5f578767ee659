import { useEffect, useState } from "preact/hooks";
import { Check, Copy } from "./icons.js";

/** A button that copies a text, and says that it has. */
export function CopyButton({ text, label = "Copy" }: { readonly text: string; readonly label?: string }) {
  const [done, setDone] = useState(false);
  useEffect(() => {
    if (!done) return;
    const timer = setTimeout(() => setDone(false), 1500);
    return () => clearTimeout(timer);
  }, [done]);
  return (
    <button
      type="button"
      class="quiet"
      aria-label={done ? "Copied" : label}
      title={done ? "Copied" : label}
      onClick={() => void copied(text).then(setDone)}
    >
      {done ? <Check size={15} /> : <Copy size={15} />}
    </button>
  );
}

/** Copy, also where the page is not served by TLS or from this machine, and so has no clipboard. */
async function copied(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "offstage";
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}
