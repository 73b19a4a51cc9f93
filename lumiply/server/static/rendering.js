// One render of the photo on the desk: begun, followed, cancelled, and told of where it fails.

import { $, desk, health, history, layer, nothingYet, notice, OPEN, paint, paintHistory, paintProgress, phase, show, toTop } from "./desk.js";
import { lit } from "./history.js";
import { compose } from "./photo.js";
import { COLORS, relight } from "./relight.js";
import { cancelJob } from "./server.js";
import { TokenQuestion } from "./token.js";
import { forget, remember } from "./visit.js";
import { say } from "./words.js";

const question = new TokenQuestion($("token-dialog"));

let starting = false; // whether the photo is being drawn to be sent

function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return `web-${[...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

/** Relight the photo with its lamps, as the fields of the page say. */
export async function start() {
  if (starting) return;
  const seed = $("seed").value.trim();
  if (seed && !/^\d{1,18}$/.test(seed)) {
    $("more").open = true;
    $("seed").focus();
    notice.show({ code: "bad_seed", sentence: say("seedBad") });
    return;
  }
  const photo = desk.image;
  const lamps = layer.lamps.map((lamp) => ({ ...lamp }));
  starting = true;
  let drawn;
  try {
    drawn = await compose(photo, layer);
  } catch (error) {
    console.warn("photo not drawn:", error); // such as a canvas for which a phone has no memory
    if (photo === desk.image) notice.show({ code: "unreadable" });
    return;
  } finally {
    starting = false;
  }
  if (photo !== desk.image) return; // another one has come meanwhile
  abandon(desk.room);
  for (const url of Object.values(desk.work.pictures)) URL.revokeObjectURL(url);
  desk.room = { ...desk.room, ...drawn, id: newId(), made: Date.now(), lamps, seed, preset: $("preset").value, results: {}, by: null };
  desk.work = { ...nothingYet(), pictures: { before: URL.createObjectURL(drawn.before) } };
  desk.color = "white";
  await run();
}

/** A room's render is given up: what there is of it is kept, and nobody asks for the rest. */
async function abandon(room) {
  if (room.upload) cancelJob(room.id);
  await history.removeUnlit(room.id);
  paintHistory();
}

/** Get what is missing of the room on the desk. */
export async function run() {
  const mine = desk.room;
  const control = new AbortController();
  desk.running = control;
  notice.hide();
  remember(OPEN, mine.id);
  phase.begin();
  show("busy");
  toTop();
  await history.put(mine);
  const missing = COLORS.filter((name) => !mine.results[name]);
  try {
    await relight(mine, missing, listener(mine), control.signal);
    mine.upload = null; // nothing left to ask for
    mine.by = health.model;
    await history.put(mine);
    if (desk.running !== control) return;
    desk.running = null;
    question.accepted();
    show("done");
  } catch (error) {
    if (desk.running !== control) return;
    desk.running = null;
    await failed(mine, error);
  }
}

function listener(mine) {
  const current = () => mine === desk.room;
  const goesOn = (name, text = "", sent = 1) => {
    phase.set(name, text, sent);
    paintProgress();
  };
  return {
    uploading(share) {
      if (!current() || Object.keys(mine.results).length) return;
      goesOn(share < 1 ? "uploading" : "rendering", "", share);
    },
    waiting(reason, place) {
      if (!current()) return;
      goesOn(reason, reason !== "queued" ? say(`${reason}Text`) : place ? say("queuedText", { n: place }) : "");
    },
    progress(name, share) {
      if (!current()) return;
      desk.work.shares[name] = share;
      goesOn("rendering");
    },
    async picture(name, blob) {
      mine.results[name] = blob;
      if (current()) {
        desk.work.pictures[name] = URL.createObjectURL(blob);
        phase.set("rendering");
        if (!desk.work.pictures[desk.color]) desk.color = name;
        paint();
      }
      await history.put(mine);
      paintHistory();
    },
    failed(name, error) {
      if (!current()) return;
      desk.work.failures[name] = error;
      paint();
    },
  };
}

async function failed(mine, error) {
  if (error.code === "unauthorized") {
    const given = await question.ask();
    if (mine !== desk.room) return; // another photo has come meanwhile
    if (given) {
      await run();
    } else {
      await abandon(mine);
      show("edit");
    }
    return;
  }
  const partly = lit(mine);
  show(partly ? "done" : "edit");
  notice.show(error, partly ? run : start); // above the lamps and fields, again means as they are then
  if (error.code === "network") health.look();
}

/** End the render under way, here and at the server. */
export function cancel() {
  const { room } = desk;
  desk.running?.abort();
  desk.running = null;
  cancelJob(room.id);
  room.upload = null;
  if (Object.keys(room.results).length) history.put(room);
  else history.remove(room.id);
  forget(OPEN);
  show("edit");
}
