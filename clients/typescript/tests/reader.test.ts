import { expect, test } from "vitest";
import { absent, type Item } from "../src/events.js";
import { Reader } from "../src/reader.js";

const item = (event: string): Item => ({ ...absent("tea"), event }) as unknown as Item;
const opened = (): Reader => new Reader(() => absent("tea"), () => {});

test("what is asked for while another waits gets an item of its own, in the order of asking", async () => {
  const reader = opened();
  const asked = Promise.all([reader.next(), reader.next(), reader.next()]);
  for (const name of ["a", "b", "c"]) reader.put(item(name));
  expect((await asked).map(({ value }) => value?.event)).toEqual(["a", "b", "c"]);
});

test("whoever waits is told of the end, however many they are", async () => {
  const reader = opened();
  const asked = Promise.all([reader.next(), reader.next()]);
  await reader.return();
  expect((await asked).map(({ done }) => done)).toEqual([true, true]);
});

test("an error is thrown once, and whoever else waits is told of the end", async () => {
  const reader = opened();
  const asked = Promise.allSettled([reader.next(), reader.next()]);
  reader.fail(new Error("gone"));
  expect(await asked).toMatchObject([{ status: "rejected" }, { status: "fulfilled", value: { done: true } }]);
});
