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

/** The type of a token that is a text as it stands. */
const UNREAD = "unread";

const asItStands = (text: string): Token => ({ type: UNREAD, raw: text });

/** Return the blocks of a text; `before`, those of its beginning, spare the work that was done for them. */
export function blocksOf(text: string, before: Blocks = NO_BLOCKS): Blocks {
  const tidy = text.replace(/\r\n?/g, "\n");
  if (tidy === before.text) return before;
  const goesOn = before.text !== "" && tidy.startsWith(before.text);
  const stands = goesOn ? before.tokens.slice(0, settled(before.tokens)) : [];
  const rest = tidy.slice(stands.reduce((length, token) => length + token.raw.length, 0));
  // what could not be read before its end cannot be read with more behind it: each try costs up to a second
  const unread = goesOn && before.tokens.at(-1)?.type === UNREAD;
  return { text: tidy, tokens: [...stands, ...(unread ? [asItStands(rest)] : read(rest))] };
}

function read(text: string): readonly Token[] {
  try {
    return marked.lexer(text);
  } catch {
    return [asItStands(text)]; // its quotes, lists or words are nested deeper than the stack
  }
}

/** How many blocks cannot change any more, whatever is added: all but the last one, and the empty lines around it. */
function settled(tokens: readonly Token[]): number {
  let last = tokens.length - 1;
  while (last > 0 && tokens[last]?.type === "space") last -= 1;
  return Math.max(0, last);
}
