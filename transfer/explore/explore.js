"use strict";
const SIDE = 48, ACROSS = 16;
const HUES = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8a6d00", "#6a3d9a", "#b15928", "#33a02c", "#e31a1c", "#1f78b4"];
const OTHER = "#9aa1a9", LISTED = 24;
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (name) => document.getElementById(name);

function unpack(text, kind) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new kind(bytes.buffer);
}

const count = data.keys.length;
const label = unpack(data.label, Uint32Array), file = unpack(data.file, Uint16Array);
const places = unpack(data.places, Uint16Array);
const neighbors = unpack(data.neighbors, Int32Array), cosines = unpack(data.cosines, Int8Array);
const k = count ? neighbors.length / count : 0;
const labelOf = (image) => (label.length ? data.labels[label[image]] : "");

// Thumbnails: an atlas becomes an image only when one of its thumbnails is on the screen.
const atlases = [...document.querySelectorAll(".atlas")], addresses = [];
function address(atlas) {
  addresses[atlas] ??= URL.createObjectURL(new Blob([unpack(atlases[atlas].textContent, Uint8Array)], { type: "image/jpeg" }));
  return addresses[atlas];
}
function paint(box) {
  const image = +box.dataset.image, at = image % (ACROSS * ACROSS), zoom = (box.clientWidth || SIDE) / SIDE;
  box.style.backgroundImage = `url(${address(Math.floor(image / (ACROSS * ACROSS)))})`;
  box.style.backgroundSize = `${ACROSS * SIDE * zoom}px auto`;
  box.style.backgroundPosition = `${-(at % ACROSS) * SIDE * zoom}px ${-Math.floor(at / ACROSS) * SIDE * zoom}px`;
}
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) {
      paint(entry.target);
      seen.unobserve(entry.target);
    }
  }
}, { rootMargin: "200px" });

function element(tag, name, text) {
  const made = document.createElement(tag);
  made.className = name;
  if (text) made.textContent = text;
  return made;
}
function thumbnail(image, parent) {
  const box = parent.appendChild(element("span", "t"));
  if (image < 0) return;
  box.dataset.image = image;
  seen.observe(box);
}
const shortened = (key) => (key.length > 40 ? "…" + key.slice(-39) : key);
function tile(image, text, parent, first) {
  const made = parent.appendChild(element("button", first ? "tile first" : "tile"));
  made.type = "button";
  thumbnail(image, made);
  if (text) made.append(element("b", "", text));
  made.append(image < 0 ? "not shown" : shortened(data.keys[image]));
  made.title = image < 0 ? "" : data.keys[image];
  if (image >= 0) made.onclick = () => choose(image);
  return made;
}

function addNeighbors(image, parent) {
  const row = element("div", "row");
  tile(image, labelOf(image), row, true);
  for (let at = image * k; at < (image + 1) * k; at++) {
    const near = neighbors[at], cosine = (cosines[at] / 100).toFixed(2);
    tile(near, near < 0 ? cosine : `${cosine} ${labelOf(near)}`, row);
  }
  parent.append(row);
}
let chosen = -1;
function choose(image) {
  chosen = image;
  byId("chosen").replaceChildren();
  addNeighbors(image, byId("chosen"));
  byId("neighbors").scrollIntoView({ behavior: "smooth", block: "nearest" });
  draw();
}

data.queries.forEach((image) => addNeighbors(image, byId("queries")));
data.groups.forEach((group, number) => {
  const row = element("div", "row");
  group.forEach((image) => tile(image, data.files.length > 1 ? data.files[file[image]] : labelOf(image), row));
  if (data.sizes[number] > group.length) row.append(element("span", "note", `and ${data.sizes[number] - group.length} more`));
  byId("groups").append(row);
});
data.outliers.forEach((image) => tile(image, labelOf(image), byId("outlying")));
data.suspects.forEach((image, at) => {
  const [other, share] = data.votes[at];
  tile(image, `${labelOf(image)} → ${other} (${Math.round(100 * share)} %)`, byId("doubtful"));
});

// The map.
const canvas = byId("points"), pen = canvas.getContext("2d"), tip = byId("tip");
let colorBy = byId("color").value, matches = null, hidden = new Set(), ranks = [], xs = [], ys = [];

function groupsOf() {
  const values = colorBy === "label" ? label : colorBy === "file" ? file : null;
  const names = colorBy === "label" ? data.labels : colorBy === "file" ? data.files : [];
  return [values, names];
}
function rank() {
  const [values, names] = groupsOf();
  ranks = names.map(() => -1);
  if (!values) return;
  const sizes = names.map(() => 0);
  values.forEach((value) => sizes[value]++);
  names.map((_, at) => at).sort((a, b) => sizes[b] - sizes[a]).slice(0, HUES.length).forEach((at, hue) => { ranks[at] = hue; });
}
function hueOf(group) {
  return ranks[group] >= 0 ? HUES[ranks[group]] : OTHER;
}
function isShown(image) {
  const [values] = groupsOf();
  return (!matches || matches.has(image)) && !(values && hidden.has(values[image]));
}
function draw() {
  const scale = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight, edge = 12;
  canvas.width = width * scale;
  canvas.height = height * scale;
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  const [values] = groupsOf(), radius = count > 5000 ? 1.8 : count > 1000 ? 2.5 : 4;
  xs = new Float32Array(count);
  ys = new Float32Array(count);
  const drawn = [];
  for (let image = 0; image < count; image++) {
    xs[image] = edge + (width - 2 * edge) * places[2 * image] / 65535;
    ys[image] = height - edge - (height - 2 * edge) * places[2 * image + 1] / 65535;
    if (isShown(image)) drawn.push(image);
    else dot(image, "#dfe2e6", radius);
  }
  drawn.forEach((image) => dot(image, values ? hueOf(values[image]) : HUES[0], radius));
  if (chosen >= 0) {
    pen.strokeStyle = "#1f2328";
    pen.lineWidth = 2;
    pen.beginPath();
    pen.arc(xs[chosen], ys[chosen], radius + 4, 0, 7);
    pen.stroke();
  }
}
function dot(image, color, radius) {
  pen.fillStyle = color;
  pen.fillRect(xs[image] - radius, ys[image] - radius, 2 * radius, 2 * radius);
}
function nearest(event) {
  const box = canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
  let best = -1, least = 20 * 20;
  for (let image = 0; image < count; image++) {
    const distance = (xs[image] - x) ** 2 + (ys[image] - y) ** 2;
    if (distance < least && isShown(image)) [best, least] = [image, distance];
  }
  return best;
}
function point(event) {
  const image = nearest(event);
  tip.style.display = image < 0 ? "none" : "block";
  if (image < 0 || tip.dataset.image === String(image)) return;
  tip.dataset.image = image;
  tip.replaceChildren();
  const box = tip.appendChild(element("span", "t"));
  box.dataset.image = image;
  paint(box);
  if (label.length) tip.append(element("b", "", labelOf(image)), document.createElement("br"));
  tip.append(data.keys[image]);
  const left = Math.min(xs[image] + 12, canvas.clientWidth - tip.offsetWidth - 4);
  tip.style.left = `${Math.max(0, left)}px`;
  tip.style.top = `${ys[image] + 12}px`;
}
canvas.onpointermove = point;
canvas.onpointerleave = () => { tip.style.display = "none"; };
canvas.onclick = (event) => {
  const image = nearest(event);
  if (image >= 0) choose(image);
};

function legend() {
  const [values, names] = groupsOf(), place = byId("legend");
  place.replaceChildren();
  if (!values) return;
  const order = names.map((_, at) => at).sort((a, b) => (ranks[a] < 0 ? 99 : ranks[a]) - (ranks[b] < 0 ? 99 : ranks[b]));
  order.slice(0, LISTED).forEach((at) => {
    const button = place.appendChild(element("button", hidden.has(at) ? "off" : ""));
    button.type = "button";
    const key = button.appendChild(element("span", "key"));
    key.style.background = hueOf(at);
    button.append(` ${names[at]}`);
    button.onclick = () => {
      if (!hidden.delete(at)) hidden.add(at);
      button.className = hidden.has(at) ? "off" : "";
      draw();
    };
  });
  if (order.length > LISTED) place.append(element("span", "note", `and ${order.length - LISTED} more`));
}
byId("color").onchange = () => {
  colorBy = byId("color").value;
  hidden = new Set();
  rank();
  legend();
  draw();
};
byId("search").oninput = () => {
  const text = byId("search").value.trim().toLowerCase();
  matches = null;
  if (text) {
    matches = new Set();
    data.keys.forEach((key, image) => {
      if (key.toLowerCase().includes(text) || labelOf(image).toLowerCase().includes(text)) matches.add(image);
    });
  }
  byId("found").textContent = matches ? `${matches.size.toLocaleString("en")} found` : "";
  draw();
};
window.onresize = draw;
rank();
legend();
draw();
