/** What the gateway that served the page says of itself, and the token of who uses it. */

interface Configuration {
  /** Every gateway that the page may use, its own first. */
  readonly gateways: readonly string[];
  /** Whether a token is needed. */
  readonly token: boolean;
}

export const configuration: Configuration = read();

function read(): Configuration {
  const told = document.querySelector<HTMLMetaElement>('meta[name="threadline"]')?.content ?? "{}";
  const { gateways = [], token = false } = parsed(told);
  return { gateways: [...new Set([location.origin, ...gateways])], token };
}

function parsed(text: string): Partial<Configuration> {
  try {
    return JSON.parse(text) as Partial<Configuration>;
  } catch {
    return {}; // served by something else than a gateway
  }
}

const PLACE = "threadline.token";

/** The token, of this tab alone: it is gone when the tab is closed. */
export const token = {
  get: (): string | null => sessionStorage.getItem(PLACE),
  set: (value: string): void => sessionStorage.setItem(PLACE, value),
  forget: (): void => sessionStorage.removeItem(PLACE),
};
