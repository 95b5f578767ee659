/** The gateways that tests/clients/typescript/test_typescript.py has started, and a cable to them that can be cut. */
import { createHmac } from "node:crypto";
import { createServer, connect as dial } from "node:net";
import type { AddressInfo, Server, Socket } from "node:net";
import { connect } from "../src/index.js";
import type { Client, ConnectOptions, Item, ThreadState } from "../src/index.js";
import type { Thread } from "../src/index.js";

interface Fleet {
  readonly urls: readonly string[];
  readonly pids: readonly number[];
  readonly store: number;
  readonly secret: string;
}

/** What runs, or null when the tests are run without it. */
export const fleet: Fleet | null = process.env["THREADLINE_FLEET"]
  ? (JSON.parse(process.env["THREADLINE_FLEET"]) as Fleet)
  : null;

/** Return a token of the fleet for so many seconds. */
export function mint(seconds: number, subject = "ada"): string {
  const encode = (part: object): string => Buffer.from(JSON.stringify(part)).toString("base64url");
  const now = Math.floor(Date.now() / 1000);
  const text = `${encode({ alg: "HS256", typ: "JWT" })}.${encode({ sub: subject, iat: now, exp: now + seconds })}`;
  return `${text}.${createHmac("sha256", fleet?.secret ?? "").update(text).digest("base64url")}`;
}

const clients: Client[] = [];
const cables: Cable[] = [];

/** Return a client, closed at the end of the test. */
export function open(options: ConnectOptions = {}): Client {
  const client = connect({ urls: fleet?.urls ?? [], token: () => mint(600), ...options });
  clients.push(client);
  return client;
}

/** Close what the test has opened. */
export async function closeAll(): Promise<void> {
  for (const client of clients.splice(0)) client.close();
  await Promise.all(cables.splice(0).map((cable) => cable.close()));
}

let threads = 0;

/** Return the id of a thread that nobody has used. */
export function newThread(): string {
  threads += 1;
  return `ts-${process.pid}-${Date.now()}-${threads}`;
}

/** Wait until the state of a thread is so. */
export function until(thread: Thread, holds: (state: ThreadState) => boolean): Promise<ThreadState> {
  return new Promise((resolve) => {
    const look = (): void => {
      if (!holds(thread.state)) return;
      queueMicrotask(() => stop());
      resolve(thread.state);
    };
    const stop = thread.subscribe(look);
    look();
  });
}

/** Wait until the client's status is so. */
export function status(client: Client, state: Client["status"]["state"]): Promise<void> {
  return new Promise((resolve) => {
    const look = (): void => {
      if (client.status.state !== state) return;
      queueMicrotask(() => stop());
      resolve();
    };
    const stop = client.subscribe(look);
    look();
  });
}

/** What is wrong with a stream: a hole, a double, events of two logs; undefined when all is well. */
export function wrong(items: readonly Item[]): string | undefined {
  let epoch: string | undefined;
  let expected = 0;
  for (const item of items) {
    if (item.event === "snapshot") {
      ({ epoch, offset: expected } = item);
      expected += 1;
      continue;
    }
    const first = "first_offset" in item && item.first_offset !== undefined ? item.first_offset : item.offset;
    if (epoch !== undefined && epoch !== "" && item.epoch !== epoch) return `epoch ${item.epoch} in ${epoch}`;
    if (expected > 1 && first !== expected) return `${item.event} at ${first}, expected ${expected}`;
    epoch = item.epoch;
    expected = item.offset + 1;
  }
  return undefined;
}

/** A cable from a port of its own to a gateway: pulled out, nothing passes and nobody is told; then it is plugged in. */
export class Cable {
  private readonly ends = new Set<Socket>();
  private out: boolean;
  private server: Server;
  private port = 0;

  private constructor(
    private readonly target: URL,
    out: boolean,
  ) {
    this.out = out;
    this.server = this.listener();
  }

  static async to(url: string, { out = false } = {}): Promise<Cable> {
    const cable = new Cable(new URL(url), out);
    cables.push(cable);
    await new Promise<void>((resolve) => cable.server.listen(0, "127.0.0.1", resolve));
    cable.port = (cable.server.address() as AddressInfo).port;
    return cable;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  /** Pull it out. */
  pull(): void {
    this.out = true;
    for (const end of this.ends) end.destroy();
  }

  /** Plug it in. */
  plug(): void {
    this.out = false;
  }

  async close(): Promise<void> {
    this.pull();
    await new Promise((resolve) => this.server.close(resolve));
  }

  private listener(): Server {
    return createServer((near) => {
      if (this.out) {
        near.destroy();
        return;
      }
      const far = dial(Number(this.target.port), this.target.hostname);
      for (const [end, other] of [[near, far], [far, near]] as const) {
        this.ends.add(end);
        end.on("error", () => other.destroy());
        end.on("close", () => {
          this.ends.delete(end);
          other.destroy();
        });
        end.pipe(other);
      }
    });
  }
}
