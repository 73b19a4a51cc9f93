// The page: one view at a time (empty, edit, busy, done), and what leads from one to the next.

import { Compare } from "./compare.js";
import { HealthWatch } from "./health.js";
import { History } from "./history.js";
import { takePhotos } from "./incoming.js";
import { draggable, LampLayer } from "./lamps.js";
import { Notice } from "./notice.js";
import { Palette } from "./palette.js";
import { compose, decode } from "./photo.js";
import { Phase } from "./phase.js";
import { COLORS, relight } from "./relight.js";
import { saveAll, saveOne } from "./save.js";
import { cancelJob, getFile, takeToken } from "./server.js";
import { Strip } from "./strip.js";
import { TokenQuestion } from "./token.js";
import { forget, recall, remember } from "./visit.js";
import { say, switchLanguage, translate } from "./words.js";

const OPEN = "lumiply.open";

const $ = (id) => document.getElementById(id);
const history = new History();
const compare = new Compare($("compare"));
const layer = new LampLayer($("lamps"), say);
const palette = new Palette($("palette"), choose);
const phase = new Phase({ name: $("stage-name"), text: $("stage-text"), clock: $("clock"), bar: $("progress") });
const strip = new Strip($("rooms"), { open: openRoom, forget: forgetRoom });
const notice = new Notice($("notice"));
const question = new TokenQuestion($("token-dialog"));
const health = new HealthWatch({ dot: $("health-dot"), text: $("health"), model: $("model") }, $("preset"));

let view = "empty";
let room = null; // what history.js describes
let image = null; // the photo, decoded
let color = "white";
let work = nothingYet();
let running = null; // AbortController of the render under way
let starting = false; // whether the photo is being drawn to be sent

/** By colour: object URLs of pictures (and of the photo "before"), progress from 0 to 1, errors. */
function nothingYet() {
  return { pictures: {}, shares: {}, failures: {} };
}

// ---- views

/** Where the keyboard goes when what it stood on is gone. */
const FIRST = {
  empty: () => $("file").focus({ preventScroll: true }),
  edit: () => $("edit-title").focus({ preventScroll: true }),
  busy: () => $("cancel").focus({ preventScroll: true }),
  done: () => palette.focus(),
};

function show(next) {
  keepingFocus(() => {
    view = next;
    document.body.dataset.view = view;
    for (const element of document.querySelectorAll("[data-in]")) element.hidden = !element.dataset.in.split(" ").includes(view);
    phase.running = view === "busy";
    paint();
    paintHistory();
  });
}

function keepingFocus(change) {
  const stood = document.activeElement;
  change();
  const stands = document.activeElement;
  if (stood !== document.body && (stands === document.body || stands.closest("[hidden]"))) FIRST[view]();
}

/** Bring everything that changes with the state up to date. */
function paint() {
  const { pictures, failures } = work;
  document.body.dataset.light = view === "done" || pictures[color] ? color : "";
  palette.paint(color, work);
  const comparing = (view === "busy" || view === "done") && Boolean(pictures[color]);
  $("compare").hidden = !comparing;
  if (comparing) compare.show(pictures.before, pictures[color], say("roomIn", { color: say(color).toLowerCase() }));
  $("photo").alt = say("photoAlt");
  const shown = view === "busy" ? pictures.before : image?.src;
  if (shown && $("photo").src !== shown) $("photo").src = shown;
  $("veil").classList.toggle("thin", comparing);
  $("light-name").textContent = say("light", { color: say(color) });
  $("made-by").hidden = !room?.by;
  if (room?.by) $("made-by").textContent = say("madeBy", { model: room.by.name, size: room.by.size });
  const failed = Object.keys(failures);
  $("missing").hidden = failed.length === 0;
  $("missing").textContent = say("missing", { colors: failed.map((name) => say(name)).join(", ") });
  $("save-all").hidden = !room || Object.keys(room.results).length < 2;
  phase.paint(work);
  $("language").textContent = say("language");
  $("language").lang = say("languageCode");
}

function paintHistory() {
  keepingFocus(() => {
    $("history").hidden = history.rooms.length === 0;
    strip.paint(history.rooms, view === "empty" ? null : room?.id, Boolean(running));
  });
}

function choose(name) {
  color = name;
  paint();
}

function toTop() {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  window.scrollTo({ top: 0, behavior: still ? "instant" : "smooth" });
}

// ---- the photo

async function usePhoto(file, name = file.name || "room") {
  if (file.type && !file.type.startsWith("image/")) {
    notice.show({ code: "not_a_picture" });
    return;
  }
  let decoded;
  try {
    decoded = await decode(file);
  } catch {
    notice.show({ code: "unreadable" });
    return;
  }
  const stood = view === "empty" ? null : view;
  leave();
  image = decoded;
  room = { id: "", made: 0, name, base: file, lamps: [], seed: "", preset: "", upload: null, before: null, results: {}, thumb: null, by: null };
  setRatio();
  layer.set([]);
  show("edit");
  if (stood !== "edit") toTop();
}

function setRatio() {
  $("stage").style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
}

/** Forget what the page shows; what is kept stays kept. */
function clear() {
  running?.abort();
  running = null;
  for (const url of Object.values(work.pictures)) URL.revokeObjectURL(url);
  if (image) URL.revokeObjectURL(image.src);
  [room, image, work, color] = [null, null, nothingYet(), "white"];
  forget(OPEN);
  notice.hide();
}

/** Back to the empty page. */
function leave() {
  clear();
  show("empty");
}

// ---- relighting

function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return `web-${[...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

async function start() {
  if (starting) return;
  const seed = $("seed").value.trim();
  if (seed && !/^\d{1,18}$/.test(seed)) {
    $("more").open = true;
    $("seed").focus();
    notice.show({ code: "bad_seed", sentence: say("seedBad") });
    return;
  }
  const photo = image;
  starting = true;
  let drawn;
  try {
    drawn = await compose(photo, layer);
  } catch (error) {
    console.warn("photo not drawn:", error); // such as a canvas for which a phone has no memory
    if (photo === image) notice.show({ code: "unreadable" });
    return;
  } finally {
    starting = false;
  }
  if (photo !== image) return; // another one has come meanwhile
  const lamps = layer.lamps.map((lamp) => ({ ...lamp }));
  room = { ...room, ...drawn, id: newId(), made: Date.now(), lamps, seed, preset: $("preset").value, results: {}, by: null };
  for (const url of Object.values(work.pictures)) URL.revokeObjectURL(url);
  work = { ...nothingYet(), pictures: { before: URL.createObjectURL(room.before) } };
  color = "white";
  await run();
}

/** Get what is missing of the open room. */
async function run() {
  const mine = room;
  const control = new AbortController();
  running = control;
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
    if (running !== control) return;
    running = null;
    question.accepted();
    show("done");
  } catch (error) {
    if (running !== control) return;
    running = null;
    await failed(mine, error);
  }
}

function listener(mine) {
  const current = () => mine === room;
  return {
    uploading(share) {
      if (!current() || Object.keys(mine.results).length) return;
      phase.set(share < 1 ? "uploading" : "rendering", "", share);
      phase.paint(work);
    },
    waiting(reason, place) {
      if (!current()) return;
      phase.set(reason, reason !== "queued" ? say(`${reason}Text`) : place ? say("queuedText", { n: place }) : "");
      phase.paint(work);
    },
    progress(name, share) {
      if (!current()) return;
      work.shares[name] = share;
      phase.set("rendering");
      palette.paint(color, work);
      phase.paint(work);
    },
    async picture(name, blob) {
      mine.results[name] = blob;
      if (current()) {
        work.pictures[name] = URL.createObjectURL(blob);
        phase.set("rendering");
        if (!work.pictures[color]) color = name;
        paint();
      }
      await history.put(mine);
      paintHistory();
    },
    failed(name, error) {
      if (!current()) return;
      work.failures[name] = error;
      paint();
    },
  };
}

async function failed(mine, error) {
  if (error.code === "unauthorized") {
    if (await question.ask()) await run();
    else show("edit");
    return;
  }
  show(Object.keys(mine.results).length ? "done" : "edit");
  notice.show(error, run);
  if (error.code === "network") health.look();
}

function cancel() {
  running?.abort();
  running = null;
  cancelJob(room.id);
  room.upload = null;
  if (Object.keys(room.results).length) history.put(room);
  else history.remove(room.id);
  forget(OPEN);
  show("edit");
}

// ---- earlier rooms

async function openRoom(kept) {
  let decoded;
  try {
    decoded = await decode(kept.base);
  } catch {
    notice.show({ code: "unreadable" });
    return;
  }
  clear();
  [room, image] = [kept, decoded];
  setRatio();
  layer.set(kept.lamps);
  $("seed").value = kept.seed;
  $("preset").value = kept.preset;
  work.pictures.before = URL.createObjectURL(kept.before);
  for (const [name, blob] of Object.entries(kept.results)) work.pictures[name] = URL.createObjectURL(blob);
  color = COLORS.find((name) => work.pictures[name]) ?? "white";
  remember(OPEN, kept.id);
  toTop();
  if (kept.upload) await run();
  else show("done");
}

async function forgetRoom(kept) {
  if (kept.id === room?.id) leave();
  if (kept.upload) cancelJob(kept.id); // nobody will ask for it
  await history.remove(kept.id);
  paintHistory();
}

async function forgetAll() {
  if (!confirm(say("clearSure"))) return;
  leave();
  for (const kept of history.rooms) if (kept.upload) cancelJob(kept.id);
  await history.clear();
  paintHistory();
}

// ---- what can be pressed

async function useSample(button) {
  if (button.ariaBusy === "true") return;
  button.ariaBusy = "true";
  try {
    await usePhoto(await getFile(button.dataset.sample), say("sample"));
  } catch (error) {
    notice.show(error, () => useSample(button));
  } finally {
    button.ariaBusy = "false";
  }
}

function listen() {
  const onClick = (id, act) => $(id).addEventListener("click", act);
  onClick("relight", start);
  onClick("cancel", cancel);
  onClick("clear", forgetAll);
  onClick("save", () => saveOne(room, color));
  onClick("save-all", () => saveAll(room));
  onClick("home", (event) => {
    event.preventDefault();
    leave();
  });
  onClick("change", () => {
    notice.hide();
    show("edit");
  });
  onClick("language", () => {
    switchLanguage();
    translate();
    layer.render();
    notice.hide();
    show(view);
    health.look();
  });
  $("more").addEventListener("toggle", () => $("more").open && $("more").scrollIntoView({ block: "nearest" }));
  for (const button of document.querySelectorAll("[data-do=other]")) button.addEventListener("click", leave);
  for (const button of document.querySelectorAll("[data-lamp]")) draggable(button, layer, $("lamps"));
  for (const button of document.querySelectorAll("[data-sample]")) button.addEventListener("click", () => useSample(button));
  takePhotos($("file"), usePhoto);
}

// ---- begin

takeToken();
translate();
listen();
show("empty");
health.look();
await history.load();
paintHistory();
const kept = history.get(recall(OPEN));
document.body.dataset.started = "yes";
if (kept) await openRoom(kept);
