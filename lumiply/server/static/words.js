// Every word of the page, in English and Korean, and sentences for the server's error codes.

const EN = {
  title: "Lumiply: light your room",
  tagline: "Turn on the lamp.",
  lead: "Drop in a photo of a room and see its lamp lit in seven colours.",
  choose: "Choose a photo",
  dropHint: "or drop it here, or paste it",
  dropNow: "Let go to use this photo",
  samples: "No photo at hand? Start with a sample room.",
  sample: "Sample room",
  step1: "A photo", step1Text: "Your own room, taken straight on and not too dark.",
  step2: "A lamp", step2Text: "The one in the photo, or one of ours dragged onto it.",
  step3: "Seven lights", step3Text: "White, red, orange, yellow, green, blue and purple.",
  lampTitle: "Is there a lamp in it?",
  lampText: "If so, go on. If not, drag one of ours onto the photo, or tap it.",
  table: "Table lamp", pendant: "Pendant", floor: "Floor lamp",
  lampKeys: "Arrow keys move it, plus and minus scale it, Delete takes it away.",
  scale: "Drag to scale", remove: "Take the lamp away",
  more: "More", seed: "Seed", seedHint: "One seed, one result", seedBad: "The seed is a whole number from 0 up.",
  preset: "Preset", presetAuto: "Automatic", presetExact: "Exact", presetBalanced: "Balanced", presetFast: "Fast",
  relight: "Relight", other: "Another photo", cancel: "Cancel", change: "Change lamp or settings",
  uploading: "Sending the photo", rendering: "Lighting your room", renderingText: "All seven colours at once", queued: "Waiting in line",
  queuedText: "{n} before yours", waking: "The model is loading", wakingText: "Yours starts by itself once it has.",
  broken: "The connection broke", brokenText: "Trying again.", readyText: "{n} of 7 colours are ready", finishingText: "Turning it into pictures",
  before: "Before", after: "After", split: "How much of the photo before is shown",
  palette: "Colour of the lamp", light: "{color} light", waitingFor: "{color}, still rendering", failedColor: "{color}, not available",
  save: "Download this one", saveAll: "Download all", missing: "{colors}: not available from this server.", madeBy: "Rendered by {model} at {size}\u00a0×\u00a0{size} pixels.",
  history: "Earlier rooms", clear: "Forget all", clearSure: "Forget all rooms? Their pictures are kept nowhere else.", forget: "Forget this room", openRoom: "Open this room", unfinished: "not finished",
  historyNote: "Kept in this browser only.",
  ready: "Ready", loading: "Model loading", failedModel: "Model not loaded", offline: "No connection",
  retry: "Try again", dismiss: "Close", api: "For programs: the API",
  tokenTitle: "This server asks for a token", tokenText: "Whoever runs it can tell you. It is kept until you close this tab.",
  tokenWrong: "That token was not accepted.", token: "Token", go: "Continue",
  photoAlt: "The photo", roomIn: "The room in {color} light",
  white: "White", red: "Red", orange: "Orange", yellow: "Yellow", green: "Green", blue: "Blue", purple: "Purple",
  language: "한국어", languageCode: "ko",
};

const KO = {
  title: "Lumiply: 방에 불을 켜 보세요",
  tagline: "방에 불을 켜 보세요.",
  lead: "방 사진을 한 장 넣으면, 사진 속 조명을 일곱 가지 색으로 켜 드립니다.",
  choose: "사진 고르기",
  dropHint: "여기에 끌어다 놓거나 붙여 넣어도 됩니다",
  dropNow: "여기에 놓으세요",
  samples: "사진이 없다면 예제 방으로 시작해 보세요.",
  sample: "예제 방",
  step1: "사진 한 장", step1Text: "너무 어둡지 않게, 정면에서 찍은 방 사진이 좋습니다.",
  step2: "조명 하나", step2Text: "사진에 있는 조명을 쓰거나, 준비된 조명을 끌어다 놓으세요.",
  step3: "일곱 가지 빛", step3Text: "흰색, 빨간색, 주황색, 노란색, 초록색, 파란색, 보라색.",
  lampTitle: "사진에 조명이 있나요?",
  lampText: "있으면 그대로 진행하세요. 없으면 아래 조명을 누르거나 사진 위로 끌어다 놓으세요.",
  table: "탁상 조명", pendant: "펜던트 조명", floor: "플로어 스탠드",
  lampKeys: "방향키로 옮기고, 더하기와 빼기로 크기를 바꾸고, Delete로 치웁니다.",
  scale: "끌어서 크기 조절", remove: "조명 치우기",
  more: "추가 설정", seed: "시드", seedHint: "시드가 같으면 결과도 같습니다", seedBad: "시드는 0 이상의 정수로 입력해 주세요.",
  preset: "프리셋", presetAuto: "자동", presetExact: "정확하게", presetBalanced: "균형 있게", presetFast: "빠르게",
  relight: "불 켜기", other: "다른 사진", cancel: "취소", change: "조명이나 설정 바꾸기",
  uploading: "사진을 보내고 있습니다", rendering: "불을 켜고 있습니다", renderingText: "일곱 가지 색을 한꺼번에 켭니다", queued: "차례를 기다리고 있습니다",
  queuedText: "앞에 {n}건이 있습니다", waking: "모델을 불러오고 있습니다", wakingText: "끝나면 바로 시작합니다.",
  broken: "연결이 끊어졌습니다", brokenText: "다시 시도하고 있습니다.", readyText: "일곱 색 가운데 {n}색이 준비되었습니다", finishingText: "사진으로 만들고 있습니다",
  before: "전", after: "후", split: "조명을 켜기 전 사진이 보이는 범위",
  palette: "조명 색", light: "{color} 조명", waitingFor: "{color}, 렌더링 중", failedColor: "{color}, 사용할 수 없음",
  save: "이 사진 내려받기", saveAll: "모두 내려받기", missing: "{colors}: 이 서버에서는 사용할 수 없습니다.", madeBy: "{model} 모델이 {size}\u00a0×\u00a0{size} 픽셀로 렌더링했습니다.",
  history: "지난 작업", clear: "모두 지우기", clearSure: "지난 작업을 모두 지울까요? 사진은 이 브라우저에만 있습니다.", forget: "이 방 지우기", openRoom: "이 방 열기", unfinished: "미완료",
  historyNote: "이 브라우저에만 저장됩니다.",
  ready: "준비됨", loading: "모델 준비 중", failedModel: "모델 불러오기 실패", offline: "서버에 연결되지 않음",
  retry: "다시 시도", dismiss: "닫기", api: "프로그램에서 쓰려면: API 문서",
  tokenTitle: "토큰이 필요한 서버입니다", tokenText: "서버를 운영하는 분께 받은 토큰을 입력하세요. 이 탭을 닫을 때까지만 보관합니다.",
  tokenWrong: "토큰이 맞지 않습니다.", token: "토큰", go: "계속",
  photoAlt: "방 사진", roomIn: "{color} 조명을 켠 방",
  white: "흰색", red: "빨간색", orange: "주황색", yellow: "노란색", green: "초록색", blue: "파란색", purple: "보라색",
  language: "English", languageCode: "en",
};

/** Korean only where the server has no sentence of its own: its sentences are Korean already. */
const ERRORS_KO = {
  network: "서버에 연결할 수 없습니다. 인터넷 연결과 서버가 실행 중인지 확인한 뒤 다시 시도해 주세요.",
  gone: "이 주소 뒤의 서버가 꺼져 있습니다. 서버를 운영하는 분께 다시 켜 달라고 해 주세요.",
  not_a_picture: "사진 파일이 아닙니다. PNG, JPEG, WebP 사진을 골라 주세요.",
  unreadable: "이 사진을 열 수 없습니다. PNG, JPEG, WebP로 저장한 뒤 다시 시도해 주세요.",
  unknown: "문제가 생겼습니다. 잠시 후 다시 시도해 주세요.",
};

/** English for the server's codes. What stands in square brackets is left out where a figure for it is not known. */
const ERRORS_EN = {
  network: "The server cannot be reached. Check your connection and that the server runs, then try again.",
  gone: "The server behind this address has stopped. Ask whoever runs it to start it again.",
  not_a_picture: "This is not a picture. Choose a PNG, JPEG or WebP photo.",
  unreadable: "This picture cannot be opened. Save it as PNG, JPEG or WebP and try again.",
  unknown: "Something went wrong. Try again in a moment.",
  invalid_image: "The server cannot read this picture[ ({bytes} bytes)]. Save it as PNG, JPEG or WebP and try again.",
  image_too_large: "This photo has more pixels than the server takes[: {megapixels} megapixels][: {width} x {height}][, at most {limit} megapixels][, at most {side_limit} on a side]. Choose a smaller one.",
  upload_too_large: "This photo's file is larger than the server takes[, at most {limit} MB]. Choose a smaller one.",
  busy: "Many people are relighting rooms right now. Try again in a moment.",
  unavailable: "The server cannot render at the moment. Try again later, or tell whoever runs it.",
  timeout: "Rendering did not end[ within {seconds} seconds] and was given up. Try again in a moment.",
  request_timeout: "The photo did not arrive in time. Send it again.",
  render_failed: "Rendering failed. Try again, or use a smaller photo.",
  cancelled: "This render was cancelled. Start it again.",
  replaced: "Another photo took this one's place. Start it again.",
  out_of_memory: "The server ran out of memory. Try again, or use a smaller photo.",
  stuck: "Rendering got stuck and was ended. Try again.",
  storage_full: "The server's disk is full[: {needed} MB are needed and {free} MB left]. Tell whoever runs it.",
  storage_unavailable: "The server cannot reach the place where it keeps results. Try again in a moment.",
  loading: "The model is still loading. Try again in a moment.",
  invalid_seed: "The server does not take this seed[: {given}]. Choose another under More[, from {low} to {high}].",
  invalid_preset: "The server does not know this preset[: {given}]. Choose another under More[: {known}].",
  bad_request: "The server does not take this request. Reload the page and try again.",
  unauthorized: "That token was not accepted.",
  internal_error: "The server met an error of its own. Try again in a moment.",
  http_507: "The server's disk is full. Tell whoever runs it.",
};

const HANGUL = /\p{Script=Hangul}/u;

const LANGUAGE = "lumiply.language";

/** Whether the page speaks Korean; English otherwise. */
let korean = read() ?? (navigator.languages?.[0] ?? navigator.language ?? "").toLowerCase().startsWith("ko");

function read() {
  try {
    const kept = localStorage.getItem(LANGUAGE);
    return kept === null ? null : kept === "ko";
  } catch {
    return null;
  }
}

/** The words for `key`, with `{name}` filled in. */
export function say(key, values = {}) {
  const text = (korean ? KO : EN)[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** A sentence for an error with a `code` and perhaps the server's own `sentence` and `figures`. */
export function explain(error) {
  if (korean) return ERRORS_KO[error.code] ?? (error.sentence || ERRORS_KO.unknown);
  const english = ERRORS_EN[error.code] ?? ERRORS_EN[`http_${error.status}`];
  if (english) return withFigures(english, error.figures ?? {});
  if (error.sentence && !HANGUL.test(error.sentence)) return error.sentence;
  return error.code ? `${ERRORS_EN.unknown} (${error.code})` : ERRORS_EN.unknown;
}

/** A sentence with `{name}` filled in, without the bracketed parts of which a figure is not known. */
function withFigures(sentence, figures) {
  const whole = sentence.replace(/\[([^\]]*)\]/g, (_, part) =>
    [...part.matchAll(/\{(\w+)\}/g)].every(([, name]) => figures[name]) ? part : "");
  return whole.replace(/\{(\w+)\}/g, (_, name) => figures[name]);
}

export function switchLanguage() {
  korean = !korean;
  try {
    localStorage.setItem(LANGUAGE, korean ? "ko" : "en");
  } catch {
    // chosen for this visit only
  }
}

/** Fill every `data-say` (text) and `data-say-label` (aria-label) under `root`. */
export function translate(root = document) {
  document.documentElement.lang = korean ? "ko" : "en";
  document.title = say("title");
  for (const element of root.querySelectorAll("[data-say]")) element.textContent = say(element.dataset.say);
  for (const element of root.querySelectorAll("[data-say-label]")) element.setAttribute("aria-label", say(element.dataset.sayLabel));
}
