/** What is written in each thread and not sent yet: it stays while the person looks at something else. */
import { useCallback, useEffect, useState } from "preact/hooks";

export class Drafts {
  private readonly texts = new Map<string, string>();
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

  /** Give back what was not sent after all, unless something else is written there by now. */
  giveBack(thread_id: string, text: string): void {
    if (this.of(thread_id) === "") this.write(thread_id, text);
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
