/** A search box over the catalogue: an editable combobox with a list of options, as the ARIA practices describe it. */

import { searchItems } from "./api.js";
import { debounced, make, setAttribute } from "./dom.js";

const WAIT = 120;

/** `onChoose(item)` is told of the chosen item; the box is then empty again. */
export class ItemSearch {
  constructor({ input, list, note, onChoose, onProblem }) {
    Object.assign(this, { input, list, note, onChoose, onProblem });
    this.items = [];
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
      const { items } = await searchItems(text, { signal: controller.signal });
      if (controller === this.controller && document.activeElement === this.input) this.#show(items, text);
    } catch (error) {
      if (error.name !== "AbortError") this.onProblem(error, () => this.#look());
    }
  }

  #show(items, text) {
    this.items = items;
    this.list.replaceChildren(...items.map((item, index) => this.#option(item, index)));
    this.list.hidden = items.length === 0;
    setAttribute(this.input, "aria-expanded", String(items.length > 0));
    this.note.textContent = items.length ? "" : `Nothing is called “${text}”.`;
    this.#mark(-1);
  }

  #option(item, index) {
    const category = item.category ? make("span", { class: "of" }, item.category) : null;
    const attributes = { role: "option", id: `found-${index}`, "aria-selected": "false" };
    return make("li", { ...attributes, on: { click: () => this.#choose(index) } }, make("span", {}, item.name), category);
  }

  #onKey(event) {
    const steps = { ArrowDown: 1, ArrowUp: -1 };
    if (event.key in steps && this.items.length && !this.list.hidden) {
      const n = this.items.length;
      this.#mark(this.active < 0 && event.key === "ArrowUp" ? n - 1 : (this.active + steps[event.key] + n) % n);
    } else if (event.key === "Enter" && !this.list.hidden) this.#choose(Math.max(this.active, 0));
    else if (event.key === "Escape" && !this.list.hidden) this.#close();
    else return;
    event.preventDefault();
  }

  #mark(index) {
    this.active = index;
    [...this.list.children].forEach((option, i) => option.setAttribute("aria-selected", String(i === index)));
    setAttribute(this.input, "aria-activedescendant", index < 0 ? null : `found-${index}`);
    this.list.children[index]?.scrollIntoView({ block: "nearest" });
  }

  #choose(index) {
    const item = this.items[index];
    this.input.value = "";
    this.#close();
    this.onChoose(item);
  }

  #close() {
    this.controller?.abort();
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.#mark(-1);
  }
}
