/** What moved between two lists, what a score is made of, and both in words. Pure functions over the answers. */

import { count } from "./dom.js";

export const SOURCES = ["base", "history", "like", "dislike"];

export const SOURCE_NAMES = { base: "in general", history: "history", like: "likes", dislike: "dislikes" };

/** A text that is the same for the same item: raw ids are text or whole numbers. */
export const itemKey = (item) => JSON.stringify(item.item_id);

/**
 * How `now` came from `before`: `{moves: Map of item key -> places, left: items}`. Places are positive upwards, 0 for
 * the same rank and null for an item that is new; `left` are the items of `before` that are gone.
 */
export function movesBetween(before, now) {
  const old = new Map(before.map((item) => [itemKey(item), item.rank]));
  const moves = new Map();
  for (const item of now) {
    const rank = old.get(itemKey(item));
    moves.set(itemKey(item), rank === undefined ? null : rank - item.rank);
  }
  return { moves, left: before.filter((item) => !moves.has(itemKey(item))) };
}

/** `4 new, 3 moved`, for the line above the list. */
export function movesInWords({ moves }) {
  const places = [...moves.values()];
  const fresh = places.filter((move) => move === null).length;
  const moved = places.filter((move) => move !== null && move !== 0).length;
  const said = [];
  if (fresh) said.push(`${fresh} new`);
  if (moved) said.push(`${moved} moved`);
  return said.length ? said.join(", ") : "nothing moved";
}

/** One move in words, for those who do not see the arrow. */
export function moveInWords(places) {
  if (places === null) return "new in the list";
  if (places === 0) return "same place";
  return `${places > 0 ? "up" : "down"} ${count(Math.abs(places), "place")}`;
}

/** The sum of the contributions of each source: `{base, history, like, dislike}`. */
export function totals(contributions) {
  const sums = { base: 0, history: 0, like: 0, dislike: 0 };
  for (const { source, amount } of contributions) sums[source] += amount;
  return sums;
}

/** `{low, high}`: how far the bars of a list reach to both sides of 0, so that all share one scale. */
export function extent(items) {
  let low = 0;
  let high = 0;
  for (const item of items) {
    const amounts = Object.values(totals(item.contributions));
    low = Math.min(low, sum(amounts.filter((amount) => amount < 0)));
    high = Math.max(high, sum(amounts.filter((amount) => amount > 0)));
  }
  return { low, high };
}

/** The sources that gave anything to any score of a list: an amount that reads other than 0. */
export function sourcesAtWork(items) {
  const parts = items.flatMap((item) => item.contributions ?? []);
  const reads = items.every((item) => item.contributions) ? extent(items) : { low: 0, high: 0 };
  return SOURCES.filter((source) => parts.some((part) => part.source === source && Number(plain(Math.abs(part.amount), reads)) !== 0));
}

/**
 * The contributions to one score as `{source, label, amount}`, by source and then largest first, of some sources. Beyond
 * `most` of one source the rest is one row, so that the amounts still add up to the score.
 */
export function rows(contributions, sources = SOURCES, most = 4) {
  const found = [];
  for (const source of sources) {
    const own = contributions.filter((part) => part.source === source);
    own.sort((one, other) => Math.abs(other.amount) - Math.abs(one.amount));
    const shown = own.length > most + 1 ? own.slice(0, most) : own;
    const rest = own.slice(shown.length);
    for (const part of shown) found.push({ source, label: labelOf(part), amount: part.amount });
    if (rest.length) found.push({ source, label: restOf(source, rest.length), amount: sum(rest.map((p) => p.amount)) });
  }
  return found;
}

/** A signed number with the decimals that tell the scores of a list apart. */
export function signed(amount, { low, high }) {
  const text = plain(Math.abs(amount), { low, high });
  if (Number(text) === 0) return text;
  return `${amount < 0 ? "−" : "+"}${text}`;
}

/** A number with as many decimals as `signed`. */
export function plain(amount, { low, high }) {
  const span = Math.max(high, -low);
  const decimals = span < 1 ? 3 : span < 100 ? 2 : 1;
  return amount.toFixed(decimals).replace("-", "−");
}

/**
 * How the wishes were honoured, as sentences of `{word, text}`: the word is `Steered`, `Filtered` or `Appended`.
 * `scale` is the strength that acted, null for a model that has none.
 */
export function honouredInWords({ honoured, wishes, guidance_scale: scale }) {
  const likes = wishes.likes.length;
  const dislikes = wishes.dislikes.length;
  if (!likes && !dislikes) return [{ word: null, text: "None yet: this list follows from the history alone." }];
  const said = [];
  const pulled = honoured.likes === "steered" ? likes : 0;
  const pushed = honoured.dislikes === "steered" ? dislikes : 0;
  if (scale === 0) said.push(unsteered(dislikes));
  else if (pulled || pushed) said.push(steered(pulled, pushed));
  if (likes && honoured.likes === "history") {
    said.push({ word: "Appended.", text: "This model cannot be pulled, so what you like was added to the history." });
  }
  if (dislikes && honoured.dislikes === "filtered" && scale !== 0) {
    said.push({ word: "Filtered.", text: "This model cannot be pushed away, so what you dislike is only left out." });
  }
  return said;
}

function steered(likes, dislikes) {
  const pull = likes && `pulled towards ${likes === 1 ? "what you like" : `your ${likes} likes`}`;
  const push = dislikes && `pushed away from ${dislikes === 1 ? "what you dislike" : `your ${dislikes} dislikes`}`;
  const never = dislikes ? "; a disliked item itself never appears" : "";
  return { word: "Steered.", text: `The list is ${[pull, push].filter(Boolean).join(" and ")}${never}.` };
}

function unsteered(dislikes) {
  return { word: "Strength 0.", text: `Nothing pulls or pushes${dislikes ? "; what you dislike is only left out" : ""}.` };
}

/** What the bars under "Why" mean, for the sources that are shown. */
export function barsInWords(sources) {
  const unlike = sources.includes("dislike") ? " A dislike can lift items that are unlike it." : "";
  return `A bar to the right moved this item up, a bar to the left moved it down.${unlike}`;
}

function labelOf({ source, name, category, item_id: id }) {
  if (source === "base") return "In general";
  if (source === "history" && id === null) return "The history as a whole"; // a model may not take it apart
  const label = name ?? category ?? String(id);
  return source === "history" ? label : `${source === "like" ? "Like" : "Dislike"}: ${label}`;
}

function restOf(source, n) {
  return source === "history" ? `${n} more of the history` : `${n} more ${SOURCE_NAMES[source]}`;
}

function sum(numbers) {
  return numbers.reduce((total, number) => total + number, 0);
}
