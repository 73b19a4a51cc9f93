// Lamps laid over the photo: moved, scaled and taken away by mouse, finger or keys, then drawn into the picture.

/** Size of each drawing, and its height on the photo when it is new, as a share of the photo's height. */
export const LAMPS = {
  table: { file: "page/table.svg", ratio: 300 / 420, height: 0.34, x: 0.68, y: 0.64 },
  pendant: { file: "page/pendant.svg", ratio: 300 / 560, height: 0.44, x: 0.5, y: 0.22 },
  floor: { file: "page/floor.svg", ratio: 300 / 900, height: 0.66, x: 0.8, y: 0.6 },
};

const SMALLEST = 0.06;
const LARGEST = 1.6;

const within = (value, low, high) => Math.min(high, Math.max(low, value));

/** The lamps over one photo. Places and heights are shares of the photo's size: {kind, x, y, height}, x and y its centre. */
export class LampLayer {
  #root;
  #say;
  #ratio = 1;
  lamps = [];

  /**
   * @param {HTMLElement} root covers the photo exactly
   * @param {(key: string) => string} say words by key
   */
  constructor(root, say) {
    this.#root = root;
    this.#say = say;
  }

  /** @param {number} ratio width of the photo by its height, which cannot be measured while it is hidden */
  set(lamps, ratio) {
    this.#ratio = ratio;
    this.lamps = lamps.map((lamp) => ({ ...lamp }));
    this.render();
  }

  /** Put a new lamp at a place on the photo, or where such a lamp usually stands. */
  add(kind, x = LAMPS[kind].x, y = LAMPS[kind].y) {
    const lamp = { kind, x: within(x, 0, 1), y: within(y, 0, 1), height: LAMPS[kind].height };
    this.lamps.push(lamp);
    this.render();
    this.#root.lastElementChild.focus({ preventScroll: true });
  }

  remove(lamp) {
    const index = this.lamps.indexOf(lamp);
    this.lamps.splice(index, 1);
    this.render();
    (this.#root.children[Math.min(index, this.lamps.length - 1)] ?? this.#root).focus({ preventScroll: true });
  }

  render() {
    this.#root.replaceChildren(...this.lamps.map((lamp) => this.#element(lamp)));
  }

  /** Draw all lamps onto a canvas of the photo. */
  async draw(context, width, height) {
    for (const lamp of this.lamps) {
      const image = new Image();
      image.src = LAMPS[lamp.kind].file;
      await image.decode();
      const tall = lamp.height * height;
      const wide = tall * LAMPS[lamp.kind].ratio;
      context.drawImage(image, lamp.x * width - wide / 2, lamp.y * height - tall / 2, wide, tall);
    }
  }

  #element(lamp) {
    const element = document.createElement("div");
    element.className = "lamp";
    element.tabIndex = 0;
    element.setAttribute("role", "group");
    element.setAttribute("aria-label", `${this.#say(lamp.kind)}. ${this.#say("lampKeys")}`);
    const image = Object.assign(new Image(), { src: LAMPS[lamp.kind].file, alt: "", draggable: false });
    const handle = document.createElement("span");
    handle.className = "handle";
    handle.title = this.#say("scale");
    const remove = Object.assign(document.createElement("button"), { type: "button", className: "remove", title: this.#say("remove") });
    remove.setAttribute("aria-label", this.#say("remove"));
    element.append(image, handle, remove);
    remove.addEventListener("click", () => this.remove(lamp));
    element.addEventListener("keydown", (event) => this.#key(event, lamp, element));
    element.addEventListener("pointerdown", (event) => {
      if (event.target === remove || event.button > 0) return;
      event.preventDefault();
      element.focus({ preventScroll: true });
      this.#drag(event, lamp, element, event.target === handle);
    });
    this.#place(lamp, element);
    return element;
  }

  #place(lamp, element) {
    lamp.height = within(lamp.height, SMALLEST, LARGEST);
    lamp.x = within(lamp.x, 0, 1);
    lamp.y = within(lamp.y, 0, 1);
    element.style.left = `${lamp.x * 100}%`;
    element.style.top = `${lamp.y * 100}%`;
    element.style.height = `${lamp.height * 100}%`;
    element.style.aspectRatio = LAMPS[lamp.kind].ratio;
    // From the lamp's edges to the photo's, in lamp sizes: its knobs stay on the photo however large the lamp is.
    const width = (lamp.height * LAMPS[lamp.kind].ratio) / this.#ratio;
    const edges = { "--above": lamp.y / lamp.height, "--below": (1 - lamp.y) / lamp.height, "--beside": (1 - lamp.x) / width };
    for (const [name, share] of Object.entries(edges)) element.style.setProperty(name, `${100 * (share - 0.5)}%`);
  }

  #drag(start, lamp, element, scaling) {
    const frame = this.#root.getBoundingClientRect();
    const from = { ...lamp };
    const centre = { x: frame.left + lamp.x * frame.width, y: frame.top + lamp.y * frame.height };
    const reach = Math.hypot(start.clientX - centre.x, start.clientY - centre.y);
    element.setPointerCapture(start.pointerId);
    const move = (event) => {
      if (scaling) {
        lamp.height = from.height * (Math.hypot(event.clientX - centre.x, event.clientY - centre.y) / reach);
      } else {
        lamp.x = from.x + (event.clientX - start.clientX) / frame.width;
        lamp.y = from.y + (event.clientY - start.clientY) / frame.height;
      }
      this.#place(lamp, element);
    };
    const end = () => element.removeEventListener("pointermove", move);
    element.addEventListener("pointermove", move);
    element.addEventListener("pointerup", end, { once: true });
    element.addEventListener("pointercancel", end, { once: true });
  }

  #key(event, lamp, element) {
    if (event.target !== element) return;
    const far = event.shiftKey ? 0.05 : 0.01;
    const changes = {
      ArrowLeft: () => (lamp.x -= far), ArrowRight: () => (lamp.x += far),
      ArrowUp: () => (lamp.y -= far), ArrowDown: () => (lamp.y += far),
      "+": () => (lamp.height *= 1.05), "=": () => (lamp.height *= 1.05), "-": () => (lamp.height /= 1.05),
      Delete: () => this.remove(lamp), Backspace: () => this.remove(lamp), Escape: () => element.blur(),
    };
    const change = changes[event.key];
    if (!change) return;
    event.preventDefault();
    change();
    if (this.lamps.includes(lamp)) this.#place(lamp, element);
  }
}

/** Let a button of the tray be dragged onto the photo; a plain click or Enter puts its lamp where such lamps stand. */
export function draggable(button, layer, surface) {
  let ghost = null;
  let dragged = false;
  button.addEventListener("pointerdown", (start) => {
    if (start.button > 0) return;
    dragged = false;
    button.setPointerCapture(start.pointerId);
    const move = (event) => {
      if (!ghost && Math.hypot(event.clientX - start.clientX, event.clientY - start.clientY) < 6) return;
      dragged = true;
      ghost ??= makeGhost(button.dataset.lamp, surface);
      ghost.style.left = `${event.clientX}px`;
      ghost.style.top = `${event.clientY}px`;
    };
    const end = (event) => {
      button.removeEventListener("pointermove", move);
      button.removeEventListener("pointerup", end);
      button.removeEventListener("pointercancel", end);
      ghost?.remove();
      ghost = null;
      const frame = surface.getBoundingClientRect();
      const x = (event.clientX - frame.left) / frame.width;
      const y = (event.clientY - frame.top) / frame.height;
      if (dragged && event.type === "pointerup" && x >= 0 && x <= 1 && y >= 0 && y <= 1) layer.add(button.dataset.lamp, x, y);
    };
    button.addEventListener("pointermove", move);
    button.addEventListener("pointerup", end);
    button.addEventListener("pointercancel", end);
  });
  button.addEventListener("click", () => {
    if (!dragged) layer.add(button.dataset.lamp);
    dragged = false;
  });
}

function makeGhost(kind, surface) {
  const ghost = Object.assign(new Image(), { src: LAMPS[kind].file, className: "ghost", alt: "" });
  ghost.style.height = `${LAMPS[kind].height * surface.getBoundingClientRect().height}px`;
  document.body.append(ghost);
  return ghost;
}
