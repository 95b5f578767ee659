/** A token, or a function that returns the one to use now; asked at each connection, and before the token ends. */
export type Token = string | null | (() => string | null | Promise<string | null>);

/** Milliseconds before the end of a token at which a new one is asked for; at most a fifth of the time that is left. */
const MARGIN = 60_000;
/** Milliseconds between two questions, however soon the token ends. */
const SHORTEST = 1_000;
/** Milliseconds; beyond 2^31 a timer fires at once. */
const LONGEST_TIMER = 0x7fffffff;

/** Return the token to use now. */
export async function tokenOf(token: Token): Promise<string | null> {
  return typeof token === "function" ? await token() : token;
}

/** Return when a JSON Web Token ends, in Unix milliseconds, or undefined when it does not say. It is not verified. */
export function endOf(token: string | null): number | undefined {
  try {
    const payload = (token ?? "").split(".")[1] ?? "";
    const claims: unknown = JSON.parse(atob(payload.replace(/-/g, "+").replace(/_/g, "/")));
    const exp = typeof claims === "object" && claims !== null && "exp" in claims ? claims.exp : undefined;
    return typeof exp === "number" ? exp * 1000 : undefined;
  } catch {
    return undefined;
  }
}

/** Calls back once, some time before a token ends. */
export class Alarm {
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly ring: () => void) {}

  /** Set it by a token; one that does not say when it ends never rings. */
  set(token: string | null, now: number = Date.now()): void {
    this.clear();
    const end = endOf(token);
    if (end === undefined) return;
    const left = Math.max(0, end - now);
    const wait = Math.max(SHORTEST, left - Math.min(MARGIN, left / 5));
    this.timer = setTimeout(
      () => (wait > LONGEST_TIMER ? this.set(token) : this.ring()),
      Math.min(wait, LONGEST_TIMER),
    );
  }

  /** Ring later. */
  again(milliseconds: number): void {
    this.clear();
    this.timer = setTimeout(this.ring, milliseconds);
  }

  clear(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
  }
}
