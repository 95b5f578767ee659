/**
 * Markdown, drawn element by element: no HTML is ever made of text. HTML in the text is shown as text, links lead to
 * the web or to a mailbox or are text, and images are shown as links, so that nothing is loaded which could tell on
 * the reader.
 */
import type { Token, Tokens } from "marked";
import type { ComponentChildren } from "preact";
import { memo } from "preact/compat";
import { useRef } from "preact/hooks";
import { NO_BLOCKS, blocksOf } from "./blocks.js";
import { CopyButton } from "./copy.js";
import { plain, safeAddress } from "./plain.js";

/** Draw a text. It may grow: then only its last block is drawn again. */
export function Markdown({ text }: { readonly text: string }) {
  const blocks = useRef(NO_BLOCKS);
  blocks.current = blocksOf(text, blocks.current);
  return (
    <div class="markdown" dir="auto">
      {blocks.current.tokens.map((token, at) => (
        <Block key={at} token={token} depth={1} />
      ))}
    </div>
  );
}

/**
 * Levels of quotes and lists that are drawn, and of emphasis in each: for more there is no room on a phone. The stack of
 * a browser ends before 600.
 */
const DEEPEST = 10;

interface Nested {
  readonly token: Token;
  /** Its level: 1 for a block of the text itself, and for a word of a block. */
  readonly depth: number;
}

const Block = memo(
  function Block({ token, depth }: Nested) {
    return <>{block(token, depth)}</>;
  },
  (before, now) => before.token.type === now.token.type && before.token.raw === now.token.raw,
);

function block(token: Token, depth: number): ComponentChildren {
  if (depth > DEEPEST) return <AsItStands token={token} />;
  switch (token.type) {
    case "heading":
      return heading(token as Tokens.Heading);
    case "paragraph":
      return <p>{inline(token.tokens)}</p>;
    case "text":
      return token.tokens ? inline(token.tokens) : decoded(token.text);
    case "code":
      return <Code text={token.text} language={token.lang ?? ""} />;
    case "blockquote":
      return <blockquote>{blocks(token.tokens, depth)}</blockquote>;
    case "list":
      return list(token as Tokens.List, depth);
    case "table":
      return table(token as Tokens.Table);
    case "hr":
      return <hr />;
    case "space":
    case "def":
      return null;
    default: // html, what could not be read, and whatever else there may be
      return <AsItStands token={token} />;
  }
}

function AsItStands({ token }: { readonly token: Token }) {
  return <p class="as-it-stands">{plain(token.raw.trimEnd())}</p>;
}

/** Draw the blocks inside one of this depth. */
const blocks = (tokens: readonly Token[] | undefined, depth: number): ComponentChildren =>
  tokens?.map((token, at) => <Block key={at} token={token} depth={depth + 1} />);

function heading(token: Tokens.Heading): ComponentChildren {
  const Level = `h${Math.min(6, token.depth + 2)}` as "h3"; // below the page's own
  return <Level>{inline(token.tokens)}</Level>;
}

function list(token: Tokens.List, depth: number): ComponentChildren {
  const items = token.items.map((item, at) => (
    <li key={at} class={item.task ? "task" : undefined}>
      {item.task && <input type="checkbox" checked={item.checked ?? false} disabled aria-label="task" />}
      {blocks(item.tokens.filter((one) => one.type !== "checkbox"), depth)}
    </li>
  ));
  return token.ordered ? <ol start={Number(token.start) || 1}>{items}</ol> : <ul>{items}</ul>;
}

function table(token: Tokens.Table): ComponentChildren {
  const cell = (Cell: "th" | "td", one: Tokens.TableCell, at: number) => (
    <Cell key={at} class={one.align ? `align-${one.align}` : undefined}>
      {inline(one.tokens)}
    </Cell>
  );
  return (
    <div class="table">
      <table>
        <thead>
          <tr>{token.header.map((one, at) => cell("th", one, at))}</tr>
        </thead>
        <tbody>
          {token.rows.map((row, at) => (
            <tr key={at}>{row.map((one, column) => cell("td", one, column))}</tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** Draw the words of a block, or of something of this depth in it. */
function inline(tokens: readonly Token[] | undefined, depth = 0): ComponentChildren {
  return tokens?.map((token, at) => <Inline key={at} token={token} depth={depth + 1} />);
}

function Inline({ token, depth }: Nested) {
  if (depth > DEEPEST) return <>{plain(token.raw)}</>;
  switch (token.type) {
    case "text":
      return <>{"tokens" in token && token.tokens ? inline(token.tokens, depth) : decoded(token.text)}</>;
    case "escape":
      return <>{plain(token.text)}</>;
    case "strong":
      return <strong>{inline(token.tokens, depth)}</strong>;
    case "em":
      return <em>{inline(token.tokens, depth)}</em>;
    case "del":
      return <del>{inline(token.tokens, depth)}</del>;
    case "codespan":
      return <code>{plain(token.text)}</code>;
    case "br":
      return <br />;
    case "link":
      return <Link href={token.href}>{inline(token.tokens, depth)}</Link>;
    case "image":
      return <Link href={token.href}>{plain(`[image: ${token.text || "without a name"}]`)}</Link>;
    default:
      return <>{plain(token.raw)}</>;
  }
}

function Link({ href, children }: { readonly href: string; readonly children: ComponentChildren }) {
  const address = safeAddress(href);
  if (address === null) return <>{children}</>;
  return (
    <a href={address} title={plain(address)} target="_blank" rel="noopener noreferrer nofollow">
      {children}
    </a>
  );
}

function Code({ text, language }: { readonly text: string; readonly language: string }) {
  return (
    <figure class="code">
      <figcaption>
        <span>{plain(language.split(/\s/)[0] || "text")}</span>
        <CopyButton text={text} label="Copy the code" />
      </figcaption>
      <pre dir="ltr">
        <code>{plain(text)}</code>
      </pre>
    </figure>
  );
}

const ENTITIES: Readonly<Record<string, string>> = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0" };

/** Markdown may name a character (`&lt;`); as text of an element it is that character, and nothing more. */
function decoded(text: string): string {
  const clear = text.includes("&")
    ? text.replace(/&(?:#(\d{1,7})|#x([0-9a-f]{1,6})|([a-z]{2,4}));/gi, (whole, decimal, hex, name) => {
        if (name) return ENTITIES[name.toLowerCase()] ?? whole;
        const code = decimal ? Number(decimal) : Number.parseInt(hex, 16);
        return code > 0 && code <= 0x10ffff ? String.fromCodePoint(code) : "\ufffd";
      })
    : text;
  return plain(clear);
}
