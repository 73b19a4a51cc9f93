// How a photo comes onto the page: chosen, dropped or pasted.

/** @param {(file: File) => void} onPhoto */
export function takePhotos(input, onPhoto) {
  const take = (files) => {
    const file = [...(files ?? [])].find((each) => each.type.startsWith("image/")) ?? files?.[0];
    if (file && !asking()) onPhoto(file);
  };
  input.addEventListener("change", () => {
    const files = [...input.files];
    input.value = ""; // so that the same file can be chosen again
    take(files);
  });
  addEventListener("paste", (event) => take(event.clipboardData?.files));
  takeDrops(take);
}

/** Whether a question is open: the page behind it then takes nothing. */
const asking = () => document.querySelector("dialog[open]") !== null;

function takeDrops(take) {
  let over = 0; // elements that the dragged file is over
  const carriesFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const count = (change) => {
    over = Math.max(0, over + change);
    document.body.classList.toggle("dropping", over > 0 && !asking());
  };
  addEventListener("dragenter", (event) => carriesFile(event) && count(1));
  addEventListener("dragleave", (event) => carriesFile(event) && count(-1));
  addEventListener("dragover", (event) => carriesFile(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!carriesFile(event)) return;
    event.preventDefault();
    count(-over);
    take(event.dataTransfer.files);
  });
}
