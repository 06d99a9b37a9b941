/**
 * Wishes as values: lists of {kind: "like" | "dislike", item} or {kind, category}. Nothing here touches page or network.
 *
 * A target is a wish without its kind: {item: raw id} or {category: name}. Item ids are text or whole numbers, and 7 is
 * another item than "7".
 *
 * A turn is a target with what it was and what it becomes: {item, from: null, to: "like"}. Of a wish these are "like",
 * "dislike" and null; whether an item was seen is turned apart from that, between "unseen" and "seen".
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

/** The turn that takes another one back. */
export function backwards({ from, to, ...target }) {
  return { ...target, from: to, to: from };
}

/** Whether two turns are about the same wish, or both about whether the same item was seen. */
export function sameThing(one, other) {
  return isSight(one) === isSight(other) && keyOf(one) === keyOf(other);
}

/** `{wishes, seen}` after the turns; `seen` are raw ids. The newest wish is the last. */
export function turned({ wishes, seen }, turns) {
  for (const turn of turns) {
    if (turn.to === "seen") seen = [...seen, turn.item];
    else if (turn.to === "unseen") seen = seen.filter((item) => item !== turn.item);
    else wishes = withWish(wishes, turn, turn.to);
  }
  return { wishes, seen };
}

/** Whether a turn is what holds now: nothing has turned its target since. */
export function holds({ wishes, seen }, turn) {
  return isSight(turn) ? seen.includes(turn.item) === (turn.to === "seen") : kindFor(wishes, turn) === turn.to;
}

/** What tells the server of a turn. */
export function asFeedback(turn) {
  return { ...targetOf(turn), kind: turn.to ?? "clear" };
}

function isSight({ to }) {
  return to === "seen" || to === "unseen";
}
