"use strict";
const CARDS_AT_ONCE = 48;
const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const { prompts, runs } = data;
const viewer = byId("viewer"), zoom = byId("zoom"), search = byId("search"), order = byId("order");
const chunks = [];
let shown = prompts, drawn = 0, current = null, zoomed = 1;

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value; else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function thumbnail(number) {
  const chunk = Math.floor(number / data.chunk);
  chunks[chunk] ??= JSON.parse(byId(`thumbnails-${chunk}`).textContent);
  return chunks[chunk][number % data.chunk];
}

function sampleOf(prompt, run, row) {
  const [index, rank, score, name, made, number, isReduced] = row;
  const folder = prompt.runs[run].folder;
  const path = folder ? `${folder}/${name}` : name;
  const link = runs[run].base + path.split("/").map(encodeURIComponent).join("/");
  const source = number === undefined ? link : thumbnail(number);
  const alt = `${prompt.text || "(no prompt)"}: ${runs.length > 1 ? runs[run].name + ", " : ""}rank ${rank + 1}, sample ${index}`;
  return { prompt, run, index, rank, score, made, path, link, source, alt, isReduced };
}

const samplesOf = (prompt, run) => (prompt.runs[run] ? prompt.runs[run].samples : []);
const bestScore = (prompt, run) => samplesOf(prompt, run)[0]?.[2] ?? -Infinity;
const field = (prompt, name) => String(prompt.runs.find(Boolean).metadata[name] ?? "");

function picture(sample, properties = {}) {
  const image = make("img", { loading: "lazy", decoding: "async", alt: sample.alt, ...properties });
  image.addEventListener("load", () => image.classList.toggle("px", image.naturalWidth < data.pixelated));
  image.src = sample.source;
  return image;
}

/* The cards: as many as are in sight. */

function cardOf(prompt) {
  const text = prompt.text || "(no prompt)";
  const tag = field(prompt, "challenge") || field(prompt, "category");
  const open = make("button", { className: "open", type: "button" });
  const meta = make("p", { className: "meta" });
  let count = 0;
  if (tag) meta.append(make("span", { className: "tag" }, tag));
  runs.forEach((run, index) => {
    const samples = samplesOf(prompt, index);
    count += samples.length;
    const letter = runs.length > 1 ? `${run.name[0]} ` : "";
    if (!samples.length) {
      open.append(make("span", { className: "none" }, `not in ${run.name}`));
      return;
    }
    open.append(picture(sampleOf(prompt, index, samples[0])));
    const score = samples[0][2];
    if (score !== null) meta.append(make("span", {}, `${letter || "score "}${score.toFixed(3)}`));
  });
  open.setAttribute("aria-label", `Show all ${count} samples: ${text}`);
  open.addEventListener("click", () => show(prompt));
  return make("article", { className: "card", id: `p-${prompt.id}` }, open, make("p", { className: "prompt" }, text), meta);
}

function drawMore() {
  const next = shown.slice(drawn, drawn + CARDS_AT_ONCE);
  byId("cards").append(...next.map(cardOf));
  drawn += next.length;
  byId("more").hidden = drawn >= shown.length;
}

function refresh() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = ["category", "challenge"].map((name) => [name, byId(name)?.value]).filter(([, value]) => value);
  shown = prompts.filter((prompt) => {
    prompt.words ??= `${prompt.text} ${field(prompt, "challenge")} ${field(prompt, "category")} ${prompt.id}`.toLowerCase();
    return words.every((word) => prompt.words.includes(word)) &&
      wanted.every(([name, value]) => field(prompt, name) === value);
  });
  const gain = (prompt) => (prompt.runs.every(Boolean) ? bestScore(prompt, 1) - bestScore(prompt, 0) : 0);
  const best = (prompt) => Math.max(...runs.map((_, run) => bestScore(prompt, run)));
  const by = { best: [best, -1], worst: [best, 1], gain: [gain, -1], loss: [gain, 1] }[order?.value];
  if (by) shown.sort((a, b) => by[1] * (by[0](a) - by[0](b)) || 0);
  byId("cards").replaceChildren();
  drawn = 0;
  drawMore();
  const total = `${prompts.length} prompt${prompts.length === 1 ? "" : "s"}`;
  byId("count").textContent = shown.length === prompts.length ? total : `${shown.length} of ${total}`;
  byId("empty").hidden = shown.length > 0;
}

/* The dialog: all samples of a prompt. */

function commandOf(sample) {
  return `${sample.prompt.runs[sample.run].command} ${data.made[sample.made][2]}`;
}

async function copy(text, button) {
  const area = make("textarea", { value: text, className: "hidden", readOnly: true });
  viewer.append(area);
  area.select();
  const isDone = document.execCommand("copy") || (await navigator.clipboard?.writeText(text).then(() => true, () => false));
  area.remove();
  button.textContent = isDone ? "copied" : "select the text to copy it";
  button.focus();
}

function select(button, sample) {
  const part = button.closest(".run");
  for (const other of part.querySelectorAll(".samples button")) other.setAttribute("aria-pressed", other === button);
  const big = picture(sample, { loading: "eager" });
  if (sample.isReduced) {
    const file = new Image();
    file.addEventListener("load", () => { big.src = file.src; });
    file.src = sample.link;
  }
  const look = make("button", { type: "button", className: "look", "aria-label": `Zoom in: ${sample.alt}` }, big);
  look.addEventListener("click", () => enlarge(big));
  const count = samplesOf(sample.prompt, sample.run).length;
  const facts = [`rank ${sample.rank + 1} of ${count}`, `sample ${sample.index}`];
  if (sample.score !== null) facts.push(`score ${sample.score.toFixed(4)}`);
  const caption = make("figcaption", {}, ...facts.map((fact) => make("span", {}, fact)));
  caption.append(make("a", { href: sample.link, target: "_blank", rel: "noopener" }, "open the file"));
  part.querySelector("figure").replaceChildren(look, caption);
  const copier = make("button", { type: "button" }, "copy");
  copier.addEventListener("click", () => copy(commandOf(sample), copier));
  const again = make("p", {}, `Draws it again, as sample ${sample.index}: `, copier);
  part.querySelector(".again").replaceChildren(again, make("code", {}, commandOf(sample)));
}

function runPart(prompt, run) {
  const part = make("section", { className: "run", "aria-label": runs[run].name });
  if (runs.length > 1) part.append(make("h3", {}, runs[run].name));
  const rows = samplesOf(prompt, run);
  if (!rows.length) {
    part.append(make("p", { className: "quiet" }, "This run has no such prompt."));
    return part;
  }
  const grid = make("div", { className: "samples" });
  part.append(make("div", { className: "left" }, make("figure", { className: "big" }), make("div", { className: "again" })), grid);
  for (const row of rows) {
    const sample = sampleOf(prompt, run, row);
    const score = sample.score === null ? "" : ` ${sample.score.toFixed(3)}`;
    const button = make("button", { type: "button" }, picture(sample), make("span", {}, make("b", {}, `${sample.rank + 1}`), score));
    button.addEventListener("click", () => select(button, sample));
    grid.append(button);
  }
  select(grid.firstElementChild, sampleOf(prompt, run, rows[0]));
  return part;
}

function show(prompt) {
  current = prompt;
  byId("viewer-prompt").textContent = prompt.text || "(no prompt)";
  byId("body").replaceChildren(...runs.map((_, run) => runPart(prompt, run)));
  if (!viewer.open) viewer.showModal();
  viewer.scrollTop = 0;
  history.replaceState(null, "", "#p-" + encodeURIComponent(prompt.id));
}

function step(by) {
  if (!shown.length) return;
  const at = shown.indexOf(current);
  show(shown[((at < 0 ? (by > 0 ? -1 : 0) : at) + by + shown.length) % shown.length]);
}

function stepSample(by) {
  const part = document.activeElement?.closest(".run") ?? viewer.querySelector(".run");
  const buttons = [...part.querySelectorAll(".samples button")];
  if (!buttons.length) return;
  const at = buttons.findIndex((button) => button.getAttribute("aria-pressed") === "true");
  const next = buttons[(at + by + buttons.length) % buttons.length];
  next.click();
  next.focus();
}

/* Zoom: a picture alone, as large as the window, then twice and four times that. */

function scale(factor) {
  zoomed = Math.min(Math.max(factor, 1), 8);
  byId("zoomed").style.width = `calc(min(100vw, 100dvh) * ${zoomed})`;
}

function enlarge(image) {
  Object.assign(byId("zoomed"), { src: image.src, alt: image.alt, className: image.className });
  scale(1);
  if (!zoom.open) zoom.showModal();
}

/* Export: lines of the manifest. */

function lineOf(sample) {
  const [settings, seed] = data.made[sample.made];
  const { id, text } = sample.prompt;
  return {
    image: sample.path, metadata: sample.prompt.runs[sample.run].metadata, prompt: text, prompt_id: id,
    rank: sample.rank, sample_index: sample.index, score: sample.score, seed, settings,
  };
}

function exported(number, kind, run, overAll) {
  const count = overAll ? Infinity : number;
  let found = shown.flatMap((prompt) => samplesOf(prompt, run).slice(0, count).map((row) => sampleOf(prompt, run, row)));
  if (overAll) found = found.sort((a, b) => (b.score ?? -Infinity) - (a.score ?? -Infinity) || 0).slice(0, number);
  const lines = found.map(lineOf);
  if (kind === "jsonl") return lines.map((line) => JSON.stringify(line) + "\n").join("");
  const names = ["prompt_id", "prompt", "sample_index", "rank", "score", "seed", "image"];
  const cell = (value) => String(value ?? "").replace(/[\t\r\n]+/g, " ");
  const rows = lines.map((line) => [...names.map((name) => line[name]), line.metadata.category, line.metadata.challenge]);
  return [[...names, "category", "challenge"], ...rows].map((row) => row.map(cell).join("\t") + "\n").join("");
}

byId("export").addEventListener("submit", (event) => {
  event.preventDefault();
  const kind = event.submitter?.value ?? "jsonl", run = Number(byId("run")?.value ?? 0);
  const text = exported(Number(byId("number").value), kind, run, byId("scope")?.value === "all");
  const url = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  make("a", { href: url, download: `best.${kind}` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
});

function moveFocus(event) {
  const from = event.target.closest(".card");
  if (!from) return;
  const cards = [...byId("cards").children];
  const columns = cards.filter((card) => card.offsetTop === cards[0].offsetTop).length;
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  const at = cards.indexOf(from) + (by ?? NaN);
  if (at >= cards.length) drawMore();
  const next = byId("cards").children[at];
  if (!next) return;
  event.preventDefault();
  next.querySelector(".open").focus();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (zoom.open) {
    if (event.key === "+" || event.key === "=") scale(zoomed * 2);
    if (event.key === "-") scale(zoomed / 2);
    return;
  }
  if (viewer.open) {
    const samples = { ArrowUp: -1, ArrowDown: 1 }[event.key], cards = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (cards) step(cards);
    if (samples) { event.preventDefault(); stepSample(samples); }
    if (event.key === "z") enlarge((document.activeElement?.closest(".run") ?? viewer).querySelector(".big img"));
    return;
  }
  const isTyping = event.target.closest("input, select, textarea");
  if (event.key === "/" && !isTyping) { event.preventDefault(); search.focus(); }
  if (event.key === "Escape" && event.target === search) { search.value = ""; refresh(); search.blur(); }
  if (!isTyping) moveFocus(event);
});
byId("previous").addEventListener("click", () => step(-1));
byId("next").addEventListener("click", () => step(1));
byId("close").addEventListener("click", () => viewer.close());
byId("unzoom").addEventListener("click", () => zoom.close());
byId("zoomed").addEventListener("click", () => scale(zoomed >= 4 ? 1 : zoomed * 2));
viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
viewer.addEventListener("close", () => {
  history.replaceState(null, "", location.pathname + location.search);
  while (drawn < shown.length && drawn <= shown.indexOf(current)) drawMore();
  byId(`p-${current.id}`)?.querySelector(".open").focus();
});
search.addEventListener("input", refresh);
for (const name of ["category", "challenge", "order"]) byId(name)?.addEventListener("change", refresh);
byId("more").addEventListener("click", drawMore);
new IntersectionObserver((entries) => { if (entries.some((entry) => entry.isIntersecting)) drawMore(); }, { rootMargin: "1200px" }).observe(byId("more"));
refresh();
const linked = location.hash && prompts.find((prompt) => `#p-${encodeURIComponent(prompt.id)}` === location.hash);
if (linked) show(linked);
