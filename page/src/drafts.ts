/** What is written in each thread and not sent yet: it stays while the person looks at something else. */
import { useCallback, useEffect, useState } from "preact/hooks";

const BETWEEN = "\n\n";

export class Drafts {
  private readonly texts = new Map<string, string>();
  /** What was given back, at the beginning of the text as long as nobody changes it. */
  private readonly given = new Map<string, string>();
  private readonly listeners = new Set<() => void>();

  /** Return what is written in a thread. */
  of(thread_id: string): string {
    return this.texts.get(thread_id) ?? "";
  }

  write(thread_id: string, text: string): void {
    if (text === "") this.texts.delete(thread_id);
    else this.texts.set(thread_id, text);
    for (const listener of [...this.listeners]) listener();
  }

  /** Give back what was not sent after all: behind what was given back before, in front of what is written by now. */
  giveBack(thread_id: string, text: string): void {
    const written = this.of(thread_id);
    const before = this.given.get(thread_id) ?? "";
    const stands = before !== "" && (written === before || written.startsWith(before + BETWEEN));
    const given = stands ? before + BETWEEN + text : text;
    const rest = stands ? written.slice(before.length + BETWEEN.length) : written;
    this.given.set(thread_id, given);
    this.write(thread_id, rest === "" ? given : given + BETWEEN + rest);
  }

  subscribe(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }
}

/** Return what is written in a thread, and how to write something else. */
export function useDraft(drafts: Drafts, thread_id: string): readonly [string, (text: string) => void] {
  const [, setText] = useState(drafts.of(thread_id));
  useEffect(() => {
    const look = (): void => setText(drafts.of(thread_id));
    look(); // what came between drawing and this
    return drafts.subscribe(look);
  }, [drafts, thread_id]);
  return [drafts.of(thread_id), useCallback((text: string) => drafts.write(thread_id, text), [drafts, thread_id])];
}
