/** A search box over items or people: an editable combobox with a list of options, as the ARIA practices describe it. */

import { debounced, make, setAttribute } from "./dom.js";

const WAIT = 120;

/**
 * `find(text, {signal})` gives the values that match, and `say(value)` a value in words: {label, of}, the second may be
 * empty. `onChoose(value)` is told of the chosen one; the box is then empty again.
 */
export class Search {
  constructor({ input, list, note, find, say, onChoose, onProblem }) {
    Object.assign(this, { input, list, note, find, say, onChoose, onProblem });
    this.values = [];
    this.active = -1;
    this.controller = null;
    const look = debounced(() => this.#look(), WAIT);
    input.addEventListener("input", look);
    input.addEventListener("keydown", (event) => this.#onKey(event));
    input.addEventListener("focus", () => this.input.value.trim() && look());
    input.addEventListener("blur", () => this.#close());
    list.addEventListener("pointerdown", (event) => event.preventDefault()); // the focus stays in the box
  }

  async #look() {
    const text = this.input.value.trim();
    this.controller?.abort();
    if (!text) {
      this.note.textContent = "";
      this.#close();
      return;
    }
    const controller = new AbortController();
    this.controller = controller;
    try {
      const values = await this.find(text, { signal: controller.signal });
      if (controller === this.controller && document.activeElement === this.input) this.#show(values, text);
    } catch (error) {
      if (error.name !== "AbortError") this.onProblem(error, () => this.#look());
    }
  }

  #show(values, text) {
    this.values = values;
    this.list.replaceChildren(...values.map((value, index) => this.#option(value, index)));
    this.list.hidden = values.length === 0;
    setAttribute(this.input, "aria-expanded", String(values.length > 0));
    this.note.textContent = values.length ? "" : `Nothing is called “${text}”.`;
    this.#mark(-1);
  }

  #option(value, index) {
    const { label, of } = this.say(value);
    const attributes = { role: "option", id: `${this.list.id}-${index}`, "aria-selected": "false" };
    const more = of ? make("span", { class: "of" }, of) : null;
    return make("li", { ...attributes, on: { click: () => this.#choose(index) } }, make("span", {}, label), more);
  }

  #onKey(event) {
    const steps = { ArrowDown: 1, ArrowUp: -1 };
    if (event.key in steps && this.values.length && !this.list.hidden) {
      const n = this.values.length;
      this.#mark(this.active < 0 && event.key === "ArrowUp" ? n - 1 : (this.active + steps[event.key] + n) % n);
    } else if (event.key === "Enter" && !this.list.hidden) this.#choose(Math.max(this.active, 0));
    else if (event.key === "Escape" && !this.list.hidden) this.#close();
    else return;
    event.preventDefault();
  }

  #mark(index) {
    this.active = index;
    [...this.list.children].forEach((option, i) => option.setAttribute("aria-selected", String(i === index)));
    setAttribute(this.input, "aria-activedescendant", index < 0 ? null : `${this.list.id}-${index}`);
    this.list.children[index]?.scrollIntoView({ block: "nearest" });
  }

  #choose(index) {
    const value = this.values[index];
    this.input.value = "";
    this.#close();
    this.onChoose(value);
  }

  #close() {
    this.controller?.abort();
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.#mark(-1);
  }
}
