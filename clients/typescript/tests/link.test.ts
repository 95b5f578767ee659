import { createHash } from "node:crypto";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { expect, test } from "vitest";
import { ThreadlineError } from "../src/errors.js";
import { Link, LinkLost } from "../src/link.js";

const GREETING = JSON.stringify({ sid: "a", upgrades: [], pingInterval: 25_000, pingTimeout: 20_000, maxPayload: 1e6 });

const REFUSAL = '44{"message":"unauthorized","data":{"code":"unauthorized","message":"no","retryable":false}}';

function text(words: string): Buffer {
  return Buffer.concat([Buffer.from([0x81, words.length]), Buffer.from(words)]);
}

/** Open a link to a node that takes the WebSocket, says `words` and ends the transport; return how that ends. */
async function openedAt(
  words: string,
  when: "at once" | "asked to let us in" | "refused" | "let in and sent away",
): Promise<unknown> {
  const server = createServer().on("upgrade", (request, socket) => {
    const magic = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    const accept = createHash("sha1").update(`${request.headers["sec-websocket-key"]}${magic}`).digest("base64");
    socket.on("error", () => undefined);
    socket.write(
      "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
        `Sec-WebSocket-Accept: ${accept}\r\n\r\n`,
    );
    if (words) socket.write(text(words));
    if (when === "at once") socket.end();
    else if (when === "refused") socket.once("data", () => socket.write(text(REFUSAL)));
    else if (when === "let in and sent away")
      socket.once("data", () => socket.write(Buffer.concat([text('40{"sid":"b"}'), text("41")])));
    else socket.once("data", () => socket.destroy());
  });
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  const { port } = server.address() as AddressInfo;
  try {
    return await Link.open(`http://127.0.0.1:${port}`, null, ["websocket"], () => undefined).catch((error) => error);
  } finally {
    server.close();
  }
}

// A node that stops while the balancer still sends clients there; nobody waits for an answer that cannot come.
test.each([
  ["behind its greeting", `0${GREETING}`, "asked to let us in"],
  ["before its greeting", "", "at once"],
  ["with nonsense", "?", "at once"],
] as const)("a node that ends the transport in the handshake, %s, is left at once", async (_, words, when) => {
  const found = await openedAt(words, when);
  expect(found).toBeInstanceOf(LinkLost);
  expect(String(found)).not.toMatch(/in time|timeout/);
});

test("a refusal is told, although the engine is closed first", async () => {
  const found = await openedAt(`0${GREETING}`, "refused");
  expect(found).toBeInstanceOf(ThreadlineError);
  expect(found).toMatchObject({ code: "unauthorized", retryable: false });
});

test("a node that lets us in and sends us away in one breath is left", async () => {
  const found = await openedAt(`0${GREETING}`, "let in and sent away");
  if (found instanceof Link) await found.gone;
  else expect(found).toBeInstanceOf(LinkLost);
});
