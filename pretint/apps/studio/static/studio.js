// The studio's page. The server on this machine colors the photograph; only the latest request counts.

const at = (id) => document.getElementById(id);
const main = document.querySelector("main"), sheet = at("sheet"), marks = at("marks");
const takesHints = main.dataset.hints === "yes";
const start = { temperature: Number(main.dataset.temperature), saturation: 1 };
const SWATCHES = {
  "#e3b48f": "light skin", "#8d5a3b": "dark skin", "#6f9fd8": "sky", "#3f7f8c": "sea", "#5f8f3e": "grass", "#2f5a35": "fir",
  "#a5713f": "wood", "#c9a86a": "sand", "#b23a3a": "red", "#d98a2b": "orange", "#dcc24a": "yellow", "#7a5aa0": "violet",
};
let photograph = null, name = "photograph", hints = [], reference = null, asking = null, worked = null, opening = null, grown = 0;

class StudioError extends Error {}

function trouble(text) { at("trouble").textContent = text; }

async function requireOk(response) {
  if (response.ok) return response;
  const problem = response.status === 413 ? "This file is too large." : "The studio sent an unexpected response.";
  let body = {};
  try {
    const text = await response.text();
    body = text.startsWith("{") ? JSON.parse(text) : { problem: text || problem };
  } catch { /* keep the message above */ }
  throw Object.assign(new StudioError(body.problem ?? problem), { status: response.status, ofReference: body.reference });
}

function showError(problem) {
  if (problem.name === "AbortError" || problem.status === 409) return;
  trouble(problem instanceof StudioError ? problem.message : "The studio cannot be reached; is it still running?");
}

async function upload(file, signal) {
  const most = Number(main.dataset.megabytes);
  if (file.size > most * 1e6) throw new StudioError(`This file has ${(file.size / 1e6).toFixed(1)} MB; at most ${most} MB are allowed.`);
  const response = await requireOk(await fetch("/photographs", {
    method: "POST", body: file, headers: { "content-type": "application/octet-stream" }, signal,
  }));
  return response.json();
}

async function open(file) {
  if (!file) return;
  opening?.abort(); // of two files, only the later one is opened
  const mine = opening = new AbortController();
  trouble("");
  at("status").textContent = "Opening\u2026";
  try {
    const opened = await upload(file, mine.signal);
    const gray = await requireOk(await fetch(`/photographs/${opened.photograph}/gray`, { signal: mine.signal }));
    const blob = await gray.blob();
    asking?.abort();
    asking = null;
    photograph = opened;
    name = file.name.replace(/\.[^.]*$/, "") || "photograph";
    hints = [];
    drawHints();
    sheet.style.setProperty("--shape", opened.width / opened.height);
    at("colored").hidden = true;
    await put(at("gray"), blob);
    if (mine !== opening) return;
    at("drop").hidden = true;
    at("figure").hidden = at("panel").hidden = false;
    at("full-size").textContent = `All ${opened.width} \u00d7 ${opened.height} pixels, with the photograph's own lightness.`;
    await paint();
  } catch (problem) {
    if (mine === opening) showError(problem);
  }
  if (mine === opening) at("status").textContent = "";
}

// An image is replaced only when the new one is loaded, so that nothing flickers.
async function put(image, blob) {
  const before = image.src;
  const next = URL.createObjectURL(blob);
  image.src = next;
  try { await image.decode(); } catch { /* a later one took its place */ }
  if (before.startsWith("blob:")) URL.revokeObjectURL(before);
}

function look() {
  return {
    temperature: Number(at("temperature").value),
    saturation: Number(at("saturation").value),
    hints: hints.map(({ x, y, color }) => ({ x, y, color, radius: Number(at("radius").value) / 100 })),
    reference: reference && reference.photograph,
  };
}

// Returns its image, and notes on data of the photograph that could not be kept.
async function colored(more, signal) {
  const response = await fetch(`/photographs/${photograph.photograph}/colored`, {
    method: "POST", body: JSON.stringify({ ...look(), ...more }), headers: { "content-type": "application/json" }, signal,
  });
  const { headers } = await requireOk(response);
  return { blob: await response.blob(), notes: JSON.parse(headers.get("x-notes") || "[]") };
}

async function paint(message = "") {
  if (!photograph) return;
  asking?.abort();
  const mine = asking = new AbortController();
  const slow = setTimeout(() => { at("status").textContent = "Coloring\u2026"; }, 250);
  try {
    const { blob } = await colored({}, mine.signal);
    if (mine !== asking) return;
    await put(at("colored"), blob);
    at("colored").hidden = false;
    trouble(message);
    worked = reference;
  } catch (problem) {
    if (mine !== asking) return;
    if (problem.ofReference && reference) {
      const { file } = reference;
      refer(worked === reference ? null : worked);
      await paint(problem.message.replace("The reference", `The reference ${file.name}`));
    } else showError(problem);
  } finally {
    clearTimeout(slow);
    if (mine === asking) at("status").textContent = "";
  }
}

async function download() {
  const button = at("download"), format = at("format").value;
  button.disabled = true;
  at("status").textContent = "Coloring all pixels\u2026";
  try {
    const link = document.createElement("a");
    const { blob, notes } = await colored({ full: true, format });
    link.href = URL.createObjectURL(blob);
    link.download = `${name}-colored.${format === "png" ? "png" : "jpg"}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    trouble("");
    at("status").textContent = notes.length ? `Downloaded. Not all could be kept: ${notes.join("; ")}.` : "";
  } catch (problem) {
    at("status").textContent = "";
    showError(problem);
  }
  button.disabled = false;
}

function slider(id, shown) {
  const input = at(id), output = at(`${id}-shown`);
  const show = () => { output.textContent = shown(Number(input.value)); };
  input.addEventListener("input", () => { show(); paint(); });
  show();
  return show;
}

const bounded = (value) => Math.min(1, Math.max(0, value));
const where = (event) => {
  const box = sheet.getBoundingClientRect();
  return { x: bounded((event.clientX - box.left) / box.width), y: bounded((event.clientY - box.top) / box.height) };
};

function addHint(place) {
  grown += 1;
  hints.push({ ...place, color: at("brush").value, number: grown });
  drawHints();
  paint();
  return hints.length - 1;
}

function removeHint(hint) {
  hints = hints.filter((other) => other !== hint);
  drawHints();
  paint();
}

function place(mark, hint) {
  const inside = (share) => `clamp(12px, ${100 * share}%, 100% - 12px)`; // half of its size
  mark.style.left = inside(hint.x);
  mark.style.top = inside(hint.y);
}

function marked(hint) {
  const mark = document.createElement("button");
  mark.type = "button";
  mark.className = "mark";
  mark.style.background = hint.color;
  mark.setAttribute("aria-label", `Hint ${hint.number}, ${hint.color}: arrow keys move it, Delete removes it`);
  place(mark, hint);
  mark.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 0.05 : 0.01;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (event.key === "Delete" || event.key === "Backspace") { event.preventDefault(); removeHint(hint); at("place").focus(); }
    if (!moves[event.key]) return;
    event.preventDefault();
    hint.x = bounded(hint.x + moves[event.key][0]);
    hint.y = bounded(hint.y + moves[event.key][1]);
    place(mark, hint);
    paint();
  });
  mark.addEventListener("pointerdown", (event) => {
    mark.setPointerCapture(event.pointerId);
    const move = (moved) => { Object.assign(hint, where(moved)); place(mark, hint); };
    mark.addEventListener("pointermove", move);
    // However it ends: by pointerup, or by pointercancel
    mark.addEventListener("lostpointercapture", () => { mark.removeEventListener("pointermove", move); paint(); }, { once: true });
  });
  mark.addEventListener("click", (event) => event.stopPropagation());
  return mark;
}

function listed(hint) {
  const row = document.createElement("li");
  const color = document.createElement("input"), words = document.createElement("span"), gone = document.createElement("button");
  color.type = "color";
  color.value = hint.color;
  color.setAttribute("aria-label", `Color of hint ${hint.number}`);
  color.addEventListener("input", () => { hint.color = color.value; redrawMarks(); paint(); });
  words.textContent = `Hint ${hint.number}`;
  gone.type = "button";
  gone.textContent = "Remove";
  gone.setAttribute("aria-label", `Remove hint ${hint.number}`);
  gone.addEventListener("click", () => removeHint(hint));
  row.append(color, words, gone);
  return row;
}

function redrawMarks() { marks.replaceChildren(...hints.map(marked)); }

function drawHints() {
  if (!takesHints) return;
  redrawMarks();
  at("hints").replaceChildren(...hints.map(listed));
}

function pick(color) {
  at("brush").value = color;
  for (const swatch of at("swatches").children) swatch.checked = swatch.value === color;
}

if (takesHints) {
  for (const [color, words] of Object.entries(SWATCHES)) {
    const swatch = document.createElement("input");
    swatch.type = "radio";
    swatch.name = "swatch";
    swatch.value = color;
    swatch.style.background = color;
    swatch.title = words;
    swatch.setAttribute("aria-label", words);
    swatch.addEventListener("input", () => pick(color));
    at("swatches").append(swatch);
  }
  pick("#6f9fd8");
  at("brush").addEventListener("input", () => pick(at("brush").value));
  at("place").addEventListener("click", () => { const added = addHint({ x: 0.5, y: 0.5 }); marks.children[added].focus(); });
  sheet.addEventListener("click", (event) => { if (!reference) addHint(where(event)); });
  slider("radius", (value) => `${value.toFixed(1)}%`);
}

// Sets the image that the colors come from, or none.
function refer(image) {
  reference = image;
  main.classList.toggle("by-reference", Boolean(image));
  at("reference-shown").hidden = at("no-reference").hidden = !image;
  at("hinting").disabled = takesHints && Boolean(image);
  at("hints-off").hidden = !(takesHints && image);
  if (image) put(at("reference-shown"), image.file);
}

at("reference").addEventListener("change", async () => {
  const [file] = at("reference").files;
  at("reference").value = "";
  if (!file) return;
  trouble("");
  try {
    refer({ ...await upload(file), file });
    await paint();
  } catch (problem) {
    showError(problem);
  }
});
at("no-reference").addEventListener("click", () => { refer(null); paint(); });

const shows = [
  slider("temperature", (value) => (at("temperature").disabled ? "" : value.toFixed(2))),
  slider("saturation", (value) => value.toFixed(2)),
];
at("reset").addEventListener("click", () => {
  at("temperature").value = start.temperature;
  at("saturation").value = start.saturation;
  for (const show of shows) show();
  paint();
});
at("reveal").addEventListener("input", () => sheet.style.setProperty("--reveal", `${at("reveal").value}%`));
at("download").addEventListener("click", download);
at("panel").addEventListener("submit", (event) => event.preventDefault());
at("file").addEventListener("change", () => {
  const [file] = at("file").files;
  at("file").value = ""; // so that the same file can be chosen again
  open(file);
});

// A file may be dropped anywhere: outside of a drop target the browser would leave the page to show the file.
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); main.classList.add("over"); });
}
for (const kind of ["dragleave", "drop"]) document.addEventListener(kind, () => main.classList.remove("over"));
document.addEventListener("drop", (event) => { event.preventDefault(); open(event.dataTransfer.files[0]); });
document.addEventListener("paste", (event) => open(event.clipboardData.files[0]));
