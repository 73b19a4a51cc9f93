// The question for the server's token.

import { setToken } from "./server.js";

export class TokenQuestion {
  #dialog;
  #asked = false;
  #answer = null; // what the question under way leads to

  constructor(dialog) {
    this.#dialog = dialog;
    const refuse = () => {
      this.#asked = false;
      this.#end(false);
    };
    dialog.querySelector("form").addEventListener("submit", () => {
      setToken(this.#input.value);
      this.#end(true);
    });
    dialog.querySelector("[type=button]").addEventListener("click", refuse);
    dialog.addEventListener("cancel", refuse);
  }

  /** Ask; whether a token was given. Asked a second time, it says that the first one was wrong. */
  ask() {
    this.#dialog.querySelector("[role=alert]").hidden = !this.#asked;
    this.#asked = true;
    this.#input.value = "";
    this.#dialog.showModal();
    return new Promise((resolve) => {
      this.#answer = resolve;
    });
  }

  /** What was given is right: the next question is a first one again. */
  accepted() {
    this.#asked = false;
  }

  get #input() {
    return this.#dialog.querySelector("input");
  }

  #end(given) {
    this.#dialog.close();
    this.#answer?.(given);
    this.#answer = null;
  }
}
