"""NeMo manifests: JSON lines that name audio, its stretch, languages and a text, as NVIDIA's toolkit trains on.

``{"audio_filepath": "a.wav", "offset": 1.2, "duration": 3.4, "text": "…", "source_lang": "en", "target_lang": "de",
"taskname": "ast", "pnc": "yes"}``: ``text`` is the transcript where the task is recognition, and the translation where
it is translation. Rows of both tasks over the same stretch become one utterance. Paths are relative to the manifest.
Without ``offset`` a row is the whole file, whatever ``duration`` says, as in NeMo's own loader.

Tarred data sets are not read: their audio stands in archives.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speechllm.data.corpus import CorpusDataModule
from speechllm.data.manifest import LEARNED_SPLITS, Tally
from speechllm.data.reading.json_lines import read_json_lines, seconds_of, text_of
from speechllm.data.reading.split_files import find_splits
from speechllm.data.reading.stretches import Stretch, Stretches, leave_out, with_audio
from speechllm.data.utterance import Utterance
from speechllm.errors import UserError, did_you_mean
from speechllm.languages import check_language

NAMES = ("{split}.json", "{split}.jsonl", "{split}_manifest.json", "{split}_manifest.jsonl")
"""File names that manifests are looked for by."""

TASKS = {
    "asr": False,
    "transcribe": False,
    "<|transcribe|>": False,
    "ast": True,
    "s2t_translation": True,
    "translate": True,
    "<|translate|>": True,
}
"""Names of tasks in manifests, and whether each is translation."""


class NeMo:
    """Reader of NeMo manifests: one utterance a stretch of audio, with the texts of all rows that name it.

    Args:
        root: Folder that manifests are named from.
        manifests: Manifest or manifests of each split; None for the one of a common name, if there is one.
        source: Language that is spoken, for rows that do not say.
        target: Language of the text, for rows that do not say; where not given, the language that is spoken.
        name: Name of the corpus, as batches and results carry it.
    """

    version = "own"

    def __init__(
        self,
        root: Path,
        manifests: dict[str, str | list[str] | None],
        source: str | None = None,
        target: str | None = None,
        name: str = "nemo",
    ) -> None:
        for language in (source, target):
            if language is not None:
                check_language(language, "NeMo")
        self.root, self.manifests, self.source, self.target, self.name = Path(root), manifests, source, target, name
        for given in manifests.values():
            for manifest in [given] if isinstance(given, str) else given or []:
                if "_OP_" in manifest or "{" in manifest:
                    raise UserError(_tarred(f"'{manifest}' names the shards of"))

    def options(self) -> dict[str, Any]:
        """Return the options that decide what the manifests hold."""
        return {"manifests": self.manifests, "source": self.source, "target": self.target}

    def splits(self) -> list[str]:
        """Return the splits that have a manifest.

        Raises:
            UserError: If there is none, a manifest that was named is missing, or a split has several.
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
            UserError: If a manifest or a row cannot be used; of a test set, also if a row would be left out.
        """
        stretches = Stretches(split, tally, number_clashes=True)  # ids are to the millisecond, rows may be finer
        for path in self._found()[split]:
            folder = os.path.abspath(path.parent)
            for where, row in read_json_lines(path):
                stretch = self._stretch(row, where, folder, split, tally)
                if stretch is not None:
                    stretches.add(stretch)
        yield from with_audio(stretches, split, tally, "Paths are relative to the manifest's folder.")

    def _stretch(self, row: dict[str, Any], where: str, folder: str, split: str, tally: Tally) -> Stretch | None:
        """Return a row as an utterance of its own, None where it is left out."""
        if row.get("_skipme"):  # NeMo's own mark, which its loaders leave out of every split
            tally.rejected["marked as _skipme"] += 1
            return None
        audio = _audio(row, where)
        path = os.path.join(folder, audio)
        if "shard_id" in row and not os.path.isfile(path):
            raise UserError(_tarred(f"{where}: `shard_id` shows that this is the manifest of"))
        source, target, problem = self._languages(row, where)
        text = _text(row, where)
        if "://" in audio:
            problem = "audio is not a file of this machine"
        elif not text.strip() and split in LEARNED_SPLITS:
            problem = problem or "no text"
        if problem:
            leave_out(where, problem, split, tally)
            return None
        offset_s, duration_s = seconds_of(row, "offset", where), seconds_of(row, "duration", where)
        stretch = "" if offset_s is None else f":{offset_s:.3f}"
        if stretch and duration_s is not None:
            stretch += f"+{duration_s:.3f}"
        utterance = Utterance(
            id=audio + stretch,
            audio=path,
            offset_s=offset_s or 0.0,
            duration_s=0.0,
            source_language=source,
            transcript=text if source == target else "",
            translations={} if source == target else {target: text},
            speaker=text_of(row, "speaker", where),
            corpus=self.name,
        )
        return Stretch(where, utterance, None if offset_s is None else duration_s)

    def _languages(self, row: dict[str, Any], where: str) -> tuple[str, str, str]:
        """Return the languages of speech and text, and what is wrong with them, if anything.

        The task is that of the pair of languages where the row does not name it, as of Canary flash and v2.
        """
        task = text_of(row, "taskname", where) or text_of(row, "task", where)
        if task and task not in TASKS:
            msg = f"{where}: unknown task '{task}'.{did_you_mean(task, TASKS)} Known: {', '.join(TASKS)}."
            raise UserError(msg)
        translates = TASKS.get(task)
        spoken, written = (_language(row, key, where) for key in ("source_lang", "target_lang"))
        written = written or _language(row, "lang", where)  # the language of the text, in manifests of one language
        source = spoken or (None if translates else written) or self.source
        if source is None:
            msg = f"{where}: no source language. Add a field `source_lang`, or give the option `source`."
            raise UserError(msg)
        target = written or (None if translates is False else self.target) or source
        for language in (source, target):
            check_language(language, where)
        if translates and target == source:
            return source, target, "translation into the language that is spoken"
        if translates is False and target != source:
            return source, target, "recognition in another language than the one that is spoken"
        return source, target, ""

    def _found(self) -> dict[str, list[Path]]:
        return find_splits(self.root, self.manifests, NAMES, "manifest")


def _audio(row: dict[str, Any], where: str) -> str:
    """Return the path of a row's audio.

    Raises:
        UserError: If there is none, or several.
    """
    audio = row.get("audio_filepath", row.get("audio_file", row.get("audio_filename")))
    if isinstance(audio, str) and audio:
        return audio
    if audio is None:
        msg = (
            f"{where}: no 'audio_filepath'.{did_you_mean('audio_filepath', row)} It has: {', '.join(row) or 'nothing'}."
        )
    else:
        msg = f"{where}: `audio_filepath` must be the path of one file, but is {audio!r:.80}."
    raise UserError(msg)


def _text(row: dict[str, Any], where: str) -> str:
    text = text_of(row, "text", where)
    answer = "" if text else text_of(row, "answer", where)
    return text or (answer if answer != "na" else "")  # Canary's own examples write "na" where there is none


def _language(row: dict[str, Any], key: str, where: str) -> str | None:
    return text_of(row, key, where).removeprefix("<|").removesuffix("|>") or None


def _tarred(what: str) -> str:
    return (
        f"{what} a tarred NeMo data set, whose audio stands in archives. Unpack the archives "
        "(tar -xf audio_0.tar) beside one manifest without shards, and give that."
    )


class NeMoDataModule(CorpusDataModule):
    """NeMo manifests for training and scoring.

    Args:
        root: Folder that the manifests are named from; manifests of our own go below it.
        train: Manifest to train on, or several; ``train.json``, ``train_manifest.json`` (or ``.jsonl``) where not
            given, if it is there.
        dev: Manifest to validate on, likewise.
        test: Manifest to score, likewise.
        source: Language that is spoken, for rows without ``source_lang``.
        target: Language of the text, for rows without ``target_lang``; that of ``source`` where not given.
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
        tasks: list[str] = ["asr"],  # noqa: B006 (never changed, and shown by --help as it is)
        name: str = "nemo",
        **kwargs: Any,
    ) -> None:
        corpus = NeMo(Path(root), {"train": train, "dev": dev, "test": test}, source, target, name)
        selection = hashlib.sha256(json.dumps(corpus.options(), sort_keys=True).encode()).hexdigest()[:8]
        super().__init__(
            corpus, Path(root) / "manifests" / f"{name}_{selection}", tasks=tasks, test_splits=["test"], **kwargs
        )
