"""Test sets of IWSLT: TED talks of its evaluations (dev2010, tst2010 to tst2022), and its low-resource tracks.

A test set of talks is a folder such as ``IWSLT.tst2019``, at most four folders below the root:

- ``wavs/`` (or ``wav/``), one file a talk, of any sampling rate and channel count;
- ``IWSLT.TED.tst2019.en-de.yaml`` or, in older sets, ``test-db.yaml``: the segments that the organizers cut;
- ``IWSLT.TED.tst2019.en-de.{en,de}.xml``: references, of which newer sets have none;
- ``FILE_ORDER``: the order of the talks.

A low-resource track is ``<split>/stamped.tsv`` with ``<split>/txt/<split>.<language>``, also for training.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speechllm.data.base import TrainingRows
from speechllm.data.corpus import CorpusDataModule
from speechllm.data.manifest import Tally, replacing
from speechllm.data.reading.stamped import StampedCorpus, stamped_splits
from speechllm.data.reading.talk_references import match_talks, read_parallel_references
from speechllm.data.reading.talks import Segment, read_seconds, read_segments, to_utterances
from speechllm.data.reading.text import UNSPOKEN, check_cleaners, clean
from speechllm.data.reading.text_files import read_lines
from speechllm.data.utterance import Utterance
from speechllm.errors import UserError, did_you_mean
from speechllm.languages import check_language
from speechllm.talk_references import TalkReference, read_talk_references, to_json_lines

SEGMENTATIONS = ("given", "automatic")

_DEPTH = 4
_SET = r"((?:dev|tst)\d{4})"


class IWSLT:
    """Reader of IWSLT's test sets of talks: the segments of one language pair after the other.

    Given segments are those of the references, one for one. Automatic ones are not: their utterances have no texts, and
    translations are matched with :meth:`references` after the fact, talk by talk.

    Args:
        root: Folder that holds the test sets.
        source: Language that is spoken.
        targets: Languages of the translations.
        segmentation: ``given`` or ``automatic``.
        segments: Segment list to use for the organizers' own, from the folder of the test set on; ``{split}`` and
            ``{pair}`` stand for the test set and the language pair.
        clean_transcripts: Cleaners of transcripts, out of :data:`speechllm.data.reading.text.CLEANERS`.
    """

    name = "iwslt"
    version = "ted"

    def __init__(
        self,
        root: Path,
        source: str,
        targets: list[str],
        segmentation: str = "given",
        segments: str | None = None,
        clean_transcripts: list[str] = UNSPOKEN,
    ) -> None:
        if segmentation not in SEGMENTATIONS:
            hint = did_you_mean(segmentation, SEGMENTATIONS)
            msg = f"`segmentation` is {' or '.join(SEGMENTATIONS)}, not '{segmentation}'.{hint}"
            raise UserError(msg)
        self.root = Path(root)
        self.source = source
        self.targets = list(targets)
        self.first_targets = {source: targets[0]}
        self.segmentation = segmentation
        self.segment_list = segments
        self.cleaners = check_cleaners(clean_transcripts)
        self._found: dict[str, dict[str, Path]] = {}

    def options(self) -> dict[str, Any]:
        """Return the options that decide what the manifests hold."""
        return {
            "source": self.source,
            "targets": self.targets,
            "segmentation": self.segmentation,
            "segments": self.segment_list,
            "clean_transcripts": self.cleaners,
        }

    def splits(self) -> list[str]:
        """Return the test sets that every language pair has.

        Raises:
            UserError: If there is none.
        """
        folders = [self._folders(target) for target in self.targets]
        found = [split for split in folders[0] if all(split in others for others in folders)]
        if not found:
            pairs = ", ".join(f"{self.source}-{target}" for target in self.targets)
            msg = (
                f"No IWSLT test set of {pairs} in '{self.root}': looked for folders such as 'IWSLT.tst2019' with "
                f"'IWSLT.TED.tst2019.{self.source}-{self.targets[0]}.yaml', and for '<split>/stamped.tsv'. "
                + ("" if self.root.is_dir() else "There is no such folder. ")
                + "Give `root` the folder that the archives were unpacked in."
            )
            raise UserError(msg)
        return found

    def files(self) -> list[Path]:
        """Return the segment lists, references and orders of talks."""
        files: list[Path] = []
        for split in self.splits():
            for target in self.targets:
                files += [self._list(split, target), *self._xmls(split, target).values()]
                files += self._orders(split, target)
        return files

    def published(self) -> dict[str, int]:
        """Return nothing: the numbers depend on the segmentation."""
        return {}

    def read(self, split: str, tally: Tally) -> Iterator[Utterance]:
        """Yield the segments of all language pairs, each in the order of its references or of ``FILE_ORDER``.

        Raises:
            UserError: If there is no segment list, one or a reference is wrong, given segments are not those of the
                references, or there is no talk.
        """
        for target in self.targets:
            yield from to_utterances(self._segments(split, target, tally), split, tally, self.name, self.source)

    def references(self, split: str) -> list[TalkReference]:
        """Return the references of a test set in the order of its talks; none where none were published.

        Raises:
            UserError: If those of the two languages do not match, or a file is wrong.
        """
        found = []
        for target in self.targets:
            texts, _ = self._texts_and_talks(split, target)
            for talk, segments in texts.items():
                found += [
                    TalkReference(
                        talk, number, target, clean(text.get(self.source, ""), self.cleaners), text.get(target, "")
                    )
                    for number, text in segments.items()
                ]
        return found

    def _segments(self, split: str, target: str, tally: Tally) -> Iterator[Segment]:
        texts, talks = self._texts_and_talks(split, target, tally)
        if self.segmentation == "given":
            self._check_given(split, target, texts, talks)
        else:
            texts = {}
        folder, listed = self._folder(split, target), self._list(split, target)
        folder = (folder / "wav" if (folder / "wav").is_dir() else folder / "wavs").resolve()
        for talk in dict.fromkeys([*texts, *talks]):
            references = list(texts[talk].values()) if talk in texts else [{}] * len(talks[talk])
            for number, (entry, text) in enumerate(zip(talks[talk], references, strict=True)):
                transcript = text.get(self.source, "")
                spoken = clean(transcript, self.cleaners)
                if spoken != transcript:
                    tally.changed["transcript cleaned"] += 1
                if not text:
                    tally.changed["no reference of its own"] += 1
                where = f"{listed}, segment {number + 1} of {talk}: the"
                yield Segment(
                    id=f"{self.source}-{target}_{talk}_{number:04d}",
                    audio=str(folder / _file_name(entry["wav"])),
                    offset_s=read_seconds(entry["offset"], f"{where} offset"),
                    duration_s=read_seconds(entry["duration"], f"{where} duration"),
                    transcript=spoken,
                    translations={target: text.get(target, "")},
                    speaker=talk,
                )

    def _texts_and_talks(
        self, split: str, target: str, tally: Tally | None = None
    ) -> tuple[dict[str, dict[str, dict[str, str]]], dict[str, list[dict[str, str]]]]:
        """Return the references and the listed segments of each talk, both in the order of their files."""
        listed = self._list(split, target)
        talks: dict[str, list[dict[str, str]]] = {}
        for entry in read_segments(listed, tally):
            talks.setdefault(Path(_file_name(entry["wav"])).stem, []).append(entry)
        lines = [line.split() for path in self._orders(split, target) for line in read_lines(path)]
        order = [Path(_file_name(words[0])).stem for words in lines if words]
        talks = {talk: talks[talk] for talk in dict.fromkeys([*order, *talks]) if talk in talks}
        texts = read_parallel_references(self._xmls(split, target))
        try:
            of_doc = match_talks(list(texts), list(talks)) if texts else {}
        except ValueError as error:
            msg = (
                f"The references of {split} are of {len(texts)} talks ({', '.join([*texts][:5])}), and '{listed}' "
                f"lists {len(talks)} ({', '.join([*talks][:5])}). Fetch what is missing."
            )
            raise UserError(msg) from error
        return {of_doc[doc]: segments for doc, segments in texts.items()}, talks

    def _check_given(self, split: str, target: str, texts: dict[str, Any], talks: dict[str, Any]) -> None:
        for talk, segments in texts.items():
            if len(segments) != len(talks[talk]):
                msg = (
                    f"The segments of {split} are not those of its references: '{self._list(split, target)}' has "
                    f"{len(talks[talk])} of the talk {talk}, and the references have {len(segments)} (in all "
                    f"{sum(map(len, talks.values()))} and {sum(map(len, texts.values()))}). Give `segmentation: "
                    "automatic`, so that translations are matched with the references afterwards."
                )
                raise UserError(msg)

    def _folders(self, target: str) -> dict[str, Path]:
        """Return the folder of each test set of a language pair."""
        if target in self._found:
            return self._found[target]
        pair = re.escape(f"{self.source}-{target}")
        file = re.compile(rf"IWSLT[-\d]*\.(?:[\w-]+\.)?{_SET}\.{pair}\.")
        folder = re.compile(rf"IWSLT[-\d]*\.{_SET}")
        found: dict[str, Path] = {}
        for place, inner, names in os.walk(self.root):
            here = folder.fullmatch(os.path.basename(place))
            matches = [match for match in map(file.match, names) if match]
            matches += [here] if here and "test-db.yaml" in names else []
            for match in matches:
                found.setdefault(match[1], Path(place))
            deep = len(Path(place).relative_to(self.root).parts) >= _DEPTH
            inner[:] = [] if deep else sorted(name for name in inner if name not in ("wav", "wavs", "manifests"))
        found = dict(sorted(found.items()))
        if found:
            self._found[target] = found
        return found

    def _list(self, split: str, target: str) -> Path:
        folder, pair = self._folder(split, target), f"{self.source}-{target}"
        if self.segment_list:
            paths = [folder / self.segment_list.replace("{split}", split).replace("{pair}", pair)]
        else:
            paths = sorted(folder.glob(f"IWSLT*.{split}.{pair}.yaml"))
            paths += [
                folder / f"IWSLT.TED.{split}.{pair}.yaml",
                folder / f"test-db-{split}.yaml",
                folder / "test-db.yaml",
            ]
        for path in paths:
            if path.is_file():
                return path
        looked_for = ", ".join(f"'{path.name}'" for path in paths)
        msg = (
            f"No list of segments of {split} in '{folder}': looked for {looked_for}. The archives with 'segmented' in "
            "their name have one; or give `segments` a list of your own."
        )
        raise UserError(msg)

    def _folder(self, split: str, target: str) -> Path:
        folders = self._folders(target)
        if split not in folders:
            msg = f"No IWSLT test set '{split}' in '{self.root}'.{did_you_mean(split, folders)}"
            raise UserError(msg)
        return folders[split]

    def _xmls(self, split: str, target: str) -> dict[str, Path]:
        folder, stem = self._folder(split, target), f"IWSLT*.{split}.{self.source}-{target}"
        found = {code: sorted(folder.glob(f"{stem}.{code}.xml")) for code in (self.source, target)}
        return {code: paths[0] for code, paths in found.items() if paths}

    def _orders(self, split: str, target: str) -> list[Path]:
        folder = self._folder(split, target)
        paths = [folder / f"FILE_ORDER.{self.source}-{target}", folder / "FILE_ORDER"]
        return [path for path in paths if path.is_file()][:1]


def _file_name(path: str) -> str:
    """Return the name of a talk's file, of a path that is that of the machine that the list was made on."""
    name = re.split(r"[/\\]", path)[-1]
    return name if re.search(r"\.(?:wav|flac|mp3|ogg|opus)$", name) else f"{name}.wav"


class IWSLTDataModule(CorpusDataModule):
    """Test sets of IWSLT, for scoring alone; low-resource tracks (``stamped.tsv``) for training too.

    Args:
        root: Folder that the archives were unpacked in.
        source: Language that is spoken.
        targets: Languages of the translations. Rows of the task ``asr`` come from the first one's segments only.
        tasks: Any of ``asr``, ``st`` and ``asr+st``.
        test_splits: Test sets that are scored: ``tst2019``, ``dev2010``; ``test-2023`` of a low-resource track.
        segmentation: ``given``: the segments are those of the references. ``automatic``: they are not, and have no
            texts; the references go to ``<test set>.references.jsonl`` beside the manifests, to match translations
            with afterwards.
        segments: Segment list to use for the organizers' own, such as ``shas/{split}.{pair}.yaml``, from the folder of
            the test set on.
        clean_transcripts: What is taken out of transcripts, as for MuST-C. Translations stay verbatim.
        **kwargs: Options of :class:`speechllm.data.corpus.CorpusDataModule`.
    """

    def __init__(
        self,
        root: str,
        source: str = "en",
        targets: list[str] = ["de"],  # noqa: B006 (never changed, and shown by --help as it is)
        tasks: list[str] = ["st"],  # noqa: B006
        test_splits: list[str] = ["tst2019"],  # noqa: B006
        segmentation: str = "given",
        segments: str | None = None,
        clean_transcripts: list[str] = UNSPOKEN,
        **kwargs: Any,
    ) -> None:
        if not targets or len(set(targets)) < len(targets):
            msg = f"IWSLT needs at least one target language, each once; got {targets}."
            raise UserError(msg)
        for language in (source, *targets):
            check_language(language, "IWSLT")
        corpus: IWSLT | StampedCorpus
        if stamped_splits(Path(root)):
            if segmentation != "given" or segments:
                msg = f"`segmentation` and `segments` are for test sets of talks; '{root}' has lists 'stamped.tsv'."
                raise UserError(msg)
            corpus = StampedCorpus("iwslt", Path(root), source, targets, clean_transcripts)
        else:
            corpus = IWSLT(Path(root), source, targets, segmentation, segments, clean_transcripts)
        selection = f"{source}_{'-'.join(targets)}_{segmentation}"
        if segments or corpus.cleaners != check_cleaners(UNSPOKEN):
            chosen = json.dumps([segments, corpus.cleaners]).encode()
            selection += f"_{hashlib.sha256(chosen).hexdigest()[:8]}"
        super().__init__(corpus, Path(root) / "manifests" / selection, tasks=tasks, test_splits=test_splits, **kwargs)

    def prepare_data(self) -> None:
        """Write the manifests, unless they are there and current, and the references beside automatic segments.

        Raises:
            UserError: If the corpus is not where it should be, or nothing can be written.
        """
        super().prepare_data()
        if isinstance(self.corpus, IWSLT) and self.corpus.segmentation == "automatic":
            for split in self.corpus.splits():
                lines = to_json_lines(self.corpus.references(split))
                with replacing(self.manifest_dir / f"{split}.references.jsonl") as partial:
                    partial.write_text(lines, encoding="utf-8")

    def talk_references(self) -> list[TalkReference]:
        """Return the references that hypotheses of automatic segments are aligned with; none for given segments.

        Raises:
            UserError: If a test set has none, so that it can only be decoded: ``speechllm predict``.
        """
        if not (isinstance(self.corpus, IWSLT) and self.corpus.segmentation == "automatic"):
            return []
        files = [self.manifest_dir / f"{split}.references.jsonl" for split in self.test_splits]
        return [reference for file in files for reference in read_talk_references(file)]

    def train_rows(self) -> TrainingRows:
        """Return the rows to train on.

        Raises:
            UserError: If there is nothing to train on, as in the test sets of talks.
        """
        if isinstance(self.corpus, IWSLT):
            msg = f"'{self.corpus.root}' holds test sets alone, and nothing to train on. Score it: `speechllm test`."
            raise UserError(msg)
        return super().train_rows()
