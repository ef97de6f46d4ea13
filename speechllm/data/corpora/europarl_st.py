"""Europarl-ST v1.1: speeches in the European Parliament in nine languages, cut into segments and translated.

``<root>/<source>/audios/<speech>.m4a`` holds whole speeches, and ``<root>/<source>/<target>/<split>`` their segments:
``segments.lst`` (speech, begin and end in seconds), ``segments.<language>`` with one text a line, ``speeches.lst`` and
``speakers.lst``. Every language pair cuts the speeches in its own way, and has its own choice of them.
"""

import shlex
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from speechllm.data.corpus import CorpusDataModule
from speechllm.data.manifest import Tally
from speechllm.data.reading.headers import read_headers
from speechllm.data.reading.talks import (
    Segment,
    join_translations,
    read_seconds,
    read_texts,
    to_utterances,
)
from speechllm.data.reading.text import check_cleaners, clean
from speechllm.data.utterance import Utterance
from speechllm.errors import UserError, did_you_mean
from speechllm.languages import check_language

LANGUAGES = ("de", "en", "es", "fr", "it", "nl", "pl", "pt", "ro")
SPLITS = ("train", "dev", "test")
NOISY = "train-noisy"

SUFFIXES = ("wav", "flac", "mp3", "ogg", "opus")
"""Formats that are read, the first first, where a speech was converted to several."""

FOLDERS = ("audios", "audios_wav")
"""Folders of the speeches; the second one is a habit of those who convert them."""

EMPTY_CHANNEL = 0.01
"""A channel whose level is below this share of the other's is empty."""


class EuroparlST:
    """Reader of Europarl-ST on disk: the segments of one language pair after the other, in the order of the lists.

    In ``train`` a segment that several pairs of one source language have is one utterance with several translations.
    Other splits keep the segments of each pair to themselves.

    Args:
        root: Folder that holds one folder per source language, or ``v1.1``, which does.
        pairs: Language pairs: ``en-de``, ``fr-en``.
        train_noisy: Whether ``train`` has the segments of ``train-noisy`` too.
        clean_transcripts: Cleaners of transcripts, out of :data:`speechllm.data.reading.text.CLEANERS`.
    """

    name = "europarl_st"
    version = "v1.1"

    def __init__(
        self, root: Path, pairs: list[str], train_noisy: bool = False, clean_transcripts: Sequence[str] = ()
    ) -> None:
        if not pairs:
            msg = "Europarl-ST needs at least one language pair, such as 'en-de'."
            raise UserError(msg)
        self.root = Path(root)
        self.targets: dict[str, list[str]] = {}
        for pair in pairs:
            source, _, target = pair.replace("_", "-").partition("-")
            if not source or not target or source == target or target in self.targets.get(source, ()):
                msg = f"A Europarl-ST pair is written <source>-<target>, such as 'en-de', each once; got {pairs}."
                raise UserError(msg)
            for language in (source, target):
                check_language(language, f"Europarl-ST pair '{pair}'")
                if language not in LANGUAGES:
                    hint = did_you_mean(language, LANGUAGES)
                    msg = f"Europarl-ST has no language '{language}'.{hint} It has: {', '.join(LANGUAGES)}."
                    raise UserError(msg)
            self.targets.setdefault(source, []).append(target)
        self.first_targets = {source: targets[0] for source, targets in self.targets.items()}
        self.train_noisy = train_noisy
        self.cleaners = check_cleaners(clean_transcripts)

    def options(self) -> dict[str, Any]:
        """Return the options that decide what the manifests hold."""
        return {"targets": self.targets, "train_noisy": self.train_noisy, "clean_transcripts": self.cleaners}

    def splits(self) -> list[str]:
        """Return the splits that every pair has.

        Raises:
            UserError: If a pair is missing, or there is no split that all have.
        """
        folders = [self._pair(source, target) for source, target in self._pairs()]
        found = [split for split in SPLITS if all((folder / split / "segments.lst").is_file() for folder in folders)]
        if not found:
            places = ", ".join(f"'{folder}'" for folder in folders)
            msg = f"No Europarl-ST split is in all of {places}; looked for {', '.join(SPLITS)}/segments.lst."
            raise UserError(msg)
        return found

    def files(self) -> list[Path]:
        """Return the lists and texts of all pairs and splits."""
        files = []
        for split in self.splits():
            for source, target in self._pairs():
                for part in self._parts(split):
                    folder = self._pair(source, target) / part
                    names = ("segments.lst", f"segments.{source}", f"segments.{target}", "speeches.lst", "speakers.lst")
                    files += [folder / name for name in names if (folder / name).is_file()]
        return files

    def published(self) -> dict[str, int]:
        """Return nothing: hours were published, but no numbers of segments."""
        return {}

    def read(self, split: str, tally: Tally) -> Iterator[Utterance]:
        """Yield the segments of all pairs.

        Raises:
            UserError: If a list is missing or wrong, or differs from a text in its length, or speeches must be
                converted first, or are all missing.
        """
        for source, targets in self.targets.items():
            speeches = self._speeches(source)
            for group in [targets] if split == "train" else [[target] for target in targets]:
                listed = [list(self._listed(source, target, split, speeches, tally)) for target in group]
                segments = join_translations(listed) if len(group) > 1 else listed[0]
                yield from to_utterances(_with_channels(segments, tally), split, tally, self.name, source)

    def _listed(
        self, source: str, target: str, split: str, speeches: dict[str, str], tally: Tally
    ) -> Iterator[Segment]:
        pair = f"{source}-{target}"
        missing = str(self._base() / source / FOLDERS[0])
        for part in self._parts(split):
            folder = self._pair(source, target) / part
            names = ("segments.lst", f"segments.{source}", f"segments.{target}")
            lines, transcripts, translations = (_read(folder / name, tally) for name in names)
            if not len(lines) == len(transcripts) == len(translations):
                msg = (
                    f"The Europarl-ST files in '{folder}' do not match: segments.lst has {len(lines)} lines, "
                    f"segments.{source} {len(transcripts)}, segments.{target} {len(translations)}. Unpack it anew."
                )
                raise UserError(msg)
            speakers = _speakers(folder, tally)
            for number, line in enumerate(lines):
                where = f"{folder / 'segments.lst'}, line {number + 1}"
                fields = line.split()
                if len(fields) != 3:
                    msg = f"{where}: needs a speech, a begin and an end, divided by spaces; it is '{line}'."
                    raise UserError(msg)
                speech, begin, end = fields
                begin_s, end_s = read_seconds(begin, f"{where}: the begin"), read_seconds(end, f"{where}: the end")
                spoken = clean(transcripts[number], self.cleaners)
                if spoken != transcripts[number]:
                    tally.changed["transcript cleaned"] += 1
                yield Segment(
                    id=f"{pair}_{speech}_{number:05d}{'n' if part == NOISY else ''}",
                    audio=speeches.get(speech) or f"{missing}/{speech}.wav",
                    offset_s=begin_s,
                    duration_s=end_s - begin_s,
                    transcript=spoken,
                    translations={target: translations[number]},
                    speaker=speakers.get(speech, speech),
                )

    def _speeches(self, source: str) -> dict[str, str]:
        """Return the path of each speech that was converted.

        Raises:
            UserError: If speeches are there as m4a alone, which cannot be read.
        """
        files: dict[str, dict[str, Path]] = {}
        for name in FOLDERS:
            folder = self._base() / source / name
            for path in sorted(folder.iterdir()) if folder.is_dir() else []:
                files.setdefault(path.suffix[1:].lower(), {}).setdefault(path.name[: -len(path.suffix)], path)
        found: dict[str, str] = {}
        for suffix in SUFFIXES:
            for speech, path in files.get(suffix, {}).items():
                found.setdefault(speech, str(path.absolute()))
        left = files.get("m4a", {}).keys() - found.keys()
        if left:
            folder = self._base() / source / FOLDERS[0]
            msg = (
                f"{len(left)} speeches in '{folder}' are m4a files, such as {min(left)}.m4a, which cannot be read. "
                f"Convert them once:\n"
                f"cd {shlex.quote(str(folder))} && for file in *.m4a; do ffmpeg -nostdin -n -loglevel error "
                '-i "$file" -ar 16000 "${file%.m4a}.flac"; done'
            )
            raise UserError(msg)
        return found

    def _pairs(self) -> list[tuple[str, str]]:
        return [(source, target) for source, targets in self.targets.items() for target in targets]

    def _parts(self, split: str) -> list[str]:
        return [split, NOISY] if split == "train" and self.train_noisy else [split]

    def _base(self) -> Path:
        below = self.root / self.version
        return below if below.is_dir() else self.root

    def _pair(self, source: str, target: str) -> Path:
        folder = self._base() / source / target
        if not folder.is_dir():
            base = self._base()
            there = sorted(f"{path.parent.name}-{path.name}" for path in base.glob("??/??") if path.is_dir())
            msg = (
                f"No Europarl-ST pair {source}-{target} in '{base}': looked for '{source}/{target}'. "
                + (f"There are: {', '.join(there[:12])}{', …' if len(there) > 12 else ''}. " if there else "")
                + "Give `root` the folder that holds one folder per source language."
            )
            raise UserError(msg)
        return folder


def _read(path: Path, tally: Tally) -> list[str]:
    if not path.is_file():
        msg = f"The Europarl-ST file '{path}' is missing. Unpack the archive anew."
        raise UserError(msg)
    return read_texts(path, tally)


def _speakers(folder: Path, tally: Tally) -> dict[str, str]:
    """Return the speaker of each speech; none where that is not said."""
    if not all((folder / name).is_file() for name in ("speeches.lst", "speakers.lst")):
        return {}
    speeches, speakers = (_read(folder / name, tally) for name in ("speeches.lst", "speakers.lst"))
    if len(speeches) != len(speakers):
        msg = (
            f"'{folder}' has {len(speeches)} speeches in speeches.lst, and {len(speakers)} speakers in speakers.lst, "
            "which must be one for each speech. Unpack the archive anew."
        )
        raise UserError(msg)
    return {speech.strip(): speaker.strip() for speech, speaker in zip(speeches, speakers, strict=True)}


def _with_channels(segments: Sequence[Segment], tally: Tally) -> Iterator[Segment]:
    """Yield the segments with what is known of their files, and the one channel of those whose other one is empty."""
    paths = list(dict.fromkeys(segment.audio for segment in segments))
    infos = dict(zip(paths, read_headers(paths), strict=True))
    stereo = [path for path, info in infos.items() if info and info.channels == 2]
    with ThreadPoolExecutor(max_workers=8) as pool:
        channels = dict(zip(stereo, pool.map(_spoken_channel, stereo), strict=True))
    for segment in segments:
        channel = channels.get(segment.audio)
        if channel is not None:
            tally.changed["one of two channels is empty, and the other one is read"] += 1
        yield segment._replace(channel=channel, file=infos[segment.audio])


def _spoken_channel(path: str) -> int | None:
    """Return the channel that alone holds sound, judged by three stretches of 5 s; None where both do."""
    try:
        with soundfile.SoundFile(path) as file:
            wanted = 5 * file.samplerate
            power = np.zeros(2)
            for part in range(3):
                file.seek(max(0, (file.frames - wanted) * part // 2))
                power += np.square(file.read(wanted, dtype="float32", always_2d=True)).sum(axis=0)
    except (soundfile.LibsndfileError, OSError):
        return None
    quiet = int(np.argmin(power))
    return 1 - quiet if power[quiet] <= EMPTY_CHANNEL**2 * power[1 - quiet] and power[1 - quiet] > 0 else None


class EuroparlSTDataModule(CorpusDataModule):
    """Europarl-ST for training and scoring.

    The speeches of the archive are m4a files, which are to be converted once; the message that says so has the command.

    Args:
        root: Folder that holds one folder per source language, or ``v1.1``, which does.
        pairs: Language pairs: ``en-de``, ``fr-en``. Rows of the task ``asr`` come from the first pair of each source
            language only, since the pairs repeat the same speeches.
        tasks: Any of ``asr``, ``st`` and ``asr+st``.
        train_noisy: Whether ``train`` has the segments of ``train-noisy`` too, whose alignment is worse.
        clean_transcripts: What is taken out of transcripts, as for MuST-C; nothing where empty. Translations stay
            verbatim.
        **kwargs: Options of :class:`speechllm.data.corpus.CorpusDataModule`.
    """

    def __init__(
        self,
        root: str,
        pairs: list[str] = ["en-de"],  # noqa: B006 (never changed, and shown by --help as it is)
        tasks: list[str] = ["st"],  # noqa: B006
        train_noisy: bool = False,
        clean_transcripts: list[str] = [],  # noqa: B006
        **kwargs: Any,
    ) -> None:
        corpus = EuroparlST(Path(root), pairs, train_noisy, clean_transcripts)
        parts = [f"{source}-{'-'.join(targets)}" for source, targets in corpus.targets.items()]
        selection = "_".join([*parts, *corpus.cleaners, *(["train_noisy"] if train_noisy else [])])
        super().__init__(corpus, Path(root) / "manifests" / selection, tasks=tasks, test_splits=["test"], **kwargs)
