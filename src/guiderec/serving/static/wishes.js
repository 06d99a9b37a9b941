/**
 * Wishes as values: lists of {kind: "like" | "dislike", item} or {kind, category}. Nothing here touches page or network.
 *
 * A target is a wish without its kind: {item: raw id} or {category: name}. Item ids are text or whole numbers, and 7 is
 * another item than "7".
 */

/** A text that is the same for the same target, and for no other. */
export function keyOf(target) {
  return target.category === undefined ? `item ${JSON.stringify(target.item)}` : `category ${target.category}`;
}

/** The bare target, as the server takes it. */
export function targetOf({ item, category }) {
  return category === undefined ? { item } : { category };
}

/** "like", "dislike" or null. */
export function kindFor(wishes, target) {
  return wishes.find((wish) => keyOf(wish) === keyOf(target))?.kind ?? null;
}

/** The wishes with this target liked or disliked; null takes its wish away. The newest wish is the last. */
export function withWish(wishes, target, kind) {
  const others = wishes.filter((wish) => keyOf(wish) !== keyOf(target));
  return kind === null ? others : [...others, { kind, ...targetOf(target) }];
}

/** `{likes, dislikes}` as POST /recommend takes them. */
export function asRequest(wishes) {
  const of = (kind) => wishes.filter((wish) => wish.kind === kind).map(targetOf);
  return { likes: of("like"), dislikes: of("dislike") };
}

/** The wishes that the server says it acted on, in the order in which they were made here, where they were. */
export function fromAnswer({ likes, dislikes }, known) {
  const acted = [
    ...likes.map((target) => ({ kind: "like", ...targetOf(target) })),
    ...dislikes.map((target) => ({ kind: "dislike", ...targetOf(target) })),
  ];
  const place = new Map(known.map((wish, index) => [keyOf(wish), index]));
  const at = (wish) => place.get(keyOf(wish)) ?? -1;
  return acted.sort((one, other) => at(one) - at(other));
}

/**
 * What to tell the server so that the items seen (raw ids, in order) become `to` instead of `from`. Taking an item back
 * takes back all that was said of it, so what is seen all the same is said again.
 */
export function seenDifferences(from, to) {
  const same = from.findIndex((item, index) => item !== to[index]);
  const kept = same < 0 ? from.length : same;
  const gone = new Set(from.slice(kept));
  const again = to.filter((item, index) => index >= kept || gone.has(item));
  return [...[...gone].map((item) => ({ item, kind: "unseen" })), ...again.map((item) => ({ item, kind: "seen" }))];
}

/** What to tell the server so that `from` becomes `to`: targets with the kind "like", "dislike" or "clear". */
export function differences(from, to) {
  const gone = from.filter((wish) => kindFor(to, wish) === null).map((wish) => ({ ...targetOf(wish), kind: "clear" }));
  const come = to.filter((wish) => kindFor(from, wish) !== wish.kind);
  return [...gone, ...come.map((wish) => ({ ...targetOf(wish), kind: wish.kind }))];
}
