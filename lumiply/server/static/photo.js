// A photo as the browser decodes it, and the picture that is sent of it.

/** Longest side that is sent. Above it a photo gains nothing: the model works at a fraction of it. */
const LONGEST = 2048;
const THUMB = 320;

/** An image of a file. Throws if it is none. */
export async function decode(blob) {
  const picture = new Image();
  picture.src = URL.createObjectURL(blob);
  try {
    await picture.decode();
    if (!picture.naturalWidth) throw new Error("no size");
  } catch (error) {
    URL.revokeObjectURL(picture.src);
    throw error;
  }
  return picture;
}

/**
 * What is sent and kept of a photo with lamps on it: turned upright, and without what a camera notes down.
 * @returns {Promise<{upload: Blob, before: Blob, thumb: Blob}>} without loss, to show, and to list
 */
export async function compose(image, layer) {
  const whole = await draw(image, layer, LONGEST);
  const small = await draw(image, layer, THUMB);
  return {
    upload: await toBlob(whole, "image/png"),
    before: await toBlob(whole, "image/jpeg", 0.92),
    thumb: await toBlob(small, "image/jpeg", 0.8),
  };
}

async function draw(image, layer, longest) {
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
