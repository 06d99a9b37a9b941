/** The parts of the page beside the list. Each function shows one of them from values and knows nothing else. */

import { honouredInWords, itemKey, SOURCE_NAMES } from "./compare.js";
import { byId, count, icon, make } from "./dom.js";

const SHORT_HISTORY = 3;

/** The choice of people; `user` is chosen, and added where the server did not list it. */
export function showPeople(people, user) {
  const known = people.some((person) => person.user === user) || user === null;
  const all = known ? people : [{ user, length: null, preview: [] }, ...people];
  const option = (person) => make("option", { value: person.user, selected: person.user === user }, personInWords(person));
  byId("person").replaceChildren(...all.map(option));
  byId("shuffle").disabled = people.length < 2;
}

function personInWords({ user, length, preview }) {
  const items = length === null ? "" : ` · ${count(length, "item")}`;
  return `${user}${items}${preview.length ? ` · ${preview[0]}` : ""}`;
}

/** The history, oldest first; `onRemove(index)` makes its items removable. Long ones are cut to the newest. */
export function showHistory(history, { whole, onRemove = null }) {
  byId("history-fold").textContent = `Search, and history (${history.length})`;
  const hidden = whole || onRemove ? 0 : Math.max(0, history.length - SHORT_HISTORY);
  byId("history-title").textContent = history.length ? `History, newest last` : "History";
  const list = byId("history");
  list.start = hidden + 1;
  list.replaceChildren(...history.slice(hidden).map((item, i) => historyRow(item, i + hidden, onRemove)));
  const all = byId("history-all");
  all.hidden = hidden === 0;
  all.textContent = `Show all ${history.length}`;
}

function historyRow(item, index, onRemove) {
  if (!onRemove) return make("li", {}, itemName(item));
  const attributes = { type: "button", class: "remove", "aria-label": `Remove ${item.name}`, title: "Remove" };
  return make("li", {}, itemName(item), make("button", { ...attributes, on: { click: () => onRemove(index) } }, icon("remove")));
}

function itemName({ name, category }) {
  const of = category ? make("span", { class: "of" }, category) : null;
  return make("span", { class: "grow" }, make("span", { class: "title" }, name), of);
}

/** The wishes as chips; `onRemove(wish)` takes one back. */
export function showWishes(wishes, { labelOf, onRemove }) {
  const chip = (wish) => {
    const label = labelOf(wish);
    const what = `${wish.kind === "like" ? "Like" : "Dislike"}: ${label}`;
    const attributes = { type: "button", class: "remove", "aria-label": `Take back ${what}`, title: "Take back" };
    const text = make("span", {}, make("span", { class: "unseen" }, wish.kind === "like" ? "Like: " : "Dislike: "), label);
    const remove = make("button", { ...attributes, on: { click: () => onRemove(wish) } }, icon("remove"));
    return make("li", { class: `wish ${wish.kind}` }, icon(wish.kind), text, remove);
  };
  byId("wishes").replaceChildren(...wishes.map(chip));
  byId("clear").hidden = wishes.length === 0;
}

/** How the server honoured the wishes, as a plain sentence. */
export function showHonoured(answer) {
  const parts = answer ? honouredInWords(answer) : [];
  const say = ({ word, text }) => [word ? make("strong", {}, word) : null, word ? " " : null, text, " "];
  byId("honoured").replaceChildren(...parts.flatMap(say).filter((part) => part !== null));
}

/** The model in the head of the page. */
export function showModel({ name, n_items: items, version, candidates }) {
  const element = byId("model");
  const through = candidates === "index" ? ", found through an index" : "";
  element.replaceChildren(make("strong", {}, name), ` over ${count(items, "item")}${through}`);
  element.title = `version ${version}`;
}

/** What the colours of the bars mean, for the sources that are shown. */
export function showLegend(sources) {
  byId("legend").hidden = sources.length === 0;
  byId("legend").replaceChildren(
    ...sources.map((source) => make("li", {}, make("span", { class: `segment ${source}` }), SOURCE_NAMES[source])),
  );
}

/** The list to compare with, and what became of each of its items. */
export function showBefore(items, now) {
  const rank = new Map(now.map((item) => [itemKey(item), item.rank]));
  const row = (item) => {
    const to = rank.get(itemKey(item));
    const fate = to === undefined ? "left" : to === item.rank ? "stayed" : `now ${to}`;
    return make("li", { class: fate === "left" ? "left" : null }, itemName(item), make("span", { class: "fate" }, fate));
  };
  byId("before-list").replaceChildren(...(items ?? []).map(row));
}

/**
 * Errors as sentences, each with what can be done about it; none hides the box. `lead` goes before the sentence of the
 * error. Where one of them needs a key, it is asked for in the place of its buttons.
 */
export function showProblems(problems) {
  const box = byId("problem");
  box.hidden = problems.length === 0;
  box.replaceChildren(...problems.flatMap(problemInWords));
}

function problemInWords({ lead = null, error, onRetry = null, onDismiss = null, onKey = null }) {
  const hint = error.hint ? make("span", { class: "hint" }, ` ${error.hint}`) : null;
  const words = make("p", {}, lead && `${lead} `, error.message, hint);
  if (error.needsKey && onKey) return [words, keyForm(onKey)];
  const button = (text, click) => click && make("button", { type: "button", class: "button", on: { click } }, text);
  const buttons = onRetry === onDismiss ? [button("Dismiss", onDismiss)] : [button("Try again", onRetry), button("Dismiss", onDismiss)];
  return [words, make("div", { class: "row" }, ...buttons)];
}

function keyForm(onKey) {
  const input = make("input", { id: "key", class: "field grow", type: "password", autocomplete: "off", required: true });
  const onSubmit = (event) => {
    event.preventDefault();
    onKey(input.value);
  };
  const button = make("button", { class: "button" }, "Use this key");
  const label = make("label", { for: "key" }, "API key (kept until this tab is closed)");
  return make("form", { class: "stack", on: { submit: onSubmit } }, label, make("div", { class: "row" }, input, button));
}
