// Results as files: one picture, or all of a room in a zip file.

import { COLORS } from "./relight.js";
import { zip } from "./zip.js";

/** A room's name as that of a file: letters of every script, with the marks that belong to them. */
function stem(room) {
  const name = room.name.normalize("NFC").replace(/\.[^.]*$/, "");
  return name.replace(/[^\p{L}\p{M}\p{N}_-]+/gu, "_").slice(0, 60) || "room";
}

export function saveOne(room, color) {
  saveAs(room.results[color], `${stem(room)}_${color}.jpg`);
}

export async function saveAll(room) {
  const lit = COLORS.filter((name) => room.results[name]);
  const files = lit.map((name) => ({ name: `${stem(room)}_${name}.jpg`, blob: room.results[name] }));
  saveAs(await zip([{ name: `${stem(room)}_off.jpg`, blob: room.before }, ...files]), `${stem(room)}.zip`);
}

function saveAs(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
