// The page: one view at a time (empty, edit, busy, done), and what leads from one to the next.

import { Compare } from "./compare.js";
import { History } from "./history.js";
import { draggable, LampLayer } from "./lamps.js";
import { COLORS, relight } from "./relight.js";
import { cancelJob, getFile, getHealth, setToken, takeToken } from "./server.js";
import { explain, say, switchLanguage, translate } from "./words.js";
import { zip } from "./zip.js";

/** Longest side that is sent. Above it a photo gains nothing: the model works at a fraction of it. */
const LONGEST = 2048;
const OPEN = "lumiply.open";

const $ = (id) => document.getElementById(id);
const history = new History();
const compare = new Compare($("compare"));
const layer = new LampLayer($("lamps"), say, () => {});

let view = "empty";
let room = null; // what history.js describes
let image = null; // the photo, decoded
let color = "white";
let pictures = {}; // object URLs by colour, and "before"
let shares = {}; // progress by colour, 0 to 1
let failures = {}; // errors by colour
let running = null; // AbortController of the render under way
let again = null; // what "try again" does
let phase = { name: "uploading", text: "" };

// ---- views

function show(next) {
  view = next;
  document.body.dataset.view = view;
  for (const element of document.querySelectorAll("[data-in]")) element.hidden = !element.dataset.in.split(" ").includes(view);
  paint();
  paintHistory();
}

/** Bring everything that changes with the state up to date. */
function paint() {
  document.body.dataset.light = view === "done" || pictures[color] ? color : "";
  for (const name of COLORS) paintSwatch(name);
  const comparing = (view === "busy" || view === "done") && Boolean(pictures[color]);
  $("compare").hidden = !comparing;
  if (comparing) compare.show(pictures.before, pictures[color], say("roomIn", { color: say(color).toLowerCase() }));
  $("photo").alt = say("photoAlt");
  const shown = view === "busy" ? pictures.before : image?.src;
  if (shown && $("photo").src !== shown) $("photo").src = shown;
  $("veil").classList.toggle("thin", comparing);
  $("light-name").textContent = say("light", { color: say(color) });
  const failed = Object.keys(failures);
  $("missing").hidden = failed.length === 0;
  $("missing").textContent = say("missing", { colors: failed.map((name) => say(name)).join(", ") });
  $("save-all").hidden = !room || Object.keys(room.results).length < 2;
  paintPhase();
  $("language").textContent = say("language");
  $("language").lang = say("languageCode");
}

function paintSwatch(name) {
  const swatch = $("palette").querySelector(`[data-color="${name}"]`);
  const state = pictures[name] ? "ready" : failures[name] ? "failed" : "waiting";
  swatch.dataset.state = state;
  swatch.setAttribute("aria-checked", String(name === color));
  swatch.setAttribute("aria-disabled", String(state !== "ready"));
  swatch.tabIndex = name === color ? 0 : -1;
  const key = { ready: "light", failed: "failedColor", waiting: "waitingFor" }[state];
  swatch.setAttribute("aria-label", say(key, { color: say(name) }));
  swatch.title = failures[name] ? explain(failures[name]) : say(name);
  swatch.querySelector("small").textContent = say(name);
  swatch.style.setProperty("--share", `${100 * (shares[name] ?? 0)}%`);
}

function paintPhase() {
  const ready = room ? Object.keys(room.results).length : 0;
  $("stage-name").textContent = say(phase.name);
  const share = phase.name === "uploading" ? phase.share : COLORS.reduce((sum, name) => sum + (pictures[name] ? 1 : shares[name] ?? 0), 0) / COLORS.length;
  const finishing = phase.name === "rendering" && share === 1 && ready < COLORS.length; // all steps done, and no pictures yet
  $("stage-text").textContent = phase.text || say(ready ? "readyText" : finishing ? "finishingText" : "", { n: ready });
  if (share && !finishing) $("progress").value = share;
  else $("progress").removeAttribute("value");
}

function paintHistory() {
  $("history").hidden = history.rooms.length === 0;
  $("rooms").replaceChildren(...history.rooms.map(historyItem));
}

const thumbs = new Map(); // object URL of a thumbnail, by room

function historyItem(kept) {
  const item = document.createElement("li");
  const open = Object.assign(document.createElement("button"), { type: "button", className: "thumb" });
  open.setAttribute("aria-label", `${say("openRoom")}: ${kept.name}`);
  open.setAttribute("aria-current", String(kept.id === room?.id && view !== "empty"));
  if (!thumbs.has(kept.thumb)) thumbs.set(kept.thumb, URL.createObjectURL(kept.thumb));
  open.append(Object.assign(new Image(), { src: thumbs.get(kept.thumb), alt: "" }));
  const dots = Object.assign(document.createElement("span"), { className: "dots" });
  for (const name of COLORS.filter((each) => kept.results[each])) {
    dots.append(Object.assign(document.createElement("i"), { className: name }));
  }
  if (kept.upload && !(running && kept.id === room?.id)) dots.append(say("unfinished"));
  open.append(dots);
  open.addEventListener("click", () => openRoom(kept));
  const forget = Object.assign(document.createElement("button"), { type: "button", className: "remove" });
  forget.setAttribute("aria-label", `${say("forget")}: ${kept.name}`);
  forget.addEventListener("click", async () => {
    if (kept.id === room?.id) leave();
    if (kept.upload) cancelJob(kept.id); // nobody will ask for it
    await history.remove(kept.id);
    paintHistory();
  });
  item.append(open, forget);
  return item;
}

// ---- errors

function complain(error, retry = null) {
  again = retry;
  $("notice-text").textContent = explain(error);
  $("notice").dataset.code = error.code;
  $("retry").hidden = !retry;
  $("notice").hidden = false;
  $("notice").scrollIntoView({ block: "nearest" });
}

function calm() {
  $("notice").hidden = true;
}

// ---- the photo

async function usePhoto(file, name = file.name || "room") {
  if (!file.type.startsWith("image/")) {
    complain({ code: "not_a_picture" });
    return;
  }
  let decoded;
  try {
    decoded = await decode(file);
  } catch {
    complain({ code: "unreadable" });
    return;
  }
  leave();
  image = decoded;
  room = { id: "", made: 0, name, base: file, lamps: [], seed: "", preset: "", upload: null, before: null, results: {}, thumb: null };
  setRatio();
  layer.set([]);
  show("edit");
  window.scrollTo({ top: 0, behavior: "smooth" });
}

async function decode(blob) {
  const picture = new Image();
  picture.src = URL.createObjectURL(blob);
  await picture.decode();
  if (!picture.naturalWidth) throw new Error("no size");
  return picture;
}

function setRatio() {
  $("stage").style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
}

/** The photo with its lamps, at most `longest` pixels on a side. Turned upright, and without what a camera notes down. */
async function compose(longest = LONGEST) {
  const scale = Math.min(1, longest / Math.max(image.naturalWidth, image.naturalHeight));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(image.naturalWidth * scale));
  canvas.height = Math.max(1, Math.round(image.naturalHeight * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  await layer.draw(context, canvas.width, canvas.height);
  return canvas;
}

function toBlob(canvas, type, quality) {
  return new Promise((resolve, reject) => canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("no blob"))), type, quality));
}

/** Back to the empty page; what is kept stays kept. */
function leave() {
  running?.abort();
  running = null;
  for (const url of Object.values(pictures)) URL.revokeObjectURL(url);
  if (image) URL.revokeObjectURL(image.src);
  [room, image, pictures, shares, failures, color] = [null, null, {}, {}, {}, "white"];
  sessionStorage.removeItem(OPEN);
  calm();
  show("empty");
}

// ---- relighting

function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return `web-${[...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

async function start() {
  const seed = $("seed").value.trim();
  if (seed && !/^\d{1,18}$/.test(seed)) {
    $("more").open = true;
    $("seed").focus();
    complain({ code: "bad_seed", sentence: say("seedBad") });
    return;
  }
  $("relight").disabled = true;
  try {
    const canvas = await compose();
    const upload = await toBlob(canvas, "image/png");
    room = {
      ...room, id: newId(), made: Date.now(), lamps: layer.lamps.map((lamp) => ({ ...lamp })), seed, preset: $("preset").value,
      upload, before: await toBlob(canvas, "image/jpeg", 0.92), results: {}, thumb: await toBlob(await compose(320), "image/jpeg", 0.8),
    };
  } catch (error) {
    console.warn("photo not drawn:", error); // such as a canvas for which a phone has no memory
    complain({ code: "unreadable" });
    return;
  } finally {
    $("relight").disabled = false;
  }
  for (const url of Object.values(pictures)) URL.revokeObjectURL(url);
  [pictures, shares, failures, color] = [{ before: URL.createObjectURL(room.before) }, {}, {}, "white"];
  await history.put(room);
  await run();
}

/** Get what is missing of the open room. */
async function run() {
  calm();
  const mine = room;
  const control = new AbortController();
  running = control;
  sessionStorage.setItem(OPEN, mine.id);
  phase = { name: "uploading", text: "", share: 0 };
  show("busy");
  window.scrollTo({ top: 0, behavior: "smooth" });
  $("cancel").focus({ preventScroll: true });
  const missing = COLORS.filter((name) => !mine.results[name]);
  try {
    await relight(mine, missing, listener(mine), control.signal);
    mine.upload = null; // nothing left to ask for
    await history.put(mine);
    if (running === control) {
      const lost = [document.body, $("cancel")].includes(document.activeElement);
      show("done");
      if (lost) $("palette").querySelector("[aria-checked=true]").focus({ preventScroll: true });
    }
  } catch (error) {
    if (running === control) failed(mine, error);
  } finally {
    if (running === control) running = null;
  }
}

function listener(mine) {
  const current = () => mine === room;
  return {
    uploading(share) {
      if (!current() || Object.keys(mine.results).length) return;
      phase = share < 1 ? { name: "uploading", text: "", share } : { name: "rendering", text: "" };
      paintPhase();
    },
    waiting(reason, place) {
      if (!current()) return;
      phase = { name: reason, text: reason !== "queued" ? say(`${reason}Text`) : place ? say("queuedText", { n: place }) : "" };
      paintPhase();
    },
    progress(name, share) {
      if (!current()) return;
      phase = { name: "rendering", text: "" };
      shares[name] = share;
      paintSwatch(name);
      paintPhase();
    },
    async picture(name, blob) {
      mine.results[name] = blob;
      if (current()) {
        pictures[name] = URL.createObjectURL(blob);
        phase = { name: "rendering", text: "" };
        if (!pictures[color]) color = name;
        paint();
      }
      await history.put(mine);
      paintHistory();
    },
    failed(name, error) {
      if (!current()) return;
      failures[name] = error;
      paint();
    },
  };
}

function failed(mine, error) {
  if (error.code === "stopped") return;
  if (error.code === "unauthorized") {
    askToken();
    return;
  }
  show(Object.keys(mine.results).length ? "done" : "edit");
  complain(error, () => run());
  if (error.code === "network") checkHealth();
}

async function openRoom(kept) {
  leave();
  try {
    image = await decode(kept.base);
  } catch {
    complain({ code: "unreadable" });
    return;
  }
  room = kept;
  setRatio();
  layer.set(kept.lamps);
  $("seed").value = kept.seed;
  $("preset").value = kept.preset;
  pictures = { before: URL.createObjectURL(kept.before) };
  for (const [name, blob] of Object.entries(kept.results)) pictures[name] = URL.createObjectURL(blob);
  color = COLORS.find((name) => pictures[name]) ?? "white";
  sessionStorage.setItem(OPEN, kept.id);
  window.scrollTo({ top: 0, behavior: "smooth" });
  if (kept.upload) await run();
  else show("done");
}

// ---- token

function askToken() {
  const dialog = $("token-dialog");
  $("token-wrong").hidden = !dialog.dataset.asked;
  dialog.dataset.asked = "yes";
  $("token").value = "";
  dialog.showModal();
}

$("token-form").addEventListener("submit", () => {
  setToken($("token").value.trim());
  run();
});

function refuseToken() {
  delete $("token-dialog").dataset.asked;
  $("token-dialog").close();
  show("edit");
}

$("token-cancel").addEventListener("click", refuseToken);
$("token-dialog").addEventListener("cancel", refuseToken);

// ---- palette

function choose(name, focus = false) {
  if (!pictures[name]) return;
  color = name;
  paint();
  if (focus) $("palette").querySelector(`[data-color="${name}"]`).focus();
}

function buildPalette() {
  for (const name of COLORS) {
    const swatch = document.createElement("button");
    swatch.type = "button";
    swatch.className = `swatch ${name}`;
    swatch.dataset.color = name;
    swatch.setAttribute("role", "radio");
    swatch.append(document.createElement("i"), document.createElement("small"));
    swatch.addEventListener("click", () => choose(name));
    $("palette").append(swatch);
  }
}

$("palette").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  const ready = COLORS.filter((name) => pictures[name]);
  if (!step || !ready.length) return;
  event.preventDefault();
  choose(ready[(ready.indexOf(color) + step + ready.length) % ready.length], true);
});

// ---- saving

function saveAs(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

const stem = () => room.name.replace(/\.[^.]*$/, "").replace(/[^\p{L}\p{N}_-]+/gu, "_").slice(0, 60) || "room";

$("save").addEventListener("click", () => saveAs(room.results[color], `${stem()}_${color}.jpg`));

$("save-all").addEventListener("click", async () => {
  const lit = COLORS.filter((name) => room.results[name]).map((name) => ({ name: `${stem()}_${name}.jpg`, blob: room.results[name] }));
  saveAs(await zip([{ name: `${stem()}_off.jpg`, blob: room.before }, ...lit]), `${stem()}.zip`);
});

// ---- buttons, dropping, pasting

$("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  event.target.value = "";
  if (file) usePhoto(file);
});
for (const button of document.querySelectorAll("[data-do=other]")) button.addEventListener("click", leave);
for (const button of document.querySelectorAll("[data-lamp]")) draggable(button, layer, $("lamps"));
for (const button of document.querySelectorAll("[data-sample]")) {
  button.addEventListener("click", async () => {
    try {
      await usePhoto(await getFile(button.dataset.sample), say("sample"));
    } catch (error) {
      complain(error);
    }
  });
}
$("home").addEventListener("click", (event) => {
  event.preventDefault();
  leave();
});
$("relight").addEventListener("click", start);
$("change").addEventListener("click", () => {
  calm();
  show("edit");
});
$("cancel").addEventListener("click", () => {
  const { id } = room;
  running?.abort();
  running = null;
  cancelJob(id);
  room.upload = null;
  if (Object.keys(room.results).length) history.put(room);
  else history.remove(id);
  sessionStorage.removeItem(OPEN);
  show("edit");
});
$("retry").addEventListener("click", () => again?.());
$("dismiss").addEventListener("click", calm);
$("clear").addEventListener("click", async () => {
  if (!confirm(say("clearSure"))) return;
  leave();
  for (const kept of history.rooms) if (kept.upload) cancelJob(kept.id);
  await history.clear();
  paintHistory();
});
$("language").addEventListener("click", () => {
  switchLanguage();
  translate();
  layer.render();
  calm();
  show(view);
  checkHealth();
});

let over = 0; // elements that the dragged file is over
const carriesFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
addEventListener("dragenter", (event) => {
  if (carriesFile(event)) document.body.classList.toggle("dropping", (over += 1) > 0);
});
addEventListener("dragleave", (event) => {
  if (carriesFile(event)) document.body.classList.toggle("dropping", (over = Math.max(0, over - 1)) > 0);
});
addEventListener("dragover", (event) => carriesFile(event) && event.preventDefault());
addEventListener("drop", (event) => {
  if (!carriesFile(event)) return;
  event.preventDefault();
  over = 0;
  document.body.classList.remove("dropping");
  const [file] = event.dataTransfer.files;
  if (file) usePhoto(file);
});
addEventListener("paste", (event) => {
  const [file] = event.clipboardData?.files ?? [];
  if (file) usePhoto(file);
});

// ---- what runs at the server

let healthTimer = 0;

async function checkHealth() {
  clearTimeout(healthTimer);
  let state = "offline";
  let detail = "";
  try {
    const health = await getHealth();
    state = { ready: "ready", loading: "loading", failed: "failedModel" }[health.engine] ?? "ready";
    detail = health.model ? ` · ${health.model}` : "";
    if (health.presets) offerPresets(health.presets);
  } catch {
    // shown as offline
  }
  $("health-dot").dataset.state = state;
  $("health").textContent = say(state);
  $("model").textContent = state === "ready" ? detail : "";
  healthTimer = setTimeout(checkHealth, state === "ready" ? 60_000 : 4_000);
}

/** Show only the presets that the model has; "automatic" always. */
function offerPresets(names) {
  for (const option of $("preset").options) option.hidden = option.disabled = option.value !== "" && !names.includes(option.value);
  if ($("preset").selectedOptions[0].disabled) $("preset").value = "";
}

// ---- begin

takeToken();
buildPalette();
translate();
show("empty");
checkHealth();
await history.load();
paintHistory();
const kept = history.get(sessionStorage.getItem(OPEN));
document.body.dataset.started = "yes";
if (kept) await openRoom(kept);
