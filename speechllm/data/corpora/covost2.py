"""CoVoST 2: translations of Common Voice 4, from English into 15 languages and from 21 languages into English.

``<root>/<source>/clips`` holds the mp3 clips of Common Voice, and ``<root>/<source>`` its lists of sentences and the
lists of translations, in one of two forms:

- as released: ``covost_v2.de_en.tsv`` (path, translation, split), joined on the path with ``validated.tsv``, or with
  ``train.tsv``, ``dev.tsv`` and ``test.tsv`` where that is missing;
- as the release's own script writes them: ``covost_v2.de_en.<split>.tsv`` (path, sentence, translation, client_id).
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speechllm.data.clips import with_durations
from speechllm.data.corpus import CorpusDataModule
from speechllm.data.manifest import Tally
from speechllm.data.text_files import read_table
from speechllm.data.utterance import Utterance
from speechllm.errors import UserError
from speechllm.languages import check_language

SPLITS = ("train", "dev", "test")

log = logging.getLogger(__name__)


class CoVoST2:
    """Reader of CoVoST 2 on disk: one utterance per clip, with the translations of all pairs of its language.

    Args:
        root: Folder that holds one folder per source language.
        pairs: Language pairs as the release names them: ``en_de``, ``fr_en``, ``en_zh-CN``.
    """

    name = "covost2"
    version = "v2"

    def __init__(self, root: Path, pairs: list[str]) -> None:
        if not pairs or len(set(pairs)) < len(pairs):
            msg = f"CoVoST 2 needs at least one language pair, each once; got {pairs}."
            raise UserError(msg)
        self.root = Path(root)
        self.targets: dict[str, list[str]] = {}
        for pair in pairs:
            source, _, target = pair.partition("_")
            if not source or not target or "_" in target:
                msg = f"A CoVoST 2 pair is written <source>_<target>, such as 'en_de' or 'zh-CN_en'; got '{pair}'."
                raise UserError(msg)
            for language in (source, target):
                check_language(language, f"CoVoST 2 pair '{pair}'")
            self.targets.setdefault(source, []).append(target)

    def options(self) -> dict[str, Any]:
        """Return the options that decide what the manifests hold."""
        return {"targets": self.targets}

    def splits(self) -> list[str]:
        """Return the splits that every pair has.

        Raises:
            UserError: If the files of a pair are missing.
        """
        return [
            split for split in SPLITS if all(self._lists(source, target).get(split) for source, target in self._pairs())
        ]

    def files(self) -> list[Path]:
        """Return the lists of translations and of sentences."""
        files = {path for pair in self._pairs() for path in self._lists(*pair).values()}
        for source, target in self._pairs():
            if not self._scripted(source, target):
                files.update(self._sentence_lists(source))
        return sorted(files)

    def published(self) -> dict[str, int]:
        """Return nothing: no count is known for every pair."""
        return {}

    def read(self, split: str, tally: Tally) -> Iterator[Utterance]:
        """Yield the utterances of all source languages, one language after the other, in the order of the lists.

        Raises:
            UserError: If a list lacks a column, or a clip of the test set is missing.
        """
        for source, targets in self.targets.items():
            utterances: dict[str, Utterance] = {}
            for target in targets:
                for row in self._read_pair(source, target, split, tally):
                    utterance = utterances.setdefault(row["path"], self._utterance(source, row))
                    if target in utterance.translations:
                        tally.rejected["the same clip again"] += 1
                    utterance.translations.setdefault(target, row["translation"])
            yield from with_durations(list(utterances.values()), split, tally)

    def _read_pair(self, source: str, target: str, split: str, tally: Tally) -> Iterator[dict[str, str]]:
        """Yield rows with path, sentence, translation and client_id."""
        path = self._lists(source, target)[split]
        if self._scripted(source, target):
            rows = list(read_table(path, ("path", "sentence", "translation"), tally, escaped=True))
        else:
            wanted = ("train", "train_covost") if split == "train" else (split,)
            listed = read_table(path, ("path", "translation", "split"), tally)
            rows = self._joined(source, path, [row for row in listed if row["split"] in wanted], tally)
        for row in rows:
            if split == "train" and row["translation"].strip() in ("", "REMOVE"):
                tally.rejected["translation is empty or REMOVE"] += 1
            else:
                yield row

    def _joined(self, source: str, path: Path, rows: list[dict[str, str]], tally: Tally) -> list[dict[str, str]]:
        """Add the sentence and speaker of Common Voice to each row; rows without are left out, as officially."""
        clips = {row["path"] for row in rows}
        sentences: dict[str, dict[str, str]] = {}
        for sentence_list in self._sentence_lists(source):
            # What is wrong with a row of Common Voice shows as a sentence that is not found.
            for row in read_table(sentence_list, ("path", "sentence"), Tally()):
                if row["path"] in clips:
                    sentences.setdefault(row["path"], row)
        joined = [sentences[row["path"]] | row for row in rows if row["path"] in sentences]
        if len(joined) < len(rows):
            tally.rejected["no sentence in Common Voice"] += len(rows) - len(joined)
            share = len(joined) / len(rows)
            log.warning(
                "%s: %d of %d rows (%.2f %%) have a sentence in Common Voice; CoVoST 2 belongs to its release 4.",
                *(path, len(joined), len(rows), 100 * share),
            )
        return joined

    def _utterance(self, source: str, row: dict[str, str]) -> Utterance:
        clip = self.root / source / "clips" / row["path"]
        clip = clip if clip.suffix else clip.with_suffix(".mp3")  # very old releases leave the suffix out
        return Utterance(
            id=clip.stem,
            audio=str(clip.absolute()),
            offset_s=0.0,
            duration_s=0.0,
            source_language=source,
            transcript=row["sentence"],
            speaker=row.get("client_id", ""),
            corpus=self.name,
        )

    def _pairs(self) -> list[tuple[str, str]]:
        return [(source, target) for source, targets in self.targets.items() for target in targets]

    def _scripted(self, source: str, target: str) -> bool:
        return any((self.root / source / f"covost_v2.{source}_{target}.{split}.tsv").is_file() for split in SPLITS)

    def _lists(self, source: str, target: str) -> dict[str, Path]:
        """Return the list of translations of each split; one and the same for all in the released form."""
        folder, stem = self.root / source, f"covost_v2.{source}_{target}"
        scripted = {split: folder / f"{stem}.{split}.tsv" for split in SPLITS}
        if self._scripted(source, target):
            return {split: path for split, path in scripted.items() if path.is_file()}
        if (folder / f"{stem}.tsv").is_file():
            return dict.fromkeys(SPLITS, folder / f"{stem}.tsv")
        msg = (
            f"No CoVoST 2 pair {source}_{target} in '{folder}': looked for '{stem}.tsv' and '{stem}.<split>.tsv'. "
            "Give `root` the folder that holds one folder per source language."
        )
        raise UserError(msg)

    def _sentence_lists(self, source: str) -> list[Path]:
        folder = self.root / source
        if (folder / "validated.tsv").is_file():
            return [folder / "validated.tsv"]
        lists = [folder / f"{split}.tsv" for split in SPLITS if (folder / f"{split}.tsv").is_file()]
        if not lists:
            msg = f"No Common Voice sentences in '{folder}': looked for validated.tsv, train.tsv, dev.tsv and test.tsv."
            raise UserError(msg)
        return lists


class CoVoST2DataModule(CorpusDataModule):
    """CoVoST 2 for training and scoring.

    Args:
        root: Folder that holds one folder per source language, with ``clips`` and the lists.
        pairs: Language pairs: ``en_de``, ``fr_en``, ``en_zh-CN``. A clip of several pairs is one row of ``asr``.
        tasks: Any of ``asr``, ``st`` and ``asr+st``.
        **kwargs: Options of :class:`speechllm.data.corpus.CorpusDataModule`.
    """

    def __init__(
        self,
        root: str,
        pairs: list[str] = ["en_de"],  # noqa: B006 (never changed, and shown by --help as it is)
        tasks: list[str] = ["st"],  # noqa: B006
        **kwargs: Any,
    ) -> None:
        corpus = CoVoST2(Path(root), pairs)
        super().__init__(
            corpus, Path(root) / "manifests" / "-".join(pairs), tasks=tasks, test_splits=["test"], **kwargs
        )
