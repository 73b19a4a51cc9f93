// The server, as this page sees it. Addresses are relative, so that the page works behind any prefix.

import { recall, remember } from "./visit.js";

const TOKEN = "lumiply.token";
const RESULTS = "/static/inference/";

/** What went wrong, with the server's stable code, or one of ours: "network", "gone", "stopped". */
export class ServerError extends Error {
  constructor(code, sentence = "", status = 0, retryAfter = 0, figures = {}) {
    super(sentence || code);
    Object.assign(this, { code, sentence, status, retryAfter, figures });
  }
}

/** A token given as `?token=` is kept for this tab and taken out of the address. */
export function takeToken() {
  const here = new URL(location.href);
  const token = here.searchParams.get("token");
  if (!token) return;
  setToken(token);
  here.searchParams.delete("token");
  window.history.replaceState(null, "", here);
}

/** Keep a token, without what no header can carry and a token never has, such as the invisible marks that a chat adds. */
export function setToken(token) {
  remember(TOKEN, token.replace(/[^\x21-\x7e]/g, ""));
}

function headers() {
  const token = recall(TOKEN);
  return { "ngrok-skip-browser-warning": "true", ...(token ? { Authorization: `Bearer ${token}` } : {}) };
}

function refusal(status, text, retryAfter) {
  try {
    const answer = JSON.parse(text);
    return new ServerError(answer.code || `http_${status}`, answer.error, status, Number(retryAfter) || 0, answer.figures);
  } catch {
    const code = /ERR_NGROK_(3200|8012)\b/.test(text) ? "gone" : `http_${status}`; // the tunnel's own page
    return new ServerError(code, "", status, Number(retryAfter) || 0);
  }
}

async function call(path, { method = "GET", signal, limit = 30_000 } = {}) {
  const signals = [AbortSignal.timeout(limit), ...(signal ? [signal] : [])];
  let response;
  try {
    response = await fetch(path, { method, headers: headers(), signal: anyOf(signals), cache: "no-cache" });
  } catch {
    throw new ServerError(signal?.aborted ? "stopped" : "network");
  }
  if (!response.ok) throw refusal(response.status, await response.text(), response.headers.get("Retry-After"));
  return response;
}

function anyOf(signals) {
  const controller = new AbortController();
  for (const signal of signals) {
    if (signal.aborted) controller.abort();
    signal.addEventListener("abort", () => controller.abort(), { once: true });
  }
  return controller.signal;
}

export async function getHealth() {
  return (await call("health", { limit: 8_000 })).json();
}

export async function getJob(id, signal) {
  return (await call(`jobs/${encodeURIComponent(id)}`, { limit: 8_000, signal })).json();
}

/** Tell the server that nobody waits any more. One that has no jobs to cancel says so, which harms nothing. */
export async function cancelJob(id) {
  try {
    await call(`jobs/${encodeURIComponent(id)}`, { method: "DELETE" });
  } catch {
    // what runs then runs to its end
  }
}

/** A result, fetched from this server under whatever address it was published. */
export async function getPicture(url, signal) {
  const published = new URL(url, location.href);
  const at = published.pathname.indexOf(RESULTS);
  const here = at < 0 ? url : published.pathname.slice(at + 1) + published.search;
  return (await call(here, { signal, limit: 60_000 })).blob();
}

export async function getFile(path) {
  return (await call(path)).blob();
}

/**
 * `POST /process`.
 * @param {{id: string, upload: Blob, seed?: string, preset?: string}} job
 * @param {(share: number) => void} onUpload called with 0 to 1; 1 once all is sent
 */
export function process(job, color, onUpload, signal) {
  const form = new FormData();
  form.append("image", job.upload, "room_with_lights.png");
  form.append("job_id", job.id);
  form.append("color", color);
  if (job.seed) form.append("seed", job.seed);
  if (job.preset) form.append("preset", job.preset);
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", "process");
    request.timeout = 310_000;
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => event.lengthComputable && onUpload(event.loaded / event.total);
    request.upload.onload = () => onUpload(1);
    request.onload = () => {
      if (request.status !== 200) {
        reject(refusal(request.status, request.responseText, request.getResponseHeader("Retry-After")));
        return;
      }
      try {
        resolve(JSON.parse(request.responseText));
      } catch {
        reject(new ServerError("network"));
      }
    };
    request.onerror = request.ontimeout = () => reject(new ServerError("network"));
    request.onabort = () => reject(new ServerError("stopped"));
    if (signal.aborted) {
      reject(new ServerError("stopped"));
      return;
    }
    signal.addEventListener("abort", () => request.abort(), { once: true });
    request.send(form);
  });
}
