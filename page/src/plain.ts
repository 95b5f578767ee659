/** Text of others, made safe to look at. */

/** Characters that turn the direction of what follows: with them, text can be made to look like other text. */
const TURNING = /[\u202a-\u202e\u2066-\u2069]/g;

/** Show the characters that turn text around, instead of obeying them. */
export function plain(text: string): string {
  return text.replace(TURNING, (character) => `[U+${character.charCodeAt(0).toString(16).toUpperCase()}]`);
}

/** Return an address if a link may lead there, else null: no `javascript:`, no `data:`, nothing of this page itself. */
export function safeAddress(href: string): string | null {
  // what a browser would skip inside a scheme must not hide one from us
  const tidy = href.replace(/[\u0000-\u0020\u007f-\u00a0\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff]/g, "");
  try {
    const url = new URL(tidy);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}
