// What runs at the server, told in the page's header, and which presets its model has.

import { getHealth } from "./server.js";
import { say } from "./words.js";

const CALM_MS = 60_000;
const ANXIOUS_MS = 4_000;
const STATES = { ready: "ready", loading: "loading", failed: "failedModel" };

export class HealthWatch {
  #timer = 0;
  #elements;
  #presets;
  #model = null;

  /**
   * @param {{dot: HTMLElement, text: HTMLElement, model: HTMLElement}} elements of the header
   * @param {HTMLSelectElement} presets
   */
  constructor(elements, presets) {
    this.#elements = elements;
    this.#presets = presets;
  }

  /** The model that was last seen, as {name, size}; null before there was one. */
  get model() {
    return this.#model;
  }

  /** Look now, and from now on again and again. */
  async look() {
    clearTimeout(this.#timer);
    let state = "offline";
    try {
      const health = await getHealth();
      state = STATES[health.engine] ?? "ready";
      if (health.model) this.#model = { name: health.model, size: health.image_size };
      if (health.presets) this.#offer(health.presets);
    } catch {
      // shown as offline
    }
    this.#show(state);
    clearTimeout(this.#timer); // of another look meanwhile
    this.#timer = setTimeout(() => this.look(), state === "ready" ? CALM_MS : ANXIOUS_MS);
  }

  #show(state) {
    const { dot, text, model } = this.#elements;
    dot.dataset.state = state;
    text.textContent = say(state);
    model.textContent = state === "ready" && this.#model ? ` · ${this.#model.name}` : "";
  }

  /** Show only the presets that the model has; "automatic" always. */
  #offer(names) {
    for (const option of this.#presets.options) option.hidden = option.disabled = option.value !== "" && !names.includes(option.value);
    if (this.#presets.selectedOptions[0]?.disabled) this.#presets.value = "";
  }
}
