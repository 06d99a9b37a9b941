/**
 * The list of recommendations as cards. One card is in the tab order at a time (roving focus); arrow keys go from card
 * to card, letters act on the card that has the focus. Cards of items that stay are kept and glide to their new place
 * (FLIP: measure, reorder, play the difference); those of items that left fade out behind.
 */

import { SOURCES, SOURCE_NAMES, barsInWords, extent, itemKey, moveInWords, plain, rows, signed, totals } from "./compare.js";
import { icon, make, setAttribute, wantsStillness } from "./dom.js";
import { kindFor } from "./wishes.js";

const GLIDE = { duration: 380, easing: "cubic-bezier(.2, .7, .2, 1)" };
const FADE = { duration: 220, easing: "ease-out" };
const LETTERS = { l: "like", d: "dislike" };
const TITLES = { like: "Like (L)", dislike: "Dislike (D)", seen: "Seen (S)" };

let cards = 0;

/** The cards of one list. `onWish(target, kind, label)` is told of every wish; null takes a wish back. `onSeen(item)` hears what is known. */
export class CardList {
  constructor({ list, ghosts, onWish, onSeen, onUndo }) {
    this.list = list;
    this.ghosts = ghosts;
    this.onWish = onWish;
    this.onSeen = onSeen;
    this.onUndo = onUndo;
    this.cards = new Map();
    this.active = 0;
    list.addEventListener("keydown", (event) => this.#onKey(event));
    list.addEventListener("focusin", (event) => this.#onFocus(event));
  }

  /**
   * Shows `items`. `moves` are places by item key, or null where there is nothing to compare with; `seen` are the keys of
   * the items of the history; `sources` are those that gave something to some score.
   */
  render(items, { moves = null, wishes = [], sources = SOURCES, seen = new Set() } = {}) {
    const focused = this.#focusedPart();
    const before = this.#positions();
    this.#settle();
    const kept = new Set(items.map(itemKey));
    for (const [key, card] of this.cards) if (!kept.has(key)) this.#leave(key, card, before.get(key));
    const scale = items.every((item) => item.contributions) ? extent(items) : null;
    items.forEach((item, index) => this.#place(item, index, { moves, wishes, sources, seen, scale }));
    this.#refocus(focused);
    this.#play(before);
  }

  /** Grey shapes where the first list will be. */
  renderWaiting(n = 10) {
    this.clear();
    const waiting = () => make("li", { class: "card waiting", "aria-hidden": "true" }, make("span"), make("span"));
    this.list.replaceChildren(...Array.from({ length: n }, waiting));
  }

  clear() {
    this.cards.clear();
    this.list.replaceChildren();
    this.ghosts.replaceChildren();
  }

  #place(item, index, context) {
    const key = itemKey(item);
    let card = this.cards.get(key);
    if (!card) {
      card = new Card(item, { onWish: this.onWish, onSeen: this.onSeen });
      this.cards.set(key, card);
    }
    card.update(item, context);
    const there = this.list.children[index];
    if (there !== card.element) this.list.insertBefore(card.element, there ?? null);
  }

  #leave(key, card, position) {
    this.cards.delete(key);
    card.element.remove();
    if (wantsStillness() || !position) return;
    card.element.style.setProperty("top", `${position.top}px`);
    this.ghosts.append(card.element);
    const fading = card.element.animate({ opacity: [1, 0], transform: ["none", "scale(.98)"] }, FADE);
    fading.finished.then(() => card.element.remove(), () => card.element.remove());
  }

  /** Where cards are seen now, measured from the top of the list: half-way, if they are still gliding. */
  #positions() {
    const origin = this.list.getBoundingClientRect().top;
    const found = new Map();
    for (const [key, card] of this.cards) {
      if (card.element.parentNode !== this.list) continue;
      found.set(key, { top: card.element.getBoundingClientRect().top - origin });
    }
    return found;
  }

  #settle() {
    for (const waiting of this.list.querySelectorAll(".waiting")) waiting.remove();
    for (const card of this.cards.values()) for (const moving of card.element.getAnimations()) moving.cancel();
  }

  #play(before) {
    if (wantsStillness()) return;
    const after = this.#positions();
    for (const [key, card] of this.cards) {
      const old = before.get(key);
      if (!old) {
        card.element.animate({ opacity: [0, 1], transform: ["translateY(10px)", "none"] }, { ...FADE, fill: "backwards" });
        continue;
      }
      const distance = old.top - after.get(key).top;
      if (Math.abs(distance) > 0.5) {
        card.element.animate({ transform: [`translateY(${distance}px)`, "none"] }, GLIDE);
      }
    }
  }

  /** What has the focus: the card, which of its controls, and whether the reader is using the keyboard. */
  #focusedPart() {
    const element = this.list.contains(document.activeElement) ? document.activeElement : null;
    const card = element?.closest(".card");
    if (!card) return null;
    const index = [...this.list.children].indexOf(card);
    return { card, index, part: element.dataset.part ?? null, visible: element.matches(":focus-visible") };
  }

  /** Gives the focus back after reordering: to the same control of the same card, or to the card at its place. */
  #refocus(focused) {
    this.active = Math.min(this.active, Math.max(0, this.list.children.length - 1));
    if (focused && this.list.children.length) {
      const stayed = focused.card.parentNode === this.list;
      const card = stayed ? focused.card : this.list.children[Math.min(focused.index, this.list.children.length - 1)];
      const part = stayed && focused.part ? card.querySelector(`[data-part="${focused.part}"]`) : card;
      this.active = [...this.list.children].indexOf(card);
      this.#rove(); // first: a card that is new cannot take the focus before it has a place in the tab order
      (part ?? card).focus({ preventScroll: true });
      if (focused.visible) card.scrollIntoView({ block: "nearest" });
    }
    this.#rove();
  }

  #rove() {
    [...this.list.children].forEach((card, index) => {
      card.tabIndex = index === this.active ? 0 : -1;
      for (const control of card.querySelectorAll("button")) control.tabIndex = index === this.active ? 0 : -1;
    });
  }

  #onFocus(event) {
    const index = [...this.list.children].indexOf(event.target.closest(".card"));
    if (index < 0 || index === this.active) return;
    this.active = index;
    this.#rove();
  }

  #onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const element = event.target.closest(".card");
    const card = [...this.cards.values()].find((one) => one.element === element);
    if (!card) return;
    const letter = event.key.toLowerCase();
    const last = this.list.children.length - 1;
    const goals = { ArrowDown: this.active + 1, ArrowUp: this.active - 1, Home: 0, End: last };
    if (event.key in goals) this.#go(Math.min(Math.max(goals[event.key], 0), last));
    else if (letter in LETTERS) card.wish(LETTERS[letter], event.shiftKey);
    else if (letter === "s") card.see();
    else if (letter === "w") card.toggleWhy();
    else if (letter === "u") this.onUndo();
    else return;
    event.preventDefault();
  }

  #go(index) {
    this.list.children[index].focus();
    this.list.children[index].scrollIntoView({ block: "nearest" });
  }
}

/** One card. It is made once per item and then updated. */
class Card {
  constructor(item, { onWish, onSeen }) {
    cards += 1;
    this.item = item;
    this.isSeen = false;
    this.onWish = onWish;
    this.onSeen = onSeen;
    this.rank = make("span", { class: "rank" });
    this.move = make("span", { class: "move" });
    this.chip = item.category ? this.#chip(`category-${cards}`) : null;
    this.menu = item.category ? this.#menu(`category-${cards}`) : null;
    this.why = this.#why(`why-${cards}`);
    this.parts = make("ul", { class: "parts", "aria-label": `Why ${item.name}` });
    this.meaning = make("p", { class: "note" });
    this.reasons = make("div", { class: "reasons", id: `why-${cards}`, hidden: true }, this.meaning, this.parts);
    this.like = this.#action("like", `Like ${item.name}`, () => this.wish("like"));
    this.dislike = this.#action("dislike", `Dislike ${item.name}`, () => this.wish("dislike"));
    this.seen = this.#action("seen", `Seen ${item.name}`, () => this.see());
    const name = make("h3", { class: "name" }, item.name);
    this.element = make(
      "li",
      { class: "card" },
      make("div", { class: "standing", "aria-hidden": "true" }, this.rank, this.move),
      make("div", { class: "body" }, name, this.chip, this.menu),
      make("div", { class: "actions" }, this.like, this.dislike, this.seen),
      this.why,
      this.reasons,
    );
  }

  update(item, { moves, wishes, sources, seen, scale }) {
    this.item = item;
    this.isSeen = seen.has(itemKey(item));
    this.itemKind = kindFor(wishes, { item: item.item_id });
    this.categoryKind = item.category ? kindFor(wishes, { category: item.category }) : null;
    const places = moves?.get(itemKey(item));
    this.rank.textContent = item.rank;
    this.#showMove(places);
    const moved = places === undefined ? "" : `, ${moveInWords(places)}`;
    setAttribute(this.element, "aria-label", `${item.rank}. ${item.name}${item.category ? `, ${item.category}` : ""}${moved}`);
    for (const [button, kind] of [[this.like, "like"], [this.dislike, "dislike"]]) {
      button.setAttribute("aria-pressed", String(this.itemKind === kind));
    }
    this.seen.setAttribute("aria-pressed", String(this.isSeen));
    this.seen.setAttribute("aria-disabled", String(this.isSeen)); // and not disabled, which would lose the focus
    this.seen.title = this.isSeen ? "In the history" : TITLES.seen;
    this.#showCategory();
    this.#showWhy(scale, sources);
  }

  /** Says that the item is known, unless the history has it already. */
  see() {
    if (!this.isSeen) this.onSeen(this.item);
  }

  /** Likes or dislikes the item, or its whole category; the same wish a second time takes it back. */
  wish(kind, wholeCategory = false) {
    const { item_id: item, name, category } = this.item;
    if (wholeCategory && !category) return;
    const current = wholeCategory ? this.categoryKind : this.itemKind;
    const target = wholeCategory ? { category } : { item };
    this.onWish(target, current === kind ? null : kind, wholeCategory ? category : name);
  }

  toggleWhy() {
    if (this.why.hidden) return;
    this.reasons.hidden = !this.reasons.hidden;
    this.why.setAttribute("aria-expanded", String(!this.reasons.hidden));
  }

  #action(kind, label, act) {
    const attributes = { type: "button", class: `action ${kind}`, "data-part": kind, "aria-label": label, title: TITLES[kind] };
    return make("button", { ...attributes, "aria-pressed": "false", on: { click: act } }, icon(kind));
  }

  #chip(id) {
    const toggle = () => {
      this.menu.hidden = !this.menu.hidden;
      this.chip.setAttribute("aria-expanded", String(!this.menu.hidden));
    };
    const attributes = { type: "button", class: "chip", "data-part": "category", "aria-expanded": "false", "aria-controls": id };
    this.chipSign = make("span", { class: "sign" });
    return make("button", { ...attributes, on: { click: toggle } }, this.chipSign, this.item.category, icon("open"));
  }

  #menu(id) {
    const choice = (kind, text) => {
      const attributes = { type: "button", class: `button small ${kind}`, "data-part": `category-${kind}`, "aria-pressed": "false" };
      return make("button", { ...attributes, on: { click: () => this.wish(kind, true) } }, icon(kind), text);
    };
    this.categoryLike = choice("like", `Like all ${this.item.category}`);
    this.categoryDislike = choice("dislike", `Dislike all ${this.item.category}`);
    return make("div", { class: "menu", id, hidden: true }, this.categoryLike, this.categoryDislike);
  }

  #why(id) {
    this.segments = Object.fromEntries(SOURCES.map((source) => [source, make("span", { class: `segment ${source}` })]));
    this.score = make("span", { class: "score" });
    this.zero = make("span", { class: "zero" });
    const bar = make("span", { class: "bar", "aria-hidden": "true" }, ...Object.values(this.segments), this.zero);
    const attributes = { type: "button", class: "why", "data-part": "why", "aria-expanded": "false", "aria-controls": id };
    return make("button", { ...attributes, on: { click: () => this.toggleWhy() } }, make("span", {}, "Why"), bar, this.score, icon("open"));
  }

  #showMove(places) {
    const texts = places === undefined ? "" : places === null ? "new" : places === 0 ? "" : String(Math.abs(places));
    this.move.textContent = texts;
    this.move.className = `move ${places === null ? "fresh" : places > 0 ? "up" : places < 0 ? "down" : "same"}`;
  }

  #showCategory() {
    if (!this.chip) return;
    this.chipSign.replaceChildren(...(this.categoryKind ? [icon(this.categoryKind)] : []));
    this.chip.className = `chip${this.categoryKind ? ` wished ${this.categoryKind}` : ""}`;
    const said = { like: " (liked)", dislike: " (disliked)" }[this.categoryKind] ?? "";
    this.chip.setAttribute("aria-label", `Category ${this.item.category}${said}`);
    this.categoryLike.setAttribute("aria-pressed", String(this.categoryKind === "like"));
    this.categoryDislike.setAttribute("aria-pressed", String(this.categoryKind === "dislike"));
  }

  #showWhy(scale, sources) {
    this.why.hidden = scale === null;
    this.reasons.hidden ||= scale === null;
    if (scale === null) return;
    const width = scale.high - scale.low || 1;
    const sums = totals(this.item.contributions);
    const ends = { left: 0, right: 0 };
    this.zero.style.setProperty("left", percent(-scale.low / width));
    for (const source of SOURCES) {
      const amount = sums[source];
      const start = amount < 0 ? ends.left + amount : ends.right;
      if (amount < 0) ends.left = start;
      else ends.right += amount;
      stretch(this.segments[source], (start - scale.low) / width, Math.abs(amount) / width);
    }
    this.score.textContent = plain(this.item.score, scale);
    const said = sources.filter((source) => sums[source] !== 0).map((s) => `${SOURCE_NAMES[s]} ${signed(sums[s], scale)}`);
    this.why.setAttribute("aria-label", `Why: score ${plain(this.item.score, scale)}, ${said.join(", ")}`);
    this.#showParts(scale, sources);
  }

  #showParts(scale, sources) {
    const found = rows(this.item.contributions, sources);
    const largest = Math.max(...found.map((part) => Math.abs(part.amount)), Number.MIN_VALUE);
    const row = ({ source, label, amount }) => {
      const segment = make("span", { class: `segment ${source}` });
      const share = Math.abs(amount) / largest / 2;
      stretch(segment, amount < 0 ? 0.5 - share : 0.5, share);
      const bar = make("span", { class: "bar", "aria-hidden": "true" }, segment, make("span", { class: "zero middle" }));
      return make("li", {}, make("span", { class: "label" }, label), bar, make("span", { class: "amount" }, signed(amount, scale)));
    };
    const total = make("li", { class: "total" }, make("span", { class: "label" }, "Score, the sum"), make("span"), make("span", { class: "amount" }, plain(this.item.score, scale)));
    this.meaning.textContent = barsInWords(sources);
    this.parts.replaceChildren(...found.map(row), total);
  }
}

function stretch(segment, from, length) {
  segment.style.setProperty("left", percent(from));
  segment.style.setProperty("width", percent(length));
}

function percent(share) {
  return `${(100 * share).toFixed(2)}%`;
}
