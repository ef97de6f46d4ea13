/* Drawing: rows and sums become elements. Texts only ever become text nodes, so that none of them can be HTML. */

const EDIT_TAGS = { "~": "mark", "+": "ins", "-": "del" };

/** Return an element with properties and children, which are elements and texts. */
function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** Return the element of a text that may run in either direction. */
function textOf(language, ...children) {
  return element("div", { className: "text", dir: "auto", lang: language }, ...children);
}

/** Return the nodes of a hypothesis, its differences marked. */
function markedText(row, system) {
  return runsOf(row, system).flatMap(({ edit, text, instead }) => {
    if (edit === "=") return [text];
    const shown = edit === "-" ? instead : text;
    const mark = element(EDIT_TAGS[edit], {}, shown.trimStart());
    if (edit === "~") mark.title = `reference: ${instead.trim()}`;
    return [shown.startsWith(" ") ? " " : "", mark];
  });
}

function formatValue(value, measure) {
  if (value === null) return "–";
  const text = value.toFixed(measure.unit === "ratio" ? 3 : 1);
  return measure.unit === "%" ? `${text} %` : text;
}

/** Return an arrow and the size of a difference, for which up and green mean better. */
function gainLabel(gain, measure) {
  if (gain === null || Math.abs(gain) < 1e-9) return "";
  const label = `${gain > 0 ? "▲" : "▼"} ${formatValue(Math.abs(gain), measure).replace(" %", "")}`;
  const title = `${gain > 0 ? "better" : "worse"} than the baseline`;
  return element("span", { className: gain > 0 ? "better" : "worse", title }, label);
}

/** Return three cells: the score of a system on a row, how it is made up, and its difference to the baseline. */
function scoreCells(row, system, page, state) {
  const cells = [0, 1, 2].map(() => element("div", { className: "score" }));
  const measure = measureOf(row, state.measure);
  const figure = figureOf(row, system, measure, page.head.measures);
  if (!figure) return cells;
  const { counted, name } = page.head.measures[measure];
  cells[0].append(element("b", { title: name }, formatValue(figure.value, page.head.measures[measure])));
  const made = element("span", { className: "note", title: "errors / units" }, `${figure.part}/${figure.whole}`);
  cells[1].append(counted ? made : "");
  const gain = gainOf(row, system, Number(state.baseline), state.measure, page.head.measures);
  cells[2].append(gainLabel(gain, page.head.measures[measure]));
  return cells;
}

function flagsOf(bits, page) {
  const names = page.head.flags.filter((_, bit) => bits & (1 << bit));
  return names.map((name) => element("span", { className: "flag" }, name));
}

/** Return the cells of a line: who, what, and how good. */
function systemLine(row, system, page, state) {
  const name = element("div", { className: "name", title: page.head.systems[system] }, page.head.systems[system]);
  if (system === Number(state.baseline)) name.classList.add("baseline");
  const hypothesis = row.hypotheses[system];
  const text = textOf(row.set.language);
  if (hypothesis === null) text.append(element("span", { className: "note" }, "not tested on this"));
  else if (hypothesis) text.append(...markedText(row, system));
  for (const flag of flagsOf(row.flags[system], page)) text.append(" ", flag);
  return [name, text, ...scoreCells(row, system, page, state)];
}

function plainLine(label, language, text) {
  const shown = text || element("span", { className: "note" }, "none");
  return [element("div", { className: "name given" }, label), textOf(language, shown)];
}

/** Return the language of a transcript, or the pair of a translation; codes such as `zh-CN` hold a hyphen too. */
function pairOf({ text, source, language }) {
  return text === "translation" ? `${source} → ${language}` : source;
}

/** Return the card of a row. */
function drawRow(row, page, state) {
  const { corpus, split, task, text } = row.set;
  const kind = [`${corpus} ${split}`, pairOf(row.set), `${text} (${task})`];
  const facts = [...kind, row.speaker, clock(row.duration)];
  const title = element("h2", { id: `row-${row.index}` }, row.id);
  const notes = facts.filter(Boolean).map((fact) => element("span", {}, fact));
  const head = element("div", { className: "head" }, title, ...notes, makePlayer(row));
  const lines = element("div", { className: "lines" });
  if (row.source) lines.append(...plainLine("source", row.set.source, row.source));
  const measure = page.head.measures[measureOf(row, state.measure)];
  const measured = row.set.text === measure?.text ? measure.name : "";
  lines.append(...plainLine("reference", row.set.language, row.reference));
  lines.append(element("div", { className: "score note" }, measured));
  page.head.systems.forEach((_, system) => lines.append(...systemLine(row, system, page, state)));
  const card = element("article", { tabIndex: -1 }, head, lines);
  card.dataset.index = row.index;
  card.setAttribute("aria-labelledby", title.id);
  return card;
}

/** Return how many of the rows a system does better and worse than the baseline. */
function countGains(rows, system, page, state) {
  const gains = rows.map((row) => gainOf(row, system, Number(state.baseline), state.measure, page.head.measures));
  return [gains.filter((gain) => gain > 1e-9).length, gains.filter((gain) => gain < -1e-9).length];
}

/** Return the figures of one system over rows, a cell a measure. */
function summaryCells(rows, system, page, shown) {
  return shown.map((number) => {
    const measure = page.head.measures[number];
    const { part, whole, value } = pool(rows, system, number, page.head.measures);
    const base = whole.toLocaleString("en");
    const made = measure.counted ? `${part.toLocaleString("en")} / ${base}` : `mean of ${base}`;
    const figure = element("b", {}, formatValue(value, measure));
    return element("td", {}, figure, " ", element("span", { className: "note" }, made));
  });
}

/** Fill the table of what all shown rows, not only those of this page, sum up to. */
function drawSummary(table, rows, page, state) {
  const shown = page.head.measures.map((_, number) => number);
  const present = shown.filter((number) => rows.some((row) => row.set.measures.includes(number)));
  const names = present.map((number) => page.head.measures[number]);
  const heads = ["system", ...names.map(({ name, text }) => `${name}, ${text}`), "better", "worse"];
  const lines = page.head.systems.map((name, system) => {
    const label = element("th", { scope: "row", title: name }, name);
    if (system === Number(state.baseline)) label.classList.add("baseline");
    const gains = system === Number(state.baseline) ? ["", ""] : countGains(rows, system, page, state);
    const counts = gains.map((count) => element("td", {}, `${count}`));
    return element("tr", {}, label, ...summaryCells(rows, system, page, present), ...counts);
  });
  const head = element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text)));
  const caption = element("caption", {}, "Figures of all that is shown");
  table.replaceChildren(caption, element("thead", {}, head), element("tbody", {}, ...lines));
}
