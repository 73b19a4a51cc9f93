// The seven colours as a group of radio buttons: each waits with a ring of progress, is ready, or cannot be had.

import { COLORS } from "./relight.js";
import { explain, say } from "./words.js";

export class Palette {
  #root;
  #onChoose;
  #ready = [];

  /** @param {(color: string) => void} onChoose called with a colour that is ready */
  constructor(root, onChoose) {
    this.#root = root;
    this.#onChoose = onChoose;
    root.append(...COLORS.map((name) => this.#swatch(name)));
    root.addEventListener("keydown", (event) => this.#key(event));
  }

  /**
   * @param {string} chosen
   * @param {{pictures: Object, shares: Object, failures: Object}} work by colour: object URLs, progress from 0 to 1, errors
   */
  paint(chosen, { pictures, shares, failures }) {
    this.#ready = COLORS.filter((name) => pictures[name]);
    for (const name of COLORS) {
      const swatch = this.#of(name);
      const state = pictures[name] ? "ready" : failures[name] ? "failed" : "waiting";
      swatch.dataset.state = state;
      swatch.setAttribute("aria-checked", String(name === chosen));
      swatch.setAttribute("aria-disabled", String(state !== "ready"));
      swatch.tabIndex = name === chosen ? 0 : -1;
      const key = { ready: "light", failed: "failedColor", waiting: "waitingFor" }[state];
      swatch.setAttribute("aria-label", say(key, { color: say(name) }));
      swatch.title = failures[name] ? explain(failures[name]) : "";
      swatch.querySelector("small").textContent = say(name);
      swatch.style.setProperty("--share", `${100 * (shares[name] ?? 0)}%`);
    }
  }

  focus() {
    this.#root.querySelector("[aria-checked=true]").focus({ preventScroll: true });
  }

  #of(name) {
    return this.#root.querySelector(`[data-color="${name}"]`);
  }

  #swatch(name) {
    const swatch = document.createElement("button");
    swatch.type = "button";
    swatch.className = `swatch ${name}`;
    swatch.dataset.color = name;
    swatch.setAttribute("role", "radio");
    swatch.append(document.createElement("i"), document.createElement("small"));
    swatch.addEventListener("click", () => this.#ready.includes(name) && this.#onChoose(name));
    return swatch;
  }

  #key(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const from = this.#ready.indexOf(this.#root.querySelector("[aria-checked=true]").dataset.color);
    if (!step || !this.#ready.length) return;
    event.preventDefault();
    const count = this.#ready.length;
    this.#onChoose(this.#ready[(Math.max(from, 0) + step + count) % count]);
    this.focus();
  }
}
