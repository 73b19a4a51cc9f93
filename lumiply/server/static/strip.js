// The rooms of the history, side by side. Its root tells "openroom" or "forgetroom" with the room as `detail`.

import { COLORS } from "./relight.js";
import { say } from "./words.js";

export class Strip {
  #root;
  #thumbs = new Map(); // object URLs by room's id

  constructor(root) {
    this.#root = root;
  }

  /**
   * @param {Object[]} rooms as history.js keeps them
   * @param {string | null} openId of the one that the page shows
   * @param {boolean} running whether that one is being relit
   */
  paint(rooms, openId, running) {
    for (const [id, url] of this.#thumbs) {
      if (rooms.some((room) => room.id === id)) continue;
      URL.revokeObjectURL(url);
      this.#thumbs.delete(id);
    }
    const stood = document.activeElement;
    const index = [...this.#root.children].findIndex((item) => item.contains(stood));
    this.#root.replaceChildren(...rooms.map((room) => this.#item(room, room.id === openId, running)));
    if (index < 0) return;
    const item = this.#root.children[Math.min(index, rooms.length - 1)]; // the keyboard stays where it was
    item?.querySelector(stood.classList.contains("remove") ? ".remove" : ".thumb").focus({ preventScroll: true });
  }

  #item(room, isOpen, running) {
    if (!this.#thumbs.has(room.id)) this.#thumbs.set(room.id, URL.createObjectURL(room.thumb));
    const open = Object.assign(document.createElement("button"), { type: "button", className: "thumb" });
    open.setAttribute("aria-label", `${say("openRoom")}: ${room.name}`);
    open.setAttribute("aria-current", String(isOpen));
    open.append(Object.assign(new Image(), { src: this.#thumbs.get(room.id), alt: "", draggable: false }));
    const dots = Object.assign(document.createElement("span"), { className: "dots" });
    for (const name of COLORS.filter((each) => room.results[each])) {
      dots.append(Object.assign(document.createElement("i"), { className: name }));
    }
    if (room.upload && !(running && isOpen)) dots.append(say("unfinished"));
    open.append(dots);
    open.addEventListener("click", () => this.#tell("openroom", room));

    const forget = Object.assign(document.createElement("button"), { type: "button", className: "remove" });
    forget.setAttribute("aria-label", `${say("forget")}: ${room.name}`);
    forget.addEventListener("click", () => this.#tell("forgetroom", room));
    const item = document.createElement("li");
    item.append(open, forget);
    return item;
  }

  #tell(what, room) {
    this.#root.dispatchEvent(new CustomEvent(what, { detail: room }));
  }
}
