/**
 * Markdown as blocks. While a text grows, only its last block is read again: what stands before it stays the same
 * object, and is not drawn again.
 */
import { Marked } from "marked";
import type { Token } from "marked";

const marked = new Marked({ gfm: true, breaks: true });

export interface Blocks {
  readonly text: string;
  readonly tokens: readonly Token[];
}

export const NO_BLOCKS: Blocks = { text: "", tokens: [] };

/** Return the blocks of a text; `before`, those of its beginning, spare the work that was done for them. */
export function blocksOf(text: string, before: Blocks = NO_BLOCKS): Blocks {
  const tidy = text.replace(/\r\n?/g, "\n");
  if (tidy === before.text) return before;
  const stands = before.text !== "" && tidy.startsWith(before.text) ? before.tokens.slice(0, settled(before.tokens)) : [];
  const at = stands.reduce((length, token) => length + token.raw.length, 0);
  return { text: tidy, tokens: [...stands, ...marked.lexer(tidy.slice(at))] };
}

/** How many blocks cannot change any more, whatever is added: all but the last one, and the empty lines around it. */
function settled(tokens: readonly Token[]): number {
  let last = tokens.length - 1;
  while (last > 0 && tokens[last]?.type === "space") last -= 1;
  return Math.max(0, last);
}
