/* Player: plays the stretch of a recording that an utterance is, with a position that counts from its start. */

/** The players of the rows that are drawn, by the row's index. */
const players = new Map();

function clock(seconds) {
  const whole = Math.floor(seconds / 60);
  return whole ? `${whole}:${(seconds % 60).toFixed(1).padStart(4, "0")}` : `${seconds.toFixed(1)} s`;
}

/** Return the audio element of a row; its media fragment also tells other programs where the utterance lies. */
function makeAudio(row) {
  const audio = document.createElement("audio");
  audio.preload = "none"; // a page of rows must not open a page of recordings
  audio.src = `${row.audio}#t=${row.start},${(row.start + row.duration).toFixed(3)}`;
  return audio;
}

/** Return the player of a row: an audio element, a button and a slider. */
function makePlayer(row) {
  if (!row.audio) return element("span", { className: "note" }, row.noAudio);
  const audio = makeAudio(row);
  const button = element("button", { type: "button", className: "play", ariaLabel: `Play ${row.id}` }, "▶");
  const slider = element("input", { type: "range", min: 0, max: row.duration, step: 0.01, value: 0 });
  slider.ariaLabel = `Position in ${row.id}, seconds`;
  const time = element("span", { className: "time" }, clock(row.duration));
  const player = { row, audio, button, slider, time, box: element("span", { className: "player" }) };
  player.box.append(audio, button, slider, time);
  listen(player);
  players.set(row.index, player);
  return player.box;
}

function listen(player) {
  const { audio, button, slider, row } = player;
  button.addEventListener("click", () => toggle(player));
  slider.addEventListener("input", () => (audio.currentTime = row.start + Number(slider.value)));
  audio.addEventListener("play", () => {
    show(player, true);
    follow(player);
  });
  audio.addEventListener("pause", () => show(player, false));
  audio.addEventListener("error", () => fail(player));
}

function toggle(player) {
  const { audio, row } = player;
  if (!audio.paused) return audio.pause();
  for (const other of players.values()) other.audio.pause();
  const position = audio.currentTime - row.start;
  if (audio.readyState && (position < -0.05 || position >= row.duration - 0.05)) audio.currentTime = row.start;
  return audio.play().catch(() => fail(player));
}

function show(player, playing) {
  player.button.textContent = playing ? "⏸" : "▶";
  player.button.ariaLabel = `${playing ? "Pause" : "Play"} ${player.row.id}`;
}

/** Move the slider while the audio plays, and stop where the utterance ends: the recording may go on. */
function follow(player) {
  const { audio, slider, time, row } = player;
  const position = Math.max(0, audio.currentTime - row.start);
  slider.value = position;
  time.textContent = `${position.toFixed(1)} / ${clock(row.duration)}`;
  if (position >= row.duration) audio.pause();
  else if (!audio.paused) requestAnimationFrame(() => follow(player));
}

function fail(player) {
  if (player.audio.error) player.box.replaceChildren(`cannot play ${player.row.audio}`);
}

/** Forget the players of rows that are drawn no longer. */
function dropPlayers() {
  for (const { audio } of players.values()) audio.pause();
  players.clear();
}
