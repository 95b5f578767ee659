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

/** Whether two tokens are of the same person: they say the same but for their times. Nothing is verified here. */
export function samePerson(one: string | null, other: string): boolean {
  const said = claimsOf(one ?? "");
  return said !== null && said === claimsOf(other);
}

function claimsOf(token: string): string | null {
  try {
    const body = (token.split(".")[1] ?? "").replace(/-/g, "+").replace(/_/g, "/");
    const claims = Object.entries(JSON.parse(atob(body)) as object);
    return JSON.stringify(claims.filter(([name]) => !["exp", "iat", "nbf", "jti"].includes(name)).sort());
  } catch {
    return null; // no JSON Web Token
  }
}

const PLACE = "threadline.token";

/** The token, of this tab alone: it is gone when the tab is closed. */
export const token = {
  get: (): string | null => sessionStorage.getItem(PLACE),
  set: (value: string): void => sessionStorage.setItem(PLACE, value),
  forget: (): void => sessionStorage.removeItem(PLACE),
};
