// What leads from one view to the next: a photo that comes, an earlier room, and every button.

import { $, clear, desk, health, history, lay, layer, leave, notice, OPEN, paintHistory, show, toTop } from "./desk.js";
import { takePhotos } from "./incoming.js";
import { draggable } from "./lamps.js";
import { decode } from "./photo.js";
import { COLORS } from "./relight.js";
import { cancel, run, start } from "./rendering.js";
import { saveAll, saveOne } from "./save.js";
import { cancelJob, getFile, takeToken } from "./server.js";
import { recall, remember } from "./visit.js";
import { say, switchLanguage, translate } from "./words.js";

// ---- the photo

let wishes = 0;

/** A wish for a photo or a room: tells later whether it is still the last one. */
function wish() {
  const mine = ++wishes;
  return () => mine === wishes;
}

function takeFile(file) {
  if (file.type && !file.type.startsWith("image/")) notice.show({ code: "not_a_picture" });
  else usePhoto(file, file.name || "room", wish());
}

async function usePhoto(file, name, wanted) {
  const image = await readable(file, wanted);
  if (!image) return;
  leave();
  lay(image, { id: "", made: 0, name, base: file, lamps: [], seed: "", preset: "", upload: null, before: null, results: {}, thumb: null, by: null });
  show("edit");
  toTop();
}

/** The photo, decoded; null if it cannot be, with a notice, or if it is not wanted any more. */
async function readable(blob, wanted) {
  try {
    const image = await decode(blob);
    if (wanted()) return image;
    URL.revokeObjectURL(image.src);
  } catch {
    if (wanted()) notice.show({ code: "unreadable" });
  }
  return null;
}

async function useSample(button) {
  if (button.ariaBusy === "true") return;
  button.ariaBusy = "true";
  const wanted = wish();
  try {
    await usePhoto(await getFile(button.dataset.sample), say("sample"), wanted);
  } catch (error) {
    if (wanted()) notice.show(error, () => useSample(button));
  } finally {
    button.ariaBusy = "false";
  }
}

// ---- earlier rooms

async function openRoom(listed) {
  const wanted = wish();
  const kept = await history.latest(listed);
  const image = await readable(kept.base, wanted);
  if (!image) return;
  clear();
  lay(image, kept);
  $("seed").value = kept.seed;
  $("preset").value = kept.preset;
  const { pictures } = desk.work;
  pictures.before = URL.createObjectURL(kept.before);
  for (const [name, blob] of Object.entries(kept.results)) pictures[name] = URL.createObjectURL(blob);
  desk.color = COLORS.find((name) => pictures[name]) ?? "white";
  remember(OPEN, kept.id);
  toTop();
  if (kept.upload) await run();
  else show("done");
}

async function forgetRoom(kept) {
  if (kept.id === desk.room?.id) leave();
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

function listen() {
  const onClick = (id, act) => $(id).addEventListener("click", act);
  onClick("relight", start);
  onClick("cancel", cancel);
  onClick("clear", forgetAll);
  onClick("save", () => saveOne(desk.room, desk.color));
  onClick("save-all", () => saveAll(desk.room));
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
    show(desk.view);
    health.look();
  });
  $("more").addEventListener("toggle", () => $("more").open && $("more").scrollIntoView({ block: "nearest" }));
  $("rooms").addEventListener("openroom", (event) => openRoom(event.detail));
  $("rooms").addEventListener("forgetroom", (event) => forgetRoom(event.detail));
  for (const button of document.querySelectorAll("[data-do=other]")) button.addEventListener("click", leave);
  for (const button of document.querySelectorAll("[data-lamp]")) draggable(button, layer, $("lamps"));
  for (const button of document.querySelectorAll("[data-sample]")) button.addEventListener("click", () => useSample(button));
  takePhotos($("file"), takeFile);
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
