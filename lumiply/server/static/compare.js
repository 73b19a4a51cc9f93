// Before and after in one frame, divided by a line that mouse, finger and arrow keys move.

export class Compare {
  #root;
  #range;

  constructor(root) {
    this.#root = root;
    this.#range = root.querySelector("input");
    this.#range.addEventListener("input", () => this.#place());
    this.#place();
  }

  /** Share of the frame that shows the photo as it was, 0 to 100. */
  get split() {
    return Number(this.#range.value);
  }

  set split(value) {
    this.#range.value = value;
    this.#place();
  }

  show(before, after, alt) {
    const [below, above] = this.#root.querySelectorAll("img");
    if (below.src !== before) below.src = before;
    above.src = after;
    above.alt = alt;
  }

  #place() {
    this.#root.style.setProperty("--split", `${this.split}%`);
    this.#root.dataset.side = this.split < 12 ? "after" : this.split > 88 ? "before" : "both";
  }
}
