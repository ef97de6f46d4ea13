"use strict";

/* Rows: from the compact form in which the file holds them to objects, their scores, and the units that differ. */

const CODE = /(\d+)([=~+-])/g;

/** Return an object a row; `hypotheses`, `codes`, `flags` and `values` have an entry a system. */
function decodeRows({ head, rows }) {
  return rows.map((row, index) => {
    const [id, set, speaker, duration, audio, start, reference, source, texts, codes, flags, values] = row;
    return {
      index, id, set: head.sets[set], speaker: head.speakers[speaker], duration, start, reference, source, codes,
      flags, values,
      audio: typeof audio === "number" ? head.audio[audio] : null,
      noAudio: typeof audio === "number" ? "" : audio,
      hypotheses: texts.map((text) => (text === 0 ? reference : text)),
    };
  });
}

/** Return a figure of one row: what sums are made of, and its value; null where the row has none. */
function figureOf(row, system, measure, measures) {
  const cell = row.values[system][row.set.measures.indexOf(measure)];
  if (cell === null || cell === undefined) return null;
  if (!measures[measure].counted) return { part: cell, whole: 1, value: cell };
  return { part: cell[0], whole: cell[1], value: (100 * cell[0]) / cell[1] };
}

/** Return the measure that a row is scored by: the chosen one, or the first that its text has. */
function measureOf(row, chosen) {
  return chosen === "" ? row.set.measures[0] : Number(chosen);
}

/** Return by how much a system is better than another on a row, whichever direction its measure has; or null. */
function gainOf(row, system, baseline, chosen, measures) {
  const measure = measureOf(row, chosen);
  const [own, other] = [system, baseline].map((one) => figureOf(row, one, measure, measures));
  if (!own || !other) return null;
  return (own.value - other.value) * (measures[measure].higher ? 1 : -1);
}

/** Return sums over rows and what they make: the pooled rate of errors, or the mean of values. */
function pool(rows, system, measure, measures) {
  let [part, whole] = [0, 0];
  for (const row of rows) {
    const figure = figureOf(row, system, measure, measures);
    if (figure) {
      part += figure.part;
      whole += figure.whole;
    }
  }
  const scale = measures[measure].counted ? 100 : 1;
  return { part, whole, value: whole ? (scale * part) / whole : null };
}

/** Return the units of a text, each with the space before it: words, or characters of languages that part none. */
function unitsOf(text, characters) {
  return text.match(characters ? / *[^ ]/gu : / *[^ ]+/gu) ?? [];
}

/** Return the runs of a hypothesis: their edit, their text, and what the reference has in place of it. */
function runsOf(row, system) {
  const [reference, hypothesis] = [row.reference, row.hypotheses[system]];
  const steps = [...row.codes[system].matchAll(CODE)];
  if (!steps.length) return [{ edit: "=", text: hypothesis, instead: hypothesis }];
  const [left, right] = [reference, hypothesis].map((text) => unitsOf(text, row.set.characters));
  let [i, j] = [0, 0];
  return steps.map(([, length, edit]) => {
    const instead = edit === "+" ? [] : left.slice(i, (i += Number(length)));
    const text = edit === "-" ? [] : right.slice(j, (j += Number(length)));
    return { edit, text: text.join(""), instead: instead.join("") };
  });
}
