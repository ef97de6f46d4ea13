/* Filters: which rows are shown, and in which order. A state is what the form holds: a text for each control's name. */

/** Return a text such that upper and lower case, and the ways to write an accent, make no difference. */
function fold(text) {
  return text.normalize("NFC").toLowerCase();
}

/** Return all that a search looks at, made once a row and kept. */
function haystackOf(row) {
  const texts = new Set([row.id, row.reference, row.source, ...row.hypotheses.filter((text) => text !== null)]);
  return (row.haystack ??= fold([...texts].join("\n")));
}

/** Return a test of rows for each control that asks for something. */
function testsOf(state, page) {
  const tests = [];
  const needle = fold(state.q.trim().replace(/\s+/g, " "));
  if (needle) tests.push((row) => haystackOf(row).includes(needle));
  for (const name of ["corpus", "languages", "text"]) {
    if (state[name]) tests.push((row) => row.set[name] === state[name]);
  }
  if (state.speaker) tests.push(speakerTest(state.speaker, page.head.speakers));
  if (state.from) tests.push((row) => row.duration >= Number(state.from));
  if (state.to) tests.push((row) => row.duration <= Number(state.to));
  if (state.flag) tests.push(flagTest(state.flag));
  if (state.compare) tests.push(compareTest(state, page));
  return tests;
}

/** A name that a speaker has means this speaker; any other text is looked for in the names. */
function speakerTest(wanted, speakers) {
  if (speakers.includes(wanted)) return (row) => row.speaker === wanted;
  return (row) => fold(row.speaker).includes(fold(wanted));
}

function flagTest(flag) {
  if (flag === "none") return (row) => row.flags.every((bits) => bits === 0);
  if (flag === "any") return (row) => row.flags.some((bits) => bits !== 0);
  return (row) => row.flags.some((bits) => (bits & (1 << Number(flag))) !== 0);
}

function compareTest(state, page) {
  const [system, baseline, least] = [Number(state.system), Number(state.baseline), Number(state.by)];
  const gain = (row) => gainOf(row, system, baseline, state.measure, page.head.measures);
  const enough = (difference) => difference > 0 && difference >= least - 1e-9;
  return {
    differ: (row) => new Set(row.hypotheses.filter((text) => text !== null)).size > 1,
    unlike: (row) => row.hypotheses[system] !== row.hypotheses[baseline],
    worse: (row) => gain(row) !== null && enough(-gain(row)),
    better: (row) => gain(row) !== null && enough(gain(row)),
  }[state.compare];
}

/** Return what rows are ordered by, the smallest first; null where they keep the order of the corpus. */
function orderOf(state, page) {
  const [system, baseline, { measures }] = [Number(state.system), Number(state.baseline), page.head];
  const gain = (row) => gainOf(row, system, baseline, state.measure, measures);
  const goodness = (row) => {
    const measure = measureOf(row, state.measure);
    const figure = figureOf(row, system, measure, measures);
    return figure && figure.value * (measures[measure].higher ? 1 : -1);
  };
  const turned = (order) => (row) => (order(row) === null ? null : -order(row));
  const orders = { worst: goodness, best: turned(goodness), lost: gain, won: turned(gain) };
  return { ...orders, longest: (row) => -row.duration, shortest: (row) => row.duration }[state.sort] ?? null;
}

/** Return the rows of a state; those that have nothing to be ordered by come last. */
function selectRows(state, page) {
  const tests = testsOf(state, page);
  const rows = page.rows.filter((row) => tests.every((test) => test(row)));
  const order = orderOf(state, page);
  if (!order) return rows;
  const keyed = rows.map((row) => ({ row, key: order(row) ?? Infinity }));
  keyed.sort((a, b) => (a.key === b.key ? a.row.index - b.row.index : a.key - b.key));
  return keyed.map(({ row }) => row);
}
