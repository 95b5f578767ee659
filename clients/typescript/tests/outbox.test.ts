import { expect, test, vi } from "vitest";
import type { Connection } from "../src/connection.js";
import { Outbox } from "../src/outbox.js";

test("a message that is given up in the moment of its acknowledgement takes no other one with it", async () => {
  const sent: { readonly message: string; readonly acknowledge: (answer: object) => void }[] = [];
  const call = (_: string, { message }: { message: string }): Promise<object> =>
    new Promise((acknowledge) => sent.push({ message, acknowledge }));
  const outbox = new Outbox({ call } as unknown as Connection, "tea");
  const first = outbox.put("one", {});
  const second = outbox.put("two", {});
  sent[0]?.acknowledge({ ok: true, request_id: "r1" });
  expect(outbox.giveUp(first.client_message_id, new Error("given up"))).toBe(true);
  await expect(first.started).rejects.toThrow("given up");
  await vi.waitFor(() => expect(sent.map(({ message }) => message)).toEqual(["one", "two"]));
  sent[1]?.acknowledge({ ok: true, request_id: "r2" });
  expect(await second.started).toMatchObject({ request_id: "r2" });
});
