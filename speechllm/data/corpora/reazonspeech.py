"""ReazonSpeech: Japanese television, in sizes from 8 to 35,000 hours.

One table a size, ``<root>/small.tsv`` or ``<root>/tsv/small.tsv``: ``000/0001.flac<TAB>text``, without a header; and
archives ``data/000.tar``, ``data/001.tar`` … (numbered in hexadecimal) to be unpacked into the folders ``000``, ``001``
and so on, in ``<root>``, ``<root>/data`` or ``<root>/audio``. The sizes hold each other: small is the first archives of
medium, and so on.

There is no official split. ESPnet and lhotse take the first 1,000 clips as dev and the next 100 as test, and so does
this reader, by the rows of the table; theirs is the order of the first archive, which need not be that of the table.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from speechllm.data.corpus import CorpusDataModule
from speechllm.data.manifest import LEARNED_SPLITS, Tally
from speechllm.data.reading.stretches import Stretch, leave_out, with_audio
from speechllm.data.reading.text import check_cleaners, clean
from speechllm.data.reading.text_files import count_open_end
from speechllm.data.utterance import Utterance
from speechllm.errors import UserError, did_you_mean

SPLITS = ("train", "dev", "test")
SIZES = ("tiny", "small", "medium", "large", "all")
VERSIONS = ("v1", "v2")


class ReazonSpeech:
    """Reader of ReazonSpeech on disk: one utterance a row of its table.

    Args:
        root: Folder of the table and the clips.
        size: Table to read: ``tiny``, ``small``, ``medium``, ``large`` or ``all``.
        version: Release, ``v1`` or ``v2``. It cannot be told from the files.
        dev_rows: Number of rows, from the first on, that are dev.
        test_rows: Number of rows after these that are test.
        clean_transcripts: Cleaners of transcripts by name.
    """

    name = "reazonspeech"

    def __init__(
        self,
        root: Path,
        size: str = "small",
        version: str = "v2",
        dev_rows: int = 1_000,
        test_rows: int = 100,
        clean_transcripts: Sequence[str] = (),
    ) -> None:
        for what, given, known in (("size", size, SIZES), ("version", version, VERSIONS)):
            if given not in known:
                msg = f"Unknown ReazonSpeech {what} '{given}'.{did_you_mean(given, known)} Known: {', '.join(known)}."
                raise UserError(msg)
        if dev_rows < 0 or test_rows < 0:
            msg = f"`dev_rows` and `test_rows` must be at least 0, but are {dev_rows} and {test_rows}."
            raise UserError(msg)
        self.root, self.size, self.version = Path(root), size, version
        self.cleaners = check_cleaners(clean_transcripts)
        self.dev_rows, self.test_rows = dev_rows, test_rows

    def options(self) -> dict[str, Any]:
        """Return the options that decide what the manifests hold."""
        return {
            "size": self.size,
            "dev_rows": self.dev_rows,
            "test_rows": self.test_rows,
            "clean_transcripts": self.cleaners,
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
            UserError: If the table is not UTF-8, no clip is there, a row of the test set has no tab, or one of dev or
                test comes twice.
        """
        hint = f"Unpack the archives so that the folders 000, 001, … lie in '{self.root / 'data'}'."
        yield from with_audio(self._stretches(split, tally), split, tally, hint)

    def _stretches(self, split: str, tally: Tally) -> Iterator[Stretch]:
        path, folder = self._table(), self._folder()
        held = self.dev_rows + self.test_rows
        first, end = {"dev": (0, self.dev_rows), "test": (self.dev_rows, held), "train": (held, None)}[split]
        clips: dict[str, int] = {}  # of dev and test
        with path.open("rb") as lines:
            line = b""
            for number, line in enumerate(islice(lines, end), start=1):
                where = f"{path}, line {number}"
                try:
                    clip, tab, text = line.decode("utf-8").removesuffix("\n").removesuffix("\r").partition("\t")
                except UnicodeDecodeError as error:
                    msg = f"{where}: not UTF-8: {error}. Fetch the table anew."
                    raise UserError(msg) from error
                if clip and number <= held and (before := clips.setdefault(clip, number)) != number:
                    msg = f"{where}: the clip '{clip}' is in line {before} already. Take one of the two out."
                    raise UserError(msg)
                if number <= first:
                    continue
                if not tab or not clip:
                    leave_out(where, "no tab between clip and text" if clip else "no clip", split, tally)
                    continue
                if number > held and clip in clips:
                    tally.rejected["the clip is in dev or test"] += 1
                    continue
                if (cleaned := clean(text, self.cleaners)) != text:
                    tally.changed["transcript cleaned"] += 1
                    text = cleaned
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
            count_open_end(line, path.name, tally)

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
        clean_transcripts: Cleaners of transcripts by name, such as ``japanese``: one form of width, no punctuation.
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
        clean_transcripts: list[str] = [],  # noqa: B006
        tasks: list[str] = ["asr"],  # noqa: B006 (never changed, and shown by --help as it is)
        **kwargs: Any,
    ) -> None:
        corpus = ReazonSpeech(Path(root), size, version, dev_rows, test_rows, clean_transcripts)
        selection = f"{size}-{version}_{dev_rows}_{test_rows}{''.join(f'_{name}' for name in clean_transcripts)}"
        super().__init__(corpus, Path(root) / "manifests" / selection, tasks=tasks, test_splits=["test"], **kwargs)
