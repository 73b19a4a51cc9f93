// What the page shows at the moment, and how it is shown: one view at a time (empty, edit, busy, done).

import { Compare } from "./compare.js";
import { HealthWatch } from "./health.js";
import { History } from "./history.js";
import { LampLayer } from "./lamps.js";
import { Notice } from "./notice.js";
import { Palette } from "./palette.js";
import { Phase } from "./phase.js";
import { Strip } from "./strip.js";
import { forget } from "./visit.js";
import { say } from "./words.js";

/** Under which the id of the open room is remembered over a reload. */
export const OPEN = "lumiply.open";

export const $ = (id) => document.getElementById(id);

/**
 * @property {string} view
 * @property {Object | null} room what history.js describes
 * @property {HTMLImageElement | null} image the photo, decoded
 * @property {string} color the chosen one
 * @property {Object} work see `nothingYet`
 * @property {AbortController | null} running of the render under way
 */
export const desk = { view: "empty", room: null, image: null, color: "white", work: nothingYet(), running: null };

/** By colour: object URLs of pictures (and of the photo "before"), progress from 0 to 1, errors. */
export function nothingYet() {
  return { pictures: {}, shares: {}, failures: {} };
}

export const history = new History();
export const layer = new LampLayer($("lamps"), say);
export const phase = new Phase({ name: $("stage-name"), text: $("stage-text"), clock: $("clock"), bar: $("progress") });
export const notice = new Notice($("notice"));
export const health = new HealthWatch({ dot: $("health-dot"), text: $("health"), model: $("model") }, $("preset"));
const compare = new Compare($("compare"));
const strip = new Strip($("rooms"));
const palette = new Palette($("palette"), (name) => {
  desk.color = name;
  paint();
});

/** Where the keyboard goes when what it stood on is gone. */
const FIRST = {
  empty: () => $("file").focus({ preventScroll: true }),
  edit: () => $("edit-title").focus({ preventScroll: true }),
  busy: () => $("cancel").focus({ preventScroll: true }),
  done: () => palette.focus(),
};

export function show(next) {
  keepingFocus(() => {
    desk.view = next;
    document.body.dataset.view = next;
    for (const element of document.querySelectorAll("[data-in]")) element.hidden = !element.dataset.in.split(" ").includes(next);
    phase.running = next === "busy";
    paint();
    paintHistory();
  });
}

function keepingFocus(change) {
  const stood = document.activeElement;
  change();
  const stands = document.activeElement;
  if (stood !== document.body && (stands === document.body || stands.closest("[hidden]"))) FIRST[desk.view]();
}

/** Bring everything that changes with the state up to date. */
export function paint() {
  const { view, color, room, work } = desk;
  const shown = work.pictures[color];
  document.body.dataset.light = view === "done" || shown ? color : "";
  paintPicture();
  paintProgress();
  $("light-name").textContent = say("light", { color: say(color) });
  $("made-by").hidden = !room?.by;
  if (room?.by) $("made-by").textContent = say("madeBy", { model: room.by.name, size: room.by.size });
  const failed = Object.keys(work.failures);
  $("missing").hidden = failed.length === 0;
  $("missing").textContent = say("missing", { colors: failed.map((name) => say(name)).join(", ") });
  $("save-all").hidden = !room || Object.keys(room.results).length < 2;
  $("language").textContent = say("language");
  $("language").lang = say("languageCode");
}

function paintPicture() {
  const { view, color, image } = desk;
  const { pictures } = desk.work;
  const comparing = (view === "busy" || view === "done") && Boolean(pictures[color]);
  $("compare").hidden = !comparing;
  if (comparing) compare.show(pictures.before, pictures[color], say("roomIn", { color: say(color).toLowerCase() }));
  $("photo").alt = say("photoAlt");
  const below = view === "busy" ? pictures.before : image?.src;
  if (below && $("photo").src !== below) $("photo").src = below;
  $("veil").classList.toggle("thin", comparing);
}

/** The palette's rings, and the words and the bar of a render. */
export function paintProgress() {
  palette.paint(desk.color, desk.work);
  phase.paint(desk.work);
}

export function paintHistory() {
  keepingFocus(() => {
    $("history").hidden = history.rooms.length === 0;
    strip.paint(history.rooms, desk.view === "empty" ? null : desk.room?.id, Boolean(desk.running));
  });
}

export function toTop() {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  window.scrollTo({ top: 0, behavior: still ? "instant" : "smooth" });
}

/** Put a photo, decoded, and its room onto the desk; show nothing of them yet. */
export function lay(image, room) {
  Object.assign(desk, { image, room });
  const ratio = image.naturalWidth / image.naturalHeight;
  $("stage").style.setProperty("--ratio", ratio);
  layer.set(room.lamps, ratio);
}

/** Take everything off the desk; what is kept stays kept. */
export function clear() {
  desk.running?.abort();
  for (const url of Object.values(desk.work.pictures)) URL.revokeObjectURL(url);
  if (desk.image) URL.revokeObjectURL(desk.image.src);
  Object.assign(desk, { room: null, image: null, work: nothingYet(), color: "white", running: null });
  forget(OPEN);
  notice.hide();
}

/** Back to the empty page. */
export function leave() {
  clear();
  show("empty");
}
