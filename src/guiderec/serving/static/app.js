/**
 * The page: what is chosen and wished, and the requests that follow from it.
 *
 * A step is one thing the reader did: a wish, a new strength, a change of their own history. It remembers what it
 * turned, and what was there before, for undo. Wishes of a person are kept by the server (POST /feedback), one step
 * after the other, and act on the very next request; a step that the server did not keep is taken out again, and said
 * to be lost. Wishes on one's own history travel with the request and are kept nowhere. Only the newest request for a
 * list counts: older ones are aborted, but no feedback ever is.
 */

import * as api from "./api.js";
import { itemKey, movesBetween, movesInWords, sourcesAtWork } from "./compare.js";
import { byId, count, keepingFocus, make } from "./dom.js";
import { CardList } from "./list.js";
import * as panels from "./panels.js";
import { Search } from "./search.js";
import { asFeedback, asRequest, backwards, fromAnswer, holds, kindFor, sameThing, targetOf, turned } from "./wishes.js";

const K = 10;
const SAME_SLIDE = 1000; // milliseconds: moves of the slider closer than this are one step
const SLOW = 150; // milliseconds before a request shows that it is under way

const state = {
  model: null,
  people: [], // the first of them, and whoever was found
  nPeople: 0,
  categories: [],
  user: null, // null: one's own history
  own: [], // items of one's own history
  wholeHistory: false,
  wishes: [],
  seen: [], // raw ids of items that a person was said to have seen, here and now
  scale: null, // null: the model's own
  excludeSeen: true,
  answer: null, // the last reply of POST /recommend
  last: null, // the items shown before the last step
  plain: null, // {key, items}: the list for the same history without wishes
  compare: "last",
  past: [], // the steps that can be undone: {label, turns, scale, own}
};

const names = new Map(); // item key -> name, of every item that was ever shown
let saving = Promise.resolve(); // feedback under way, one step after the other; never rejected, never begun anew
let lost = []; // what the server did not keep: {label, turns, error}
let trouble = null; // what the newest request failed with: {error, onRetry}
let running = null; // the AbortController of the newest request
let again = null; // what to ask once the running request is done
let slidAt = 0;

/** How high the steering is, so that on a wide screen it scrolls with the page until its end is seen, and then stays. */
new ResizeObserver(([{ target }]) => target.style.setProperty("--height", `${target.offsetHeight}px`)).observe(byId("controls"));

const cards = new CardList({ list: byId("list"), ghosts: byId("ghosts"), onWish: wish, onSeen: see, onUndo: undo });

// ---------------------------------------------------------------------------------------------------- beginning

async function start() {
  settle();
  cards.renderWaiting(K);
  try {
    const [model, { people, total }, { categories }] = await Promise.all([api.getModel(), api.getPeople(), api.getCategories()]);
    Object.assign(state, { model, people, nPeople: total, categories });
  } catch (error) {
    fail(error, start);
    return;
  }
  prepareControls();
  const asked = new URLSearchParams(location.search).get("user");
  if (asked === null && state.people.length === 0) chooseOwn([]);
  else choosePerson(asked ?? state.people[0].user);
}

function prepareControls() {
  const { model, categories } = state;
  panels.showModel(model);
  prepareStrength(model.default_guidance_scale);
  byId("help-why").hidden = !model.explains;
  for (const id of ["category-wish", "category-fold"]) byId(id).hidden = categories.length === 0;
  const options = categories.map(({ name, n_items: n }) => make("option", { value: name }, `${name} (${n.toLocaleString("en")})`));
  byId("category").replaceChildren(...options);
  const nobody = state.people.length === 0 && !new URLSearchParams(location.search).has("user");
  byId("who-kind").querySelector("[value=person]").disabled = nobody;
  byId("person-search").placeholder = `One of ${state.nPeople.toLocaleString("en")}`;
  byId("who-kind").title = nobody ? "The server was started without people" : "";
}

/** The slider runs to four times the model's own strength, in steps that meet it exactly. */
function prepareStrength(standard) {
  for (const id of ["slider", "strength-value", "strength-default"]) byId(id).hidden = standard === null;
  byId("strength-none").hidden = standard !== null;
  if (standard === null) {
    return;
  }
  const top = standard > 0 ? 4 * standard : 4;
  Object.assign(byId("strength"), { max: top, step: top / 80 });
  byId("slider").style.setProperty("--default", standard / top);
  showStrength();
}

// ------------------------------------------------------------------------------------------------ whose list it is

function choosePerson(user) {
  Object.assign(state, { user, wholeHistory: false });
  panels.showPeople(state.people, user);
  fold(byId("history-fold"), true);
  forget();
  address({ user });
  refresh({ said: `For ${user}` });
}

function chooseOwn(history) {
  Object.assign(state, { user: null, own: history });
  fold(byId("history-fold"), false);
  forget();
  address({});
  refresh({ said: "For your own history" });
}

/** Somebody that the search found: their name joins the choice. */
function chooseFound(person) {
  if (!state.people.some(({ user }) => user === person.user)) state.people = [person, ...state.people];
  choosePerson(person.user);
}

/** On a narrow screen: puts away what `button` is for, or shows it. */
function fold(button, away) {
  button.setAttribute("aria-expanded", String(!away));
  keepingFocus(() => button.closest(".panel").classList.toggle("folded", away), [button]);
}

/** Nothing of the previous person stays: wishes, steps and lists are theirs. */
function forget() {
  Object.assign(state, { wishes: [], seen: [], answer: null, last: null, plain: null, past: [] });
  lost = [];
  cards.renderWaiting(K);
  showControls();
}

function address({ user }) {
  const query = user === undefined ? "" : `?${new URLSearchParams({ user })}`;
  history.replaceState(null, "", `${location.pathname}${query}`);
}

// ------------------------------------------------------------------------------------------------------- the steps

/** Remembers a step under `label`: what it turns, and what was there before. It can then be undone. */
function step(label, turns = []) {
  const { scale, own } = state;
  const made = { label, turns, scale, own };
  state.past.push(made);
  state.last = state.answer?.items ?? null;
  return made;
}

/** Makes the turns, as one step. */
function act(label, turns) {
  const change = { label, turns, made: step(label, turns) };
  carryOut(change);
  refresh({ said: label, change });
}

function wish(target, kind, label) {
  const words = { like: `Liked ${label}`, dislike: `Disliked ${label}`, null: `Took back the wish on ${label}` };
  act(words[kind], [{ ...targetOf(target), from: kindFor(state.wishes, target), to: kind }]);
}

/** The item joins the history: that of the person, which the server keeps, or one's own. */
function see(item) {
  const said = `Seen ${item.name}`;
  if (state.user === null) setOwn([...state.own, item], said);
  else if (!state.seen.includes(item.item_id)) act(said, [{ item: item.item_id, from: "unseen", to: "seen" }]);
}

function clearWishes() {
  act("Cleared all wishes", state.wishes.map((one) => ({ ...targetOf(one), from: one.kind, to: null })));
}

function setOwn(own, said) {
  step(said);
  state.own = own;
  refresh({ said });
}

function slide(scale, said = "New strength") {
  const now = performance.now();
  if (now - slidAt > SAME_SLIDE || state.past.at(-1)?.label !== "New strength") step("New strength");
  slidAt = now;
  state.scale = scale;
  showStrength();
  refresh({ said, patient: true });
}

function undo(undone = state.past.at(-1)) {
  const place = state.past.indexOf(undone);
  if (place < 0) return;
  state.past.splice(place, 1);
  slidAt = 0;
  state.last = state.answer?.items ?? null;
  if (undone.turns.length === 0) Object.assign(state, { scale: undone.scale, own: undone.own });
  const change = { label: `Undone: ${undone.label}`, turns: undone.turns.map(backwards), undone, place };
  carryOut(change);
  showStrength();
  refresh({ said: change.label, change });
}

// ------------------------------------------------------------------------------------- what the server keeps of them

/** Makes the turns of a change here at once; those of a person are then told to the server, after all before them. */
function carryOut(change) {
  const { user, past } = state;
  Object.assign(state, turned(state, change.turns));
  if (user !== null && change.turns.length > 0) saving = saving.then(() => keep({ user, past, change }));
}

/** Never fails: what the server does not keep is taken out and said to be lost, whatever happened since. */
async function keep({ user, past, change }) {
  const left = [...change.turns];
  try {
    for (; left.length > 0; left.shift()) {
      await api.sendFeedback({ user, ...asFeedback(left[0]) });
      if (lost.length) saidAnew(left[0]);
    }
  } catch (error) {
    const known = state.past === past; // or else the list is somebody else's by now
    change.lost = true;
    lost.push({ change, turns: left, error, user: known ? null : user });
    if (known) takeOut(change, left);
    showControls();
    showProblems();
  }
}

/** What was lost of the same target need not be said again. */
function saidAnew(kept) {
  lost = lost.filter(({ turns, user }) => user !== null || !turns.some((turn) => sameThing(turn, kept)));
  showProblems();
}

/** Takes what was not kept of a change out of the steps and of what is shown. Later steps stay as they are. */
function takeOut({ made, undone, place }, turns) {
  const { past } = state;
  let later = [];
  if (undone) {
    undone.turns = turns.map(backwards);
    past.splice(place, 0, undone);
    later = past.slice(place + 1);
  } else if (past.includes(made)) {
    later = past.slice(past.indexOf(made) + 1);
    made.turns = made.turns.filter((turn) => !turns.includes(turn));
    if (made.turns.length === 0) past.splice(past.indexOf(made), 1);
  }
  for (const turn of turns) {
    const next = later.flatMap((step_) => step_.turns).find((one) => sameThing(one, turn));
    if (next) next.from = turn.from;
    else if (holds(state, turn)) Object.assign(state, turned(state, [backwards(turn)]));
  }
}

/** Does once more what was not kept, for the person whose list this is. */
function retryLost() {
  const again_ = lost.filter(({ user }) => user === null);
  lost = [];
  for (const { change, turns } of again_) {
    if (change.undone) undo(change.undone);
    else act(change.label, turns);
  }
  showProblems();
}

// -------------------------------------------------------------------------------------------------- the requests

/**
 * Asks for the list that follows from the state and shows it. A patient request lets one that runs finish first, so
 * that the list keeps changing while the slider is moved.
 */
async function refresh({ said, change = null, patient = false } = {}) {
  showControls();
  if (patient && running?.patient) {
    again = { said, patient };
    return;
  }
  running?.abort();
  again = null;
  if (state.user === null && state.own.length === 0) {
    showNothing();
    return;
  }
  const mine = Object.assign(new AbortController(), { patient });
  running = mine;
  const slow = setTimeout(() => busy(mine === running), SLOW);
  try {
    await saving;
    if (mine !== running) return;
    const answer = await api.recommend(wanted(), { signal: mine.signal, onWait: (seconds) => mine === running && wait(seconds) });
    if (mine !== running) return;
    show(answer, change?.lost ? `Not kept: ${said}` : said);
    await showCompared(mine);
  } catch (error) {
    if (error.name !== "AbortError" && mine === running) fail(error, () => refresh({ said, change }));
  } finally {
    clearTimeout(slow);
    if (mine === running) {
      running = null;
      busy(false);
      if (again) refresh(again);
    }
  }
}

function wanted() {
  const common = { k: K, guidance_scale: state.scale, explain: state.model.explains, exclude_seen: state.excludeSeen };
  if (state.user !== null) return { user: state.user, ...common };
  return { history: state.own.map((item) => item.item_id), ...asRequest(state.wishes), ...common };
}

/** Fetches the list without wishes when it is what to compare with, once per history, and shows what moved. */
async function showCompared(mine) {
  if (state.compare !== "plain" || !state.answer) return;
  const ids = state.answer.history.map((item) => item.item_id);
  const key = JSON.stringify([ids, state.excludeSeen]);
  if (state.plain?.key !== key) {
    const { items } = await api.recommend({ history: ids, k: K, exclude_seen: state.excludeSeen }, { signal: mine?.signal });
    if (mine && mine !== running) return;
    state.plain = { key, items };
  }
  showList();
}

// ---------------------------------------------------------------------------------------------------- showing it

function show(answer, said) {
  settle();
  const shown = [...answer.items, ...answer.history, ...answer.wishes.items, ...answer.items.flatMap((item) => item.contributions ?? [])];
  for (const item of shown) if (item.name && item.item_id !== null) names.set(itemKey(item), item.name);
  state.answer = answer;
  state.wishes = fromAnswer(answer.wishes, state.wishes);
  showControls();
  showList();
  announce(said, answer);
}

function showList() {
  const { answer, wishes } = state;
  const reference = compared();
  const moves = reference && movesBetween(reference, answer.items).moves;
  byId("empty").hidden = true;
  byId("list-title").textContent = answer.items.length === K ? "Ten recommendations" : count(answer.items.length, "recommendation");
  const sources = sourcesAtWork(answer.items);
  cards.render(answer.items, { moves, wishes, sources, seen: new Set(answer.history.map(itemKey)) });
  panels.showLegend(sources);
  panels.showBefore(reference, answer.items);
  byId("before-title").textContent = state.compare === "last" ? "Before the last change" : "Without wishes";
  byId("before-list").dataset.empty = reference ? "" : "Nothing has changed yet.";
}

/** The items to compare with, or null: those before the last step, or those without wishes. */
function compared() {
  return state.compare === "last" ? state.last : (state.plain?.items ?? null);
}

function showControls() {
  keepingFocus(updateControls, [byId("undo"), byId("list-region")]);
}

function updateControls() {
  const { answer, wishes, past, user, own } = state;
  const isOwn = user === null;
  byId("who-kind").querySelector(`[value=${isOwn ? "own" : "person"}]`).checked = true;
  byId("who-person").hidden = isOwn;
  byId("who-own").hidden = !isOwn;
  byId("find-person").hidden = isOwn || state.nPeople <= state.people.length;
  showHistory(isOwn ? own : (answer?.history ?? []), isOwn);
  panels.showWishes(wishes, { labelOf, onRemove: (wish_) => wish(wish_, null, labelOf(wish_)) });
  panels.showHonoured(answer);
  byId("undo").disabled = past.length === 0;
  byId("undo").title = past.length ? `Undo: ${past.at(-1).label}` : "";
}

function showHistory(items, isOwn) {
  const remove = (index) => setOwn(items.filter((_, i) => i !== index), `Removed ${items[index].name}`);
  panels.showHistory(items, { whole: state.wholeHistory, onRemove: isOwn ? remove : null });
  const action = byId("history-action");
  action.hidden = items.length === 0;
  action.textContent = isOwn ? "Clear" : "Copy to my own";
}

function showStrength() {
  const standard = state.model.default_guidance_scale;
  if (standard === null) return;
  const value = state.scale ?? standard;
  const text = Number(value.toFixed(3)).toLocaleString("en");
  const said = value === 0 ? "unsteered" : value === standard ? "default" : "";
  byId("strength").value = value;
  byId("strength").setAttribute("aria-valuetext", said ? `${text}, ${said}` : text);
  byId("strength-value").textContent = text;
  byId("strength-default").disabled = value === standard;
}

function labelOf(wish_) {
  return wish_.category ?? names.get(itemKey({ item_id: wish_.item })) ?? String(wish_.item);
}

function announce(said, answer) {
  const reference = compared();
  const seen = count(answer.history.length, "item");
  const moved = reference ? `: ${movesInWords(movesBetween(reference, answer.items))}.` : `, from ${seen} of history.`;
  const none = answer.items.length === 0 ? " The list is empty: everything is left out." : "";
  byId("status").textContent = `${said}${moved}${none}`;
}

function showNothing() {
  running = null;
  busy(false);
  state.answer = null;
  cards.clear();
  settle();
  panels.showLegend([]);
  panels.showBefore([], []);
  byId("empty").hidden = false;
  byId("empty").replaceChildren(
    make("p", { class: "empty-title" }, "Start with something you like"),
    make("p", {}, "Search on the left and add two or three items. The list follows from them, the newest last."),
  );
  byId("status").textContent = "Your history is empty.";
}

function wait(seconds) {
  byId("status").textContent = `The server is busy. Trying again in ${count(seconds, "second")}.`;
}

function busy(is) {
  byId("list").setAttribute("aria-busy", String(is));
}

function fail(error, onRetry) {
  if (!(error instanceof api.RequestError)) console.error(error);
  if (!state.answer) cards.clear();
  byId("status").textContent = "";
  trouble = { error, onRetry };
  showProblems();
}

/** The newest request did not fail, or a new one begins. What was lost stays lost. */
function settle() {
  if (trouble === null) return;
  trouble = null;
  showProblems();
}

/** What was not kept, until it is said anew or dismissed, and what the newest request failed with, if that is more. */
function showProblems() {
  const problems = lost.length ? [lostInWords()] : [];
  if (trouble && trouble.error.message !== lost.at(-1)?.error.message) problems.push(trouble);
  panels.showProblems(problems.map((one) => ({ ...one, onKey: (key) => { api.useKey(key); one.onRetry(); } })));
}

function lostInWords() {
  const said = lost.map(({ change, user }) => (user === null ? change.label : `${change.label} (${user})`));
  const onDismiss = () => {
    lost = [];
    showProblems();
  };
  const mine = lost.some(({ user }) => user === null);
  return { lead: `Not kept: ${said.join("; ")}.`, error: lost.at(-1).error, onRetry: mine ? retryLost : onDismiss, onDismiss };
}

// ------------------------------------------------------------------------------------------------------ listening

new Search({
  input: byId("search"),
  list: byId("found"),
  note: byId("found-note"),
  find: async (text, options) => (await api.searchItems(text, options)).items,
  say: ({ name, category }) => ({ label: name, of: category }),
  onProblem: fail,
  onChoose: (item) => {
    names.set(itemKey(item), item.name);
    setOwn([...state.own, item], `Added ${item.name}`);
  },
});

new Search({
  input: byId("person-search"),
  list: byId("people-found"),
  note: byId("people-note"),
  find: async (text, options) => (await api.searchPeople(text, options)).people,
  say: ({ user, length, preview }) => ({ label: user, of: [count(length, "item"), ...preview.slice(0, 1)].join(" · ") }),
  onProblem: fail,
  onChoose: chooseFound,
});

byId("who-kind").addEventListener("change", (event) => {
  if (event.target.value === "own") chooseOwn(state.own);
  else choosePerson(byId("person").value || state.people[0].user);
});
byId("person").addEventListener("change", (event) => choosePerson(event.target.value));
byId("shuffle").addEventListener("click", () => {
  const others = state.people.filter((person) => person.user !== state.user);
  choosePerson(others[Math.floor(Math.random() * others.length)].user);
});
byId("history-action").addEventListener("click", () => {
  if (state.user === null) setOwn([], "Cleared the history");
  else chooseOwn(state.answer.history);
});
for (const button of [byId("history-fold"), byId("category-fold")]) {
  button.addEventListener("click", () => fold(button, button.getAttribute("aria-expanded") === "true"));
}
byId("history-all").addEventListener("click", () => {
  state.wholeHistory = true;
  showControls();
});
byId("exclude-seen").addEventListener("change", (event) => {
  state.excludeSeen = event.target.checked;
  state.last = state.answer?.items ?? null;
  refresh({ said: event.target.checked ? "Without the history" : "With the history" });
});
byId("clear").addEventListener("click", clearWishes);
for (const kind of ["like", "dislike"]) {
  byId(`category-${kind}`).addEventListener("click", () => {
    const category = byId("category").value;
    if (kindFor(state.wishes, { category }) !== kind) wish({ category }, kind, category);
  });
}
byId("strength").addEventListener("input", (event) => slide(Number(event.target.value)));
byId("strength-default").addEventListener("click", () => {
  slide(null);
  byId("strength").focus();
});
byId("undo").addEventListener("click", () => undo());
byId("compare").addEventListener("change", (event) => {
  state.compare = event.target.value;
  if (!state.answer) return;
  showList();
  showCompared(null).catch((error) => fail(error, () => showCompared(null)));
});
byId("side").addEventListener("click", () => {
  const shown = byId("side").getAttribute("aria-pressed") !== "true";
  byId("side").setAttribute("aria-pressed", String(shown));
  byId("before").hidden = !shown;
  byId("now-title").hidden = !shown;
  document.body.classList.toggle("side-by-side", shown);
});
document.addEventListener("keydown", (event) => {
  const typing = event.target.matches?.("input:not([type=range], [type=radio], [type=checkbox]), textarea");
  if (event.key.toLowerCase() !== "z" || !(event.ctrlKey || event.metaKey) || event.shiftKey || typing) return;
  event.preventDefault();
  undo();
});

start();
