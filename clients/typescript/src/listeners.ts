/** Who wants to hear of each change. What one of them throws is the program's: it is reported, and harms nobody else. */
export class Listeners {
  private readonly all = new Set<() => void>();

  /** Call back from now on. Returns how to stop that. One listener may be given twice. */
  add(listener: () => void): () => void {
    const mine = (): void => listener();
    this.all.add(mine);
    return () => this.all.delete(mine);
  }

  /** Call back all of them. */
  tell(): void {
    for (const listener of [...this.all]) {
      try {
        listener();
      } catch (error) {
        report(error);
      }
    }
  }
}

/** As an error that nobody has caught: in the console of a browser; Node ends, unless the program says otherwise. */
function report(error: unknown): void {
  if (typeof globalThis.reportError === "function") globalThis.reportError(error);
  else
    queueMicrotask(() => {
      throw error;
    });
}
