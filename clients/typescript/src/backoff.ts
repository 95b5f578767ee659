/** Milliseconds; a gateway that restarts needs about this long to listen again. */
export const FIRST = 100;
/** Milliseconds; a person who waits for the network should not wait much longer than it takes. */
export const LONGEST = 5_000;

/**
 * When to try again: at once, then later and later, at random so that a crowd does not come back as one.
 *
 * "Full jitter", https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
 */
export class Backoff {
  private readonly first: number;
  private tries: number;

  constructor(
    { atOnce = true }: { atOnce?: boolean } = {},
    private readonly chance: () => number = Math.random,
  ) {
    this.first = atOnce ? 0 : 1;
    this.tries = this.first;
  }

  /** Return the milliseconds before the next attempt: 0 at first, at most `LONGEST`. */
  delay(): number {
    const tries = this.tries++;
    if (tries === 0) return 0;
    const ceiling = Math.min(LONGEST, FIRST * 2 ** Math.min(tries - 1, 16));
    // never below a quarter: a delay of almost nothing, drawn twice in a row, is a busy loop
    return ceiling * (0.25 + 0.75 * this.chance());
  }

  /** Forget the failures: something worked. */
  reset(): void {
    this.tries = this.first;
  }
}
