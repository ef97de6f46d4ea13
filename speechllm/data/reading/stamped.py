"""Corpora of IWSLT's low-resource tracks: ``<split>/stamped.tsv`` and ``<split>/txt/<split>.<language>``.

A line of ``stamped.tsv`` is an audio file, named from the folder of the split, and the begin and end of a stretch of it
in seconds; there is no header, and lines may end as on Windows. Texts are as many lines; blind test sets have none. The
suffix of a text is a code of its language, of two or three letters (``train.eng``).
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speechllm.data.manifest import LEARNED_SPLITS, Tally
from speechllm.data.reading.talks import Segment, read_seconds, read_texts, to_utterances
from speechllm.data.reading.text import check_cleaners, clean
from speechllm.data.utterance import Utterance
from speechllm.errors import UserError, did_you_mean
from speechllm.languages import language_code

_PUBLISHED = {("ga", "en"): {"train": 7_478, "dev": 1_120, "test-2023": 347, "test-2024": 614}}


def stamped_splits(root: Path) -> dict[str, Path]:
    """Return the folder of each split with a ``stamped.tsv``, ``train`` and ``dev`` first; below ``data`` too."""
    found = {path.parent.name: path.parent for place in ("*", "data/*") for path in root.glob(f"{place}/stamped.tsv")}
    return {split: found[split] for split in dict.fromkeys([*LEARNED_SPLITS, *sorted(found)]) if split in found}


class StampedCorpus:
    """Reader of a corpus with ``stamped.tsv``, in the order of these lists.

    Args:
        name: Name of the corpus.
        root: Folder of the splits, or of ``data``, which holds them.
        source: Language that is spoken.
        targets: Languages of the translations.
        clean_transcripts: Cleaners of transcripts, out of :data:`speechllm.data.reading.text.CLEANERS`.
    """

    version = "stamped"

    def __init__(self, name: str, root: Path, source: str, targets: list[str], clean_transcripts: list[str]) -> None:
        self.name = name
        self.root = Path(root)
        self.source = source
        self.targets = list(targets)
        self.first_targets = {source: targets[0]}
        self.cleaners = check_cleaners(clean_transcripts)

    def options(self) -> dict[str, Any]:
        """Return the options that decide what the manifests hold."""
        return {"source": self.source, "targets": self.targets, "clean_transcripts": self.cleaners}

    def splits(self) -> list[str]:
        """Return the splits that are on disk.

        Raises:
            UserError: If there is none.
        """
        found = list(stamped_splits(self.root))
        if not found:
            msg = f"No '<split>/stamped.tsv' in '{self.root}'. Give `root` the folder of the splits."
            raise UserError(msg)
        return found

    def files(self) -> list[Path]:
        """Return the lists and the texts."""
        return [
            path
            for split in self.splits()
            for path in [self._folder(split) / "stamped.tsv", *self._texts(split).values()]
        ]

    def published(self) -> dict[str, int]:
        """Return the published numbers of segments of Irish to English."""
        return _PUBLISHED.get((self.source, "-".join(self.targets)), {})

    def read(self, split: str, tally: Tally) -> Iterator[Utterance]:
        """Yield the segments of a split.

        Raises:
            UserError: If a line is wrong, a text has another number of lines, a split to learn from has no text, or
                there is no audio.
        """
        yield from to_utterances(self._segments(split, tally), split, tally, self.name, self.source)

    def _segments(self, split: str, tally: Tally) -> Iterator[Segment]:
        folder = self._folder(split)
        path = folder / "stamped.tsv"
        lines = read_texts(path, tally)
        texts = {code: read_texts(text, tally) for code, text in self._texts(split).items()}
        for language, column in texts.items():
            if len(column) != len(lines):
                msg = f"'{path}' has {len(lines)} lines, and '{self._texts(split)[language]}' {len(column)}."
                raise UserError(msg)
        if split in LEARNED_SPLITS and not texts:
            codes = ", ".join((self.source, *self.targets))
            msg = f"'{folder / 'txt'}' has no text in any of the languages {codes}. Check `source` and `targets`."
            raise UserError(msg)
        names: Counter[str] = Counter()
        for number, line in enumerate(lines):
            where = f"{path}, line {number + 1}"
            fields = line.split("\t")
            if len(fields) != 3 or not fields[0]:
                msg = f"{where}: needs a file, a begin and an end, divided by tabs; it has {len(fields)} fields."
                raise UserError(msg)
            begin_s, end_s = (read_seconds(field, f"{where}: the time") for field in fields[1:])
            name = Path(fields[0]).stem
            names[name] += 1
            text = {code: column[number] for code, column in texts.items()}
            transcript = text.get(self.source, "")
            spoken = clean(transcript, self.cleaners)
            if spoken != transcript:
                tally.changed["transcript cleaned"] += 1
            if not text:
                tally.changed["no reference"] += 1
            yield Segment(
                id=name if names[name] == 1 else f"{name}_{names[name]}",
                audio=str((folder / fields[0]).absolute()),
                offset_s=begin_s,
                duration_s=end_s - begin_s,
                transcript=spoken,
                translations={target: text.get(target, "") for target in self.targets},
                speaker="",
            )

    def _folder(self, split: str) -> Path:
        folders = stamped_splits(self.root)
        if split not in folders:
            msg = f"No split '{split}' in '{self.root}'.{did_you_mean(split, folders)} There is: {', '.join(folders)}."
            raise UserError(msg)
        return folders[split]

    def _texts(self, split: str) -> dict[str, Path]:
        """Return the text of each language that has one."""
        found: dict[str, Path] = {}
        for path in sorted((self._folder(split) / "txt").glob("*.*")):
            try:
                found.setdefault(language_code(path.suffix[1:]), path)
            except UserError:
                continue  # a file of another kind
        return {code: found[code] for code in (self.source, *self.targets) if code in found}
