// One participant's page. The server knows what comes next and what was seen; this page shows it, and times it.

const TROUBLE = "The connection is slow or gone. Trying again; nothing is lost.";
const FIXATION = 500; // ms of nothing before a pair
const here = location.pathname.replace(/\/$/, "");
const at = (id) => document.getElementById(id);
const main = document.querySelector("main");
const stage = at("stage"), pause = at("pause"), ask = at("ask"), go = at("go");
const places = { first: at("first"), second: at("second") };
const pairs = new Map(); // trial -> promise of its two bitmaps
let state, started = false, wentHidden = false;

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const frame = () => new Promise((done) => requestAnimationFrame(done));
const stacked = () => getComputedStyle(document.querySelector(".pair")).flexDirection === "column";
const named = (place) => (stacked() ? { first: "upper", second: "lower" } : { first: "left", second: "right" })[place];

class Refused extends Error {}

// Repeats the request until the server responds, so that a bad connection does not lose a participant's answer.
async function request(path, sent, read = (response) => response.json()) {
  for (let wait = 500; ; wait = Math.min(2 * wait, 8000)) {
    try {
      const options = sent === undefined ? {} : {
        method: "POST", body: JSON.stringify(sent), headers: { "content-type": "application/json" },
      };
      const response = await fetch(here + path, { ...options, cache: "no-store" });
      if (response.ok) {
        const value = await read(response);
        at("trouble").textContent = "";
        return value;
      }
      if (response.status < 500 && response.status !== 429) throw new Refused((await response.json()).problem);
    } catch (problem) {
      if (problem instanceof Refused) throw problem;
    }
    at("trouble").textContent = TROUBLE;
    await sleep(wait);
  }
}

const bitmap = async (response) => createImageBitmap(await response.blob());

function fetched(trial) {
  if (!pairs.has(trial)) {
    const two = ["first", "second"].map((place) => request(`/image/${trial}/${place}`, undefined, bitmap));
    pairs.set(trial, Promise.all(two));
    pairs.get(trial).catch(() => pairs.delete(trial));
  }
  return pairs.get(trial);
}

function ahead() {
  const last = Math.min(state.trial + state.ahead, state.practice + state.trials - 1);
  for (let trial = state.trial + (state.seen ? 1 : 0); trial <= last; trial += 1) fetched(trial).catch(() => {});
}

function phase(name) {
  stage.className = `stage ${name}`;
  pause.hidden = true;
  for (const place of Object.values(places)) place.disabled = name !== "asking";
}

function header() {
  const { trial, practice, trials } = state;
  const done = trial === null ? practice + trials : trial;
  at("progress").max = practice + trials;
  at("progress").value = done;
  at("where").textContent = trial === null ? "Done"
    : trial < practice ? `Practice ${trial + 1} of ${practice}` : `Pair ${trial - practice + 1} of ${trials}`;
}

// Shows paragraphs of text, the first as a heading, and a button to continue.
function say(texts, button) {
  stage.className = "stage away";
  pause.hidden = false;
  at("pause-text").replaceChildren(...texts.map(([tag, text, kind]) => {
    const element = document.createElement(tag);
    element.textContent = text;
    if (kind) element.className = kind;
    return element;
  }));
  go.hidden = !button;
  if (!button) return Promise.resolve();
  go.textContent = button;
  go.focus();
  return new Promise((done) => go.addEventListener("click", done, { once: true }));
}

async function visible() {
  while (document.hidden) {
    await new Promise((done) => document.addEventListener("visibilitychange", done, { once: true }));
  }
}

// The bitmaps are in the canvases before they become visible, so that a frame is all it takes to show them.
async function show(bitmaps) {
  Object.values(places).forEach((place, index) => {
    const canvas = place.querySelector("canvas");
    canvas.getContext("2d", { alpha: false }).drawImage(bitmaps[index], 0, 0, canvas.width, canvas.height);
  });
  const nominal = state.seconds * 1000;
  wentHidden = document.hidden;
  const began = await frame();
  phase("showing");
  let frames = 0, longest = 0, before = began, now = began;
  do {
    now = await frame();
    frames += 1;
    longest = Math.max(longest, now - before);
    const usual = (now - began) / frames; // half a frame early is nearer to the nominal time than half a frame late
    if (now - began >= nominal - usual / 2) break;
    before = now;
  } while (true);
  phase("waiting");
  for (const place of Object.values(places)) {
    const canvas = place.querySelector("canvas");
    canvas.getContext("2d", { alpha: false }).clearRect(0, 0, canvas.width, canvas.height);
  }
  const box = places.first.getBoundingClientRect();
  return {
    shown_ms: now - began, frames, longest_frame_ms: longest, hidden: wentHidden,
    layout: stacked() ? "stacked" : "beside", side_px: box.width, pixel_ratio: window.devicePixelRatio,
  };
}

function label() {
  for (const [name, place] of Object.entries(places)) {
    const words = named(name);
    place.querySelector(".side").textContent = words[0].toUpperCase() + words.slice(1);
    place.setAttribute("aria-label", `The ${words} one is fake`);
  }
  const keys = stacked() ? ["\u2191", "\u2193"] : ["\u2190", "\u2192"];
  at("keys").replaceChildren("Click it, or press ", key(keys[0]), " or ", key(keys[1]));
}

function key(text) {
  const element = document.createElement("kbd");
  element.textContent = text;
  return element;
}

const KEYS = { ArrowLeft: "first", ArrowUp: "first", 1: "first", ArrowRight: "second", ArrowDown: "second", 2: "second" };

function choice() {
  label();
  phase("asking");
  ask.textContent = "Which one is fake?";
  places.first.focus({ preventScroll: true });
  places.first.blur(); // so that neither is marked, and tabbing begins here
  return new Promise((done) => {
    const moved = ({ movementX, movementY }) => { if (movementX || movementY) stage.classList.add("moved"); };
    const end = (name) => {
      document.removeEventListener("keydown", pressed);
      document.removeEventListener("pointermove", moved);
      places.first.onclick = places.second.onclick = null;
      phase("waiting");
      done(name);
    };
    const pressed = (event) => {
      if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
      event.preventDefault();
      end(KEYS[event.key]);
    };
    document.addEventListener("keydown", pressed);
    document.addEventListener("pointermove", moved);
    for (const name of ["first", "second"]) places[name].onclick = () => end(name);
  });
}

async function trial() {
  const number = state.trial;
  header();
  let shown = {};
  if (!state.seen) {
    ask.textContent = "";
    at("keys").textContent = "\u00a0";
    label();
    phase("waiting");
    at("keys").style.visibility = "hidden";
    const bitmaps = await fetched(number);
    await sleep(FIXATION);
    await visible();
    const allowed = await request("/seen", { trial: number });
    ahead();
    if (allowed.show) shown = await show(bitmaps);
    else if (allowed.state.trial !== number) { state = allowed.state; return; } // another tab went on
  }
  at("keys").style.visibility = "";
  const askedAt = performance.now();
  const chosen = await choice();
  const reply = await request("/answer", { trial: number, chosen, response_ms: performance.now() - askedAt, ...shown });
  state = reply.state;
  pairs.delete(number);
  if (reply.fake) {
    const correct = reply.fake === chosen;
    await say([
      ["h2", correct ? "Right" : "Wrong", correct ? "right" : "wrong"],
      ["p", `The ${named(reply.fake)} one was the fake.`],
    ], "Next pair");
  }
}

async function run() {
  state = await request("/state");
  header();
  document.addEventListener("visibilitychange", () => { wentHidden ||= document.hidden; });
  window.addEventListener("resize", () => { if (stage.classList.contains("asking")) label(); });
  while (state.trial !== null) {
    ahead();
    header();
    const first = state.trial === 0, scoring = state.trial === state.practice;
    if (!state.seen && (!started || scoring)) {
      if (first) {
        await say([
          ["h2", "Ready?"],
          ["p", `A pair is shown for ${state.seconds === 1 ? "one second" : `${state.seconds} seconds`}, then it is gone. `
            + "Then choose which one is the fake. There is no time limit for your answer."],
          ["p", state.practice ? `The first ${state.practice} pairs are for practice.` : "Every pair counts."],
        ], "Show the first pair");
      } else if (scoring) {
        await say([
          ["h2", "Practice is over"],
          ["p", `Now ${state.trials} pairs follow that count. From now on you do not see whether your answers were right.`],
        ], "Continue");
      } else {
        await say([["h2", "Welcome back"], ["p", "You continue where you stopped."]], "Continue");
      }
    }
    started = true;
    await trial();
  }
  header();
  await say([
    ["h2", "Thank you"],
    ["p", `You took ${state.fooled} of ${state.trials} colored images for real.`],
    ["p", "All your answers are saved; you can close this page.", "note"],
  ]);
}

run().catch((problem) => say([["h2", "That did not work"], ["p", problem.message]], "Try again").then(() => location.reload()));
