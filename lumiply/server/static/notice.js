// What went wrong, in words, with a way to try again where there is one.

import { explain } from "./words.js";

export class Notice {
  #root;
  #again = null;

  constructor(root) {
    this.#root = root;
    this.#part("retry").addEventListener("click", () => this.#again?.());
    this.#part("dismiss").addEventListener("click", () => this.hide());
  }

  /** @param {(() => void) | null} again what "try again" does; without it there is no such button */
  show(error, again = null) {
    this.#again = again;
    this.#part("notice-text").textContent = explain(error);
    this.#root.dataset.code = error.code;
    this.#part("retry").hidden = !again;
    this.#root.hidden = false;
    this.#root.scrollIntoView({ block: "nearest" });
  }

  hide() {
    this.#root.hidden = true;
  }

  #part(name) {
    return this.#root.querySelector(`#${name}`);
  }
}
