"""ReazonSpeech: Japanese television, in sizes from 8 to 35,000 hours.

One table a size, ``<root>/small.tsv`` or ``<root>/tsv/small.tsv``: ``000/0001.flac<TAB>text``, without a header; and
archives ``data/000.tar``, ``data/001.tar`` … (numbered in hexadecimal) to be unpacked into the folders ``000``, ``001``
and so on, in ``<root>``, ``<root>/data`` or ``<root>/audio``. The sizes hold each other: small is the first archives of
medium, and so on.

There is no official split. ESPnet and lhotse take the first 1,000 clips as dev and the next 100 as test, and so does
this reader, by the rows of the table; theirs is the order of the first archive, which need not be that of the table.
"""

import re
import unicodedata
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from speechllm.data.corpus import CorpusDataModule
from speechllm.data.manifest import LEARNED_SPLITS, Tally
from speechllm.data.stretches import Stretch, leave_out, with_audio
from speechllm.data.utterance import Utterance
from speechllm.errors import UserError, did_you_mean

SPLITS = ("train", "dev", "test")
SIZES = ("tiny", "small", "medium", "large", "all")
VERSIONS = ("v1", "v2")

_FULL_WIDTH = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)} | {0x3000: " "}
_HALF_WIDTH_KANA = re.compile("[\uff66-\uff9f]+")
# What is written and not spoken, but for a point within a number.
_PUNCTUATION = re.compile(
    r"""(?<!\d)\.|\.(?!\d)|[、。・…‥,!?;:"'`‘’“”«»≪≫()\[\]{}<>〈〉《》「」『』【】〔〕｢｣､｡･〜~‐–—―─\-♪♬♫★☆●○◆◇■□▲△▼▽※→←↑↓‼⁉]"""
)


def normalize_japanese(text: str) -> str:
    """Return a transcript in one form of width, and without punctuation.

    Letters, digits and signs become half-width, and katakana full-width; punctuation, brackets, quotes and the marks of
    subtitles (♪, ★, →) are taken out, spaces left single. Digits stay digits.
    """
    text = _HALF_WIDTH_KANA.sub(lambda kana: unicodedata.normalize("NFKC", kana[0]), text)
    return " ".join(_PUNCTUATION.sub("", text.translate(_FULL_WIDTH)).split())


class ReazonSpeech:
    """Reader of ReazonSpeech on disk: one utterance a row of its table.

    Args:
        root: Folder of the table and the clips.
        size: Table to read: ``tiny``, ``small``, ``medium``, ``large`` or ``all``.
        version: Release, ``v1`` or ``v2``. It cannot be told from the files.
        dev_rows: Number of rows, from the first on, that are dev.
        test_rows: Number of rows after these that are test.
        normalize: Whether transcripts are brought to one form of width, without punctuation.
    """

    name = "reazonspeech"

    def __init__(
        self,
        root: Path,
        size: str = "small",
        version: str = "v2",
        dev_rows: int = 1_000,
        test_rows: int = 100,
        normalize: bool = False,
    ) -> None:
        for what, given, known in (("size", size, SIZES), ("version", version, VERSIONS)):
            if given not in known:
                msg = f"Unknown ReazonSpeech {what} '{given}'.{did_you_mean(given, known)} Known: {', '.join(known)}."
                raise UserError(msg)
        if dev_rows < 0 or test_rows < 0:
            msg = f"`dev_rows` and `test_rows` must be at least 0, but are {dev_rows} and {test_rows}."
            raise UserError(msg)
        self.root, self.size, self.version, self.normalize = Path(root), size, version, normalize
        self.dev_rows, self.test_rows = dev_rows, test_rows

    def options(self) -> dict[str, Any]:
        """Return the options that decide what the manifests hold."""
        return {
            "size": self.size,
            "dev_rows": self.dev_rows,
            "test_rows": self.test_rows,
            "normalize": self.normalize,
        }

    def splits(self) -> list[str]:
        """Return the splits that have rows.

        Raises:
            UserError: If there is no table, or its rows are too few for the splits.
        """
        needed = self.dev_rows + self.test_rows + 1
        with self._table().open("rb") as lines:
            found = sum(1 for _ in islice(lines, needed))
        if found < needed:
            msg = (
                f"'{self._table()}' has {found} rows, which leaves none to train on after {self.dev_rows} rows of dev "
                f"and {self.test_rows} of test. Set `dev_rows` and `test_rows`."
            )
            raise UserError(msg)
        empty = {"dev": self.dev_rows == 0, "test": self.test_rows == 0}
        return [split for split in SPLITS if not empty.get(split)]

    def files(self) -> list[Path]:
        """Return the table."""
        return [self._table()]

    def published(self) -> dict[str, int]:
        """Return nothing: the sizes are published in hours."""
        return {}

    def read(self, split: str, tally: Tally) -> Iterator[Utterance]:
        """Yield the rows of a split in the order of the table.

        Raises:
            UserError: If the table is not UTF-8, no clip is there, or a row of the test set has no tab.
        """
        hint = f"Unpack the archives so that the folders 000, 001, … lie in '{self.root / 'data'}'."
        yield from with_audio(self._stretches(split, tally), split, tally, hint)

    def _stretches(self, split: str, tally: Tally) -> Iterator[Stretch]:
        path, folder = self._table(), self._folder()
        held = self.dev_rows + self.test_rows
        first, end = {"dev": (0, self.dev_rows), "test": (self.dev_rows, held), "train": (held, None)}[split]
        with path.open("rb") as lines:
            for number, line in enumerate(islice(lines, first, end), start=first + 1):
                where = f"{path}, line {number}"
                try:
                    clip, tab, text = line.decode("utf-8").removesuffix("\n").removesuffix("\r").partition("\t")
                except UnicodeDecodeError as error:
                    msg = f"{where}: not UTF-8: {error}. Fetch the table anew."
                    raise UserError(msg) from error
                if not tab or not clip:
                    leave_out(where, "no tab between clip and text" if clip else "no clip", split, tally)
                    continue
                if self.normalize and (normalized := normalize_japanese(text)) != text:
                    tally.changed["transcript normalized"] += 1
                    text = normalized
                if not text.strip() and split in LEARNED_SPLITS:
                    tally.rejected["no text"] += 1
                    continue
                utterance = Utterance(
                    id=clip,
                    audio=f"{folder}/{clip}",
                    offset_s=0.0,
                    duration_s=0.0,
                    source_language="ja",
                    transcript=text,
                    corpus=self.name,
                )
                yield Stretch(where, utterance, None)

    def _folder(self) -> str:
        """Return the folder that clips are named from: the first that has that of the first row."""
        with self._table().open("rb") as lines:
            first = next(lines, b"").decode("utf-8", "replace").partition("/")[0]
        places = [self.root / name for name in (".", "data", "audio")]
        found = [place for place in places if first and (place / first).is_dir()]
        return str((found or places)[0].absolute())

    def _table(self) -> Path:
        names = [f"{self.size}.tsv", f"{self.size}-{self.version}.tsv"]
        places = [self.root / folder / name for folder in (".", "tsv") for name in names]
        for place in places:
            if place.is_file():
                return place
        there = sorted(path.name for path in self.root.iterdir()) if self.root.is_dir() else None
        holds = "No such folder." if there is None else f"The folder holds: {', '.join(there[:10]) or 'nothing'}."
        msg = f"No table '{self.size}.tsv' of ReazonSpeech in '{self.root}' or its folder 'tsv'. {holds} Set `size`."
        raise UserError(msg)


class ReazonSpeechDataModule(CorpusDataModule):
    """ReazonSpeech for training and scoring; dev and test are the first rows of its table.

    Args:
        root: Folder of the table (``small.tsv`` or ``tsv/small.tsv``) and of the unpacked archives (``000``, ``001``
            and so on, or the same in ``data``).
        size: Table to read: ``tiny``, ``small``, ``medium``, ``large`` or ``all``.
        version: Release that ``root`` holds: ``v1`` or ``v2``.
        dev_rows: Number of rows, from the first on, to validate on.
        test_rows: Number of rows after these to score.
        normalize: Whether letters and digits of transcripts become half-width, katakana full-width, and punctuation is
            taken out.
        tasks: Only ``asr``: there are no translations.
        **kwargs: Options of :class:`speechllm.data.corpus.CorpusDataModule`.
    """

    def __init__(
        self,
        root: str,
        size: str = "small",
        version: str = "v2",
        dev_rows: int = 1_000,
        test_rows: int = 100,
        normalize: bool = False,
        tasks: list[str] = ["asr"],  # noqa: B006 (never changed, and shown by --help as it is)
        **kwargs: Any,
    ) -> None:
        corpus = ReazonSpeech(Path(root), size, version, dev_rows, test_rows, normalize)
        selection = f"{size}-{version}_{dev_rows}_{test_rows}{'_normalized' if normalize else ''}"
        super().__init__(corpus, Path(root) / "manifests" / selection, tasks=tasks, test_splits=["test"], **kwargs)
