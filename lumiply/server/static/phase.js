// What goes on while a room is being relit: in words, as a bar, and for how long.

import { COLORS } from "./relight.js";
import { say } from "./words.js";

export class Phase {
  #elements;
  #name = "uploading";
  #text = "";
  #sent = 0; // share of the photo, 0 to 1
  #since = 0;
  #timer = 0;

  /** @param {{name: HTMLElement, text: HTMLElement, clock: HTMLElement, bar: HTMLProgressElement}} elements */
  constructor(elements) {
    this.#elements = elements;
  }

  begin() {
    [this.#name, this.#text, this.#sent, this.#since] = ["uploading", "", 0, performance.now()];
  }

  /** Whether the clock goes. */
  set running(on) {
    clearInterval(this.#timer);
    if (on) this.#timer = setInterval(() => this.#tick(), 1000);
    this.#tick();
  }

  /** @param {string} name of what goes on, one of the page's words; @param {string} text what is said of it beside */
  set(name, text = "", sent = 1) {
    [this.#name, this.#text, this.#sent] = [name, text, sent];
  }

  /** @param {{pictures: Object, shares: Object}} work by colour */
  paint({ pictures, shares }) {
    const { name, text, bar } = this.#elements;
    const ready = COLORS.filter((each) => pictures[each]).length;
    const share = this.#name === "uploading" ? this.#sent : COLORS.reduce((sum, each) => sum + (pictures[each] ? 1 : shares[each] ?? 0), 0) / COLORS.length;
    const finishing = this.#name === "rendering" && share === 1 && ready < COLORS.length; // all steps done, and no pictures yet
    name.textContent = say(this.#name);
    text.textContent = this.#text || (ready ? say("readyText", { n: ready }) : finishing ? say("finishingText") : this.#name === "rendering" ? say("renderingText") : "");
    if (share && !finishing) bar.value = share;
    else bar.removeAttribute("value"); // it moves, and promises nothing
  }

  /** Minutes and seconds since the beginning, for the eye: nobody wants them read out. */
  #tick() {
    const seconds = Math.floor((performance.now() - this.#since) / 1000);
    this.#elements.clock.textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
  }
}
