"""Any lhotse manifest: cuts, or recordings with supervisions, as JSON lines, plain or gzipped.

Each supervision is an utterance: a stretch of its recording, also where it reaches over the edge of its cut. The
transcript is the supervision's ``text``, in its ``language``; translations are ``custom["translation"]``, by language,
as our own manifests have them, or ``custom["translated_text"]``, as lhotse's recipes for translation write them. Where
a recipe puts the translation in ``text`` itself, as that of MuST-C does, the option ``text`` says so.

The audio must be whole files on this machine, as they are. Left out, by reason: recordings at a URL, in memory or in
Shar archives, or that are the output of a command (which is never run); recordings that lhotse changes as it reads
them, resampling aside; cuts that are mixed, padded or have features alone.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speechllm.data.corpus import CorpusDataModule
from speechllm.data.manifest import LEARNED_SPLITS, Tally
from speechllm.data.reading.json_lines import read_json_lines, text_of
from speechllm.data.reading.lhotse_audio import UnusableAudio, audio_fields, locate
from speechllm.data.reading.split_files import SPLITS, find_files, find_splits
from speechllm.data.reading.stretches import Stretch, Stretches, leave_out, with_audio
from speechllm.data.utterance import Utterance
from speechllm.errors import UserError, did_you_mean
from speechllm.languages import LANGUAGE_NAMES, check_language

NAMES = ("{split}.jsonl.gz", "{split}.jsonl", "*cuts_{split}.jsonl.gz", "*cuts_{split}.jsonl")
"""File names that cuts are looked for by; after these, recordings and supervisions of lhotse's own names."""

TEXTS = ("transcript", "translation")
"""What the field ``text`` of a supervision may hold."""

_CODES = {name.lower(): code for code, name in LANGUAGE_NAMES.items()} | {"mandarin": "zh"}

_NOT_A_CUT = (KeyError, TypeError, AttributeError, IndexError, OverflowError, ValueError)
"""What reading the fields of something else raises."""

Place = tuple[str, dict[str, Any]]
"""A row, after file and line."""


class LhotseCuts:
    """Reader of lhotse manifests: one utterance a supervision.

    Args:
        root: Folder that manifests are named from.
        manifests: Cuts, or recordings and supervisions, of each split: one file or several; None to look for them.
        source: Language that is spoken, for supervisions that do not say, or whose ``text`` is a translation.
        target: Language of ``text``, where it is a translation and the supervision does not say.
        text: What ``text`` holds: ``transcript`` or ``translation``.
        audio_root: Folder that relative audio paths are named from, itself named from ``root``.
        name: Name of the corpus, as batches and results carry it.
    """

    version = "own"

    def __init__(
        self,
        root: Path,
        manifests: dict[str, str | list[str] | None],
        source: str | None = None,
        target: str | None = None,
        text: str = "transcript",
        audio_root: str = ".",
        name: str = "lhotse_cuts",
    ) -> None:
        for language in (source, target):
            if language is not None:
                check_language(language, "lhotse")
        if text not in TEXTS:
            msg = f"Unknown `text` '{text}'.{did_you_mean(text, TEXTS)} Known: {', '.join(TEXTS)}."
            raise UserError(msg)
        if text == "translation" and source is None:
            msg = "Where `text` is a translation, `source` must say which language is spoken."
            raise UserError(msg)
        self.root, self.manifests, self.source, self.target, self.name = Path(root), manifests, source, target, name
        self.text, self.audio_root = text, audio_root
        self._folder = os.path.abspath(self.root / audio_root)
        self._codes: dict[str, str] = {}

    def options(self) -> dict[str, Any]:
        """Return the options that decide what the manifests hold."""
        return {
            "manifests": self.manifests,
            "source": self.source,
            "target": self.target,
            "text": self.text,
            "audio_root": self.audio_root,
        }

    def splits(self) -> list[str]:
        """Return the splits that have manifests.

        Raises:
            UserError: If there is none, one that was named is missing, or a split has several sets of cuts.
        """
        return list(self._found())

    def files(self) -> list[Path]:
        """Return the manifests."""
        return [path for paths in self._found().values() for path in paths]

    def published(self) -> dict[str, int]:
        """Return nothing: it is the user's own."""
        return {}

    def read(self, split: str, tally: Tally) -> Iterator[Utterance]:
        """Yield the utterances of a split in the order in which its manifests first name them.

        Raises:
            UserError: If a manifest or a row cannot be used, or nothing is left; of a test set, also if a row would be
                left out.
        """
        # Recipes number the segments of a recording, which differ between the manifests of several target languages.
        stretches = Stretches(split, tally, number_clashes=True)
        rows, used = 0, 0
        for where, cut in self._cuts(self._found()[split]):
            try:
                problem = _problem(cut, split)
                for supervision in cut.get("supervisions") or [_whole(cut)]:
                    rows += 1
                    stretch = problem or self._stretch(where, cut, supervision, split)
                    if isinstance(stretch, str):
                        leave_out(where, stretch, split, tally)
                    else:
                        stretches.add(stretch)
                        used += 1
            except UserError:
                raise
            except _NOT_A_CUT as error:
                raise _not_a_cut(where, error) from error
        if rows and not used:
            reasons = "; ".join(f"{reason}: {count}" for reason, count in tally.rejected.items())
            msg = f"No utterance of '{split}' can be read from the lhotse manifests in '{self.root}': {reasons}."
            raise UserError(msg)
        yield from with_audio(stretches, split, tally, "Say what paths are relative to: `audio_root`.")

    def _cuts(self, paths: list[Path]) -> Iterator[Place]:
        """Yield cuts; a supervision that comes with recordings becomes a cut of its whole recording."""
        recordings: dict[str, dict[str, Any]] = {}
        kinds = {path: _kind(path) for path in paths}
        for path, kind in kinds.items():
            for where, row in read_json_lines(path) if kind != "supervisions" else ():
                if kind == "cuts":
                    yield where, row
                    continue
                try:
                    recordings[row["id"]] = audio_fields(row)
                except _NOT_A_CUT as error:
                    raise _not_a_cut(where, error) from error
        for path, kind in kinds.items():
            for where, row in read_json_lines(path) if kind == "supervisions" else ():
                recording = recordings.get(str(row.get("recording_id")))
                yield where, {"type": "MultiCut", "start": 0.0, "supervisions": [row], "recording": recording}

    def _stretch(self, where: str, cut: dict[str, Any], supervision: dict[str, Any], split: str) -> Stretch | str:
        """Return a supervision as an utterance, or why it is left out."""
        # The supervisions of a MultiCut may be of one channel each.
        channel = supervision.get("channel", cut.get("channel", 0)) if cut["type"] == "MultiCut" else cut["channel"]
        try:
            path, channel, info = locate(cut["recording"], channel, self._folder)
        except UnusableAudio as error:
            return str(error)
        begin_s = round(float(cut["start"]) + float(supervision["start"]), 6)
        duration_s = round(float(supervision["duration"]) + min(begin_s, 0.0), 6)
        if not math.isfinite(begin_s) or not math.isfinite(duration_s):
            msg = f"a supervision of {duration_s} s from {begin_s} s on"
            raise ValueError(msg)
        utterance = Utterance(
            id=text_of(supervision, "id", where) or cut["id"],
            audio=path,
            offset_s=max(begin_s, 0.0),
            duration_s=0.0,
            source_language="",
            transcript="",
            speaker=text_of(supervision, "speaker", where),
            corpus=self.name,
            channel=channel,
        )
        self._set_texts(utterance, supervision, where)
        texts = [utterance.transcript, *utterance.translations.values()]
        if split in LEARNED_SPLITS and not any(text.strip() for text in texts):
            return "neither transcript nor translation"
        return Stretch(where, utterance, max(duration_s, 0.0), info)

    def _set_texts(self, utterance: Utterance, supervision: dict[str, Any], where: str) -> None:
        """Set an utterance's languages and texts from a supervision."""
        text, language = text_of(supervision, "text", where), text_of(supervision, "language", where)
        code = self._code(language, where) if language else None
        custom = supervision.get("custom") or {}
        for field in ("translation", "translated_text"):
            for target, translation in (custom.get(field) or {}).items():
                utterance.translations[self._code(target, where)] = str(translation or "")
        source = self.source if self.text == "translation" else code or self.source
        target = code or self.target
        if source is None or (self.text == "translation" and target is None):
            option = "source" if source is None else "target"
            msg = f"{where}: the supervision has no `language`. Give the option `{option}`."
            raise UserError(msg)
        utterance.source_language = source
        if self.text == "transcript":
            utterance.transcript = text
        elif target is not None:
            utterance.translations.setdefault(target, text)

    def _code(self, language: str, where: str) -> str:
        """Return the code of a language; recipes of lhotse also write names, such as ``Singaporean English``.

        Raises:
            UserError: If the language is not known.
        """
        if language not in self._codes:
            names = [_CODES[word] for word in re.findall(r"\w+", language.lower()) if word in _CODES]
            code = language if language.split("-")[0] in LANGUAGE_NAMES else (names or [language])[0]
            check_language(code, where)
            self._codes[language] = code
        return self._codes[language]

    def _found(self) -> dict[str, list[Path]]:
        manifests = dict(self.manifests)
        for split in SPLITS:
            if not manifests.get(split) and not find_files(self.root, split, None, NAMES, "cut manifest"):
                pair = [
                    find_files(self.root, split, None, (f"*{kind}_{{split}}.jsonl*",), f"manifest of {kind}")
                    for kind in ("recordings", "supervisions")
                ]
                if all(pair):
                    manifests[split] = [str(path.relative_to(self.root)) for paths in pair for path in paths]
        return find_splits(self.root, manifests, NAMES, "cut manifest")


def _problem(cut: dict[str, Any], split: str) -> str:
    """Return why a cut cannot be read, empty where it can."""
    kind = cut.setdefault("type", "MonoCut")
    if kind not in ("MonoCut", "MultiCut", "Cut"):  # Cut: as lhotse called MonoCut at first
        return {"MixedCut": "a mixed or padded cut", "PaddingCut": "a cut of padding"}.get(kind, f"a {kind}")
    if not cut.get("recording"):
        return "features without audio" if cut.get("features") else "no recording"
    return "no supervision" if not cut.get("supervisions") and split in LEARNED_SPLITS else ""


def _whole(cut: dict[str, Any]) -> dict[str, Any]:
    """Return a supervision of a whole cut without any text."""
    return {"start": 0.0, "duration": cut.get("duration")}


def _not_a_cut(where: str, error: Exception) -> UserError:
    what = f"no {error}" if isinstance(error, KeyError) else str(error)
    return UserError(f"{where}: not a cut, or recording and supervision, of lhotse: {what}.")


def _kind(path: Path) -> str:
    """Return whether a manifest holds cuts, recordings or supervisions, as its first row tells.

    Raises:
        UserError: If it holds anything else.
    """
    if ".jsonl" not in path.suffixes:
        msg = f"'{path}' is not JSON lines. Convert it: lhotse copy {path.name} {path.stem}.jsonl.gz"
        raise UserError(msg)
    for where, row in read_json_lines(path):
        for field, kind in (("sources", "recordings"), ("recording_id", "supervisions")):
            if field in row:
                return kind
        if "type" not in row and "supervisions" not in row and "recording" not in row:
            msg = f"{where}: neither a cut nor a recording nor a supervision; it has: {', '.join(row) or 'nothing'}."
            raise UserError(msg)
        break
    return "cuts"


class LhotseCutsDataModule(CorpusDataModule):
    """Any lhotse manifests for training and scoring.

    Args:
        root: Folder that the manifests are named from; manifests of our own go below it.
        train: Cuts to train on (``.jsonl`` or ``.jsonl.gz``), or several; or recordings and supervisions, as two files.
            Where not given, ``train.jsonl.gz``, ``*cuts_train.jsonl.gz``, or ``*recordings_train.jsonl.gz`` with
            ``*supervisions_train.jsonl.gz``, whichever is there.
        dev: Those to validate on, likewise.
        test: Those to score, likewise.
        source: Language that is spoken, for supervisions without ``language``; of all, where ``text`` is a translation.
        target: Language of ``text``, where it is a translation and the supervision does not say.
        text: What ``text`` of a supervision holds: ``transcript``, or ``translation`` as in lhotse's MuST-C.
        audio_root: Folder that relative audio paths are named from, itself named from ``root``.
        tasks: Any of ``asr``, ``st`` and ``asr+st``.
        name: Name of the corpus in results.
        **kwargs: Options of :class:`speechllm.data.corpus.CorpusDataModule`.
    """

    def __init__(
        self,
        root: str,
        train: str | list[str] | None = None,
        dev: str | list[str] | None = None,
        test: str | list[str] | None = None,
        source: str | None = None,
        target: str | None = None,
        text: str = "transcript",
        audio_root: str = ".",
        tasks: list[str] = ["asr"],  # noqa: B006 (never changed, and shown by --help as it is)
        name: str = "lhotse_cuts",
        **kwargs: Any,
    ) -> None:
        manifests = {"train": train, "dev": dev, "test": test}
        corpus = LhotseCuts(Path(root), manifests, source, target, text, audio_root, name)
        selection = hashlib.sha256(json.dumps(corpus.options(), sort_keys=True).encode()).hexdigest()[:8]
        super().__init__(
            corpus, Path(root) / "manifests" / f"{name}_{selection}", tasks=tasks, test_splits=["test"], **kwargs
        )
