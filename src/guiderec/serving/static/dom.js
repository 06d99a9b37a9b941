/** Small helpers that build the page. Text from the server becomes text nodes and nothing else, so no name can be markup. */

const SVG = "http://www.w3.org/2000/svg";

/** The element of an id that index.html is known to have. */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`index.html has no element #${id}`);
  return found;
}

/**
 * An element with attributes and children. Strings become text. `on` holds listeners, `false` and `null` leave an
 * attribute out and `true` sets it empty.
 */
export function make(tag, { on = {}, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) setAttribute(element, name, value);
  for (const [event, listener] of Object.entries(on)) element.addEventListener(event, listener);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Sets an attribute, or removes it for `false` and `null`. */
export function setAttribute(element, name, value) {
  if (value === false || value === null || value === undefined) element.removeAttribute(name);
  else element.setAttribute(name, value === true ? "" : String(value));
}

/** One of the symbols at the top of index.html; it says nothing to a screen reader. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** `1 like`, `2 likes`. */
export function count(n, one, many = `${one}s`) {
  return `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
}

/**
 * Makes a change that may take away what has the focus. The focus then goes to the button at the same place of the same
 * list, or to the first of `others` that can take it, and is not lost.
 */
export function keepingFocus(change, others) {
  const focused = document.activeElement;
  const list = focused.closest("ul, ol");
  const place = list ? [...list.querySelectorAll("button")].indexOf(focused) : -1;
  change();
  if (canTakeFocus(focused)) return;
  const buttons = list ? [...list.querySelectorAll("button")] : [];
  const goals = [buttons[Math.min(place, buttons.length - 1)], ...others];
  goals.find((goal) => goal && canTakeFocus(goal))?.focus({ preventScroll: true });
}

function canTakeFocus(element) {
  return element.isConnected && !element.disabled && element.checkVisibility();
}

/** Whether the reader asked their system for less motion. */
export function wantsStillness() {
  return window.matchMedia("(prefers-reduced-motion: reduce)").matches;
}

/** Calls `act` once, `milliseconds` after the last call. */
export function debounced(act, milliseconds) {
  let timer;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(act, milliseconds, ...given);
  };
}
