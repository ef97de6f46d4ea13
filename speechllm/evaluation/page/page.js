/* The page: the form's state, which the address keeps, what follows from it, and the keyboard. */

const PAGE_ROWS = 25;
const SPEAKERS_OFFERED = 2000;

const byId = (id) => document.getElementById(id);
const form = byId("controls");
const page = readPage();
let state = {};
let shown = [];
let current = 0; // place among the shown rows

function readPage() {
  const data = JSON.parse(byId("data").textContent);
  byId("data").remove(); // the text is as large as all the rest
  return { head: data.head, rows: decodeRows(data) };
}

/** Offer what there is; the defaults of the form are then those that the address leaves out. */
function fillForm() {
  const offer = (name, values, labels = values) =>
    form.elements[name].append(...labels.map((label, i) => element("option", { value: values[i] }, label)));
  const { sets, systems, measures, flags, speakers, baseline } = page.head;
  for (const name of ["corpus", "languages", "text"]) offer(name, [...new Set(sets.map((set) => set[name]))]);
  offer("flag", flags.map((_, bit) => `${bit}`), flags);
  for (const name of ["system", "baseline"]) offer(name, systems.map((_, i) => `${i}`), systems);
  offer("measure", measures.map((_, i) => `${i}`), measures.map(({ name, text }) => `${name}, ${text}`));
  const offered = speakers.filter(Boolean).sort().slice(0, SPEAKERS_OFFERED);
  byId("speakers").append(...offered.map((value) => element("option", { value })));
  for (const name of ["system", "baseline"]) {
    const chosen = name === "baseline" ? baseline : systems.findIndex((_, i) => i !== baseline);
    form.elements[name].options[Math.max(0, chosen)].defaultSelected = true;
  }
}

function defaultOf(control) {
  if (control.tagName !== "SELECT") return control.defaultValue;
  return ([...control.options].find((option) => option.defaultSelected) ?? control.options[0]).value;
}

const namedControls = () => [...form.elements].filter((control) => control.name);

function readHash() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  for (const control of namedControls()) {
    control.value = wanted.get(control.name) ?? defaultOf(control);
    if (control.value === "" && control.tagName === "SELECT") control.value = defaultOf(control); // no such option
  }
  return wanted.get("at");
}

function writeHash() {
  const changed = namedControls().filter((control) => control.value !== defaultOf(control));
  const kept = new URLSearchParams(changed.map(({ name, value }) => [name, value]));
  if (current) kept.set("at", shown[current].index);
  history.replaceState(null, "", `#${kept}`);
}

/** Select rows anew; `at` is the index of the row to stand on. */
function apply(at = null) {
  state = Object.fromEntries(new FormData(form));
  shown = selectRows(state, page);
  current = Math.max(0, at === null ? 0 : shown.findIndex((row) => row.index === Number(at)));
  drawSummary(byId("summary"), shown, page, state);
  drawPage();
  writeHash();
}

function drawPage() {
  dropPlayers();
  const first = current - (current % PAGE_ROWS);
  const pages = Math.max(1, Math.ceil(shown.length / PAGE_ROWS));
  const number = first / PAGE_ROWS + 1;
  const cards = shown.slice(first, first + PAGE_ROWS).map((row) => drawRow(row, page, state));
  if (!cards.length) cards.push(element("p", { className: "note" }, "No utterance is like this."));
  byId("rows").replaceChildren(...cards);
  byId("count").textContent = `${shown.length.toLocaleString("en")} of ${page.rows.length.toLocaleString("en")} rows`;
  byId("pages").textContent = `page ${number} of ${pages}`;
  byId("previous").disabled = number === 1;
  byId("next").disabled = number === pages;
  markCurrent();
}

function markCurrent() {
  for (const card of byId("rows").querySelectorAll("article")) {
    const here = Number(card.dataset.index) === shown[current].index;
    if (here) card.setAttribute("aria-current", "true");
    else card.removeAttribute("aria-current");
  }
}

/** Go to a place among the shown rows, on whichever page it is. */
function goTo(place) {
  if (place < 0 || place >= shown.length) return;
  const turned = Math.floor(place / PAGE_ROWS) !== Math.floor(current / PAGE_ROWS);
  current = place;
  if (turned) drawPage();
  else markCurrent();
  const card = byId("rows").querySelector("[aria-current]");
  card.focus({ preventScroll: true });
  card.scrollIntoView({ block: turned ? "start" : "nearest" });
  writeHash();
}

function turnPage(pages) {
  goTo((Math.floor(current / PAGE_ROWS) + pages) * PAGE_ROWS);
}

function playCurrent() {
  const player = players.get(shown[current]?.index);
  if (player) toggle(player);
}

const KEYS = {
  j: () => goTo(current + 1),
  k: () => goTo(current - 1),
  " ": playCurrent,
  "/": () => {
    byId("side").open = true;
    form.elements.q.focus();
  },
};

function onKey(event) {
  if (event.key === "Escape") document.activeElement.blur();
  const typing = event.target.matches('input:not([type="range"]), select');
  const pressing = event.key === " " && event.target.matches("button, summary");
  if (typing || pressing || event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
}

function noteAudio() {
  const reasons = Object.entries(page.head.missing_audio).map(([reason, count]) => `${reason}: ${count}`);
  byId("audio-note").textContent = reasons.length ? `Rows without audio – ${reasons.join("; ")}.` : "";
}

/** Wait for a pause in typing: a search through 100,000 rows is not for every letter. */
function later(action, delay = 150) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, delay);
  };
}

function start() {
  fillForm();
  noteAudio();
  const narrow = matchMedia("(max-width: 900px)"); // as in page.css, where only then the filters can be folded
  const unfold = () => (byId("side").open = !narrow.matches);
  narrow.addEventListener("change", unfold);
  unfold();
  const applyLater = later(apply);
  form.addEventListener("input", ({ target }) => (target.tagName === "SELECT" ? apply() : applyLater()));
  form.addEventListener("reset", () => setTimeout(apply)); // it resets after its event
  form.addEventListener("submit", (event) => event.preventDefault());
  byId("previous").addEventListener("click", () => turnPage(-1));
  byId("next").addEventListener("click", () => turnPage(1));
  byId("rows").addEventListener("focusin", (event) => {
    const card = event.target.closest("article");
    current = shown.findIndex((row) => row.index === Number(card.dataset.index));
    markCurrent();
    writeHash();
  });
  addEventListener("keydown", onKey);
  addEventListener("hashchange", () => apply(readHash()));
  apply(readHash());
}

start();
