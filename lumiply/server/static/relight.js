// One photo in all seven colours: ask, follow, collect, and ask again where a connection broke.

import { getHealth, getJob, getPicture, process, ServerError } from "./server.js";

export const COLORS = ["white", "red", "orange", "yellow", "green", "blue", "purple"];

const POLL_MS = 700;
const WAIT_MS = 2_000;
const BROKEN = new Set(["network", "timeout", "http_502", "http_503", "http_504"]);
const MOST_BREAKS = 3;

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    const stop = () => {
      clearTimeout(timer);
      reject(new ServerError("stopped"));
    };
    if (signal.aborted) stop();
    signal.addEventListener("abort", stop, { once: true });
  });
}

/**
 * Results come through `on.picture` as they are there; what cannot be had through `on.failed`.
 *
 * @param {{id: string, upload: Blob, seed?: string, preset?: string}} job
 * @param {Iterable<string>} colors what is still missing
 * @param {{uploading(share), waiting(reason, place), progress(color, share), picture(color, blob), failed(color, error)}} on
 * @throws {ServerError} nothing more can be had; "stopped" if `signal` said so
 */
export async function relight(job, colors, on, signal) {
  const missing = new Set(colors);
  const follower = new Follower(job, missing, on, signal);
  try {
    for (const color of COLORS.filter((name) => missing.has(name))) {
      if (!missing.has(color)) continue; // the follower brought it
      try {
        const answer = await ask(job, color, on, signal, follower);
        await collect(color, answer.result.images[color], missing, on, signal);
        if (!(await follower.look())) follower.giveUp();
      } catch (error) {
        const alone = error.status === 400 && missing.size < COLORS.length;
        if (!alone) throw error;
        missing.delete(color);
        on.failed(color, error);
      }
    }
  } finally {
    follower.end();
  }
}

/** The answer for one colour. A server that loads longer than it lets wait, and a broken connection, are tried again. */
async function ask(job, color, on, signal, follower) {
  for (let breaks = 0; ; ) {
    try {
      return await process(job, color, (share) => {
        on.uploading(share);
        if (share === 1) follower.start();
      }, signal);
    } catch (error) {
      if (error.code === "loading") {
        on.waiting("waking");
        await loaded(signal);
      } else if (BROKEN.has(error.code) && (breaks += 1) < MOST_BREAKS) {
        on.waiting("broken");
        await pause(WAIT_MS, signal);
      } else {
        throw error;
      }
    }
  }
}

/** Once the model is loaded, or the server says something else about it. */
async function loaded(signal) {
  do {
    await pause(POLL_MS, signal);
  } while ((await getHealth().catch(() => ({ engine: "loading" }))).engine === "loading");
}

async function collect(color, url, missing, on, signal) {
  const blob = await getPicture(url, signal);
  if (missing.delete(color)) on.picture(color, blob);
}

/** Reads `GET /jobs/<id>` while the server has it: how far each colour is, and where its picture is. */
class Follower {
  #started = false;
  #over = false;
  #known = null; // null: not asked yet; false: the server does not tell
  #awake = false; // whether the model was seen loaded

  constructor(job, missing, on, signal) {
    Object.assign(this, { job, missing, on, signal });
  }

  start() {
    if (this.#started || this.#known === false) return;
    this.#started = true;
    this.#follow();
  }

  end() {
    this.#over = true;
  }

  /** A server that answered and knows no job has none to tell of. */
  giveUp() {
    this.#known ??= false;
  }

  async #follow() {
    for (let misses = 0; !this.#over && this.#known !== false && misses < 4; ) {
      try {
        await pause(POLL_MS, this.signal);
      } catch {
        return;
      }
      if (this.#over) return;
      misses = (await this.look()) ? 0 : misses + 1;
    }
    this.giveUp();
  }

  /** Whether nothing goes on because the server still loads the model. */
  async #loading() {
    if (this.#awake) return false;
    const { engine } = await getHealth().catch(() => ({}));
    this.#awake = engine === "ready";
    if (engine !== "loading") return false;
    if (!this.#over) this.on.waiting("waking");
    return true;
  }

  /** Look once. False if there was nothing to see. */
  async look() {
    if (this.#known === false) return false;
    let seen;
    try {
      seen = await getJob(this.job.id, this.signal);
    } catch (error) {
      return error.code === "network" || (await this.#loading());
    }
    if (!seen.colors) return false;
    this.#known = true;
    if (this.#over) return true;
    if (seen.state === "queued" && !(await this.#loading()) && !this.#over) this.on.waiting("queued", seen.queue_place);
    for (const color of [...this.missing]) {
      const state = seen.colors[color];
      if (state?.image_url) {
        await collect(color, state.image_url, this.missing, this.on, this.signal).catch(() => {});
      } else if (state?.steps && seen.state === "running") {
        this.on.progress(color, state.steps_done / state.steps);
      }
    }
    return true;
  }
}
