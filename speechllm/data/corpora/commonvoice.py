"""Common Voice: sentences read aloud by volunteers, one folder of mp3 clips and lists for each language.

``<root>/cv-corpus-17.0-2024-03-15/de`` as the archives unpack, or ``<root>/de``, holds ``clips`` and the lists
``train.tsv``, ``dev.tsv``, ``test.tsv`` and ``validated.tsv`` (all clips that listeners found right). Their columns
differ from release to release, so they are read by name: ``path``, ``sentence`` and ``client_id``, the speaker.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from speechllm.data.corpus import CorpusDataModule
from speechllm.data.manifest import LEARNED_SPLITS, Tally
from speechllm.data.reading.clips import with_durations
from speechllm.data.reading.text import check_cleaners, clean
from speechllm.data.reading.text_files import read_table
from speechllm.data.utterance import Utterance
from speechllm.errors import UserError, did_you_mean
from speechllm.languages import check_language

SPLITS = ("train", "dev", "test")
TRAIN_SPLITS = ("train", "validated")

_RELEASE = re.compile(r"cv-corpus-(\d+(?:\.\d+)?(?:-[a-z]+)?)")


def locale_folders(root: Path, locale: str) -> list[Path]:
    """Return the folders below ``root`` that hold clips of a language: of ``root`` itself, or of releases in it.

    Segments that are no release of their own, such as ``cv-corpus-11.0-delta-2022-09-21``, count as ``root`` alone.
    """
    named = [(_RELEASE.match(folder.name), folder) for folder in sorted(root.glob("cv-corpus-*"))]
    releases = [folder for release, folder in named if release and "-" not in release[1]]
    places = [root / locale, *(release / locale for release in releases), *([root] if root.name == locale else [])]
    return [place for place in places if (place / "clips").is_dir()]


def locale_folder(root: Path, locale: str) -> Path:
    """Return the folder of a language.

    Raises:
        UserError: If there is none, or several releases have one.
    """
    found = locale_folders(root, locale)
    if len(found) == 1:
        return found[0]
    if found:
        places = ", ".join(f"'{place}'" for place in found)
        msg = f"Common Voice has '{locale}' several times in '{root}': {places}. Give `root` the folder of one release."
        raise UserError(msg)
    there = sorted(path.name for path in root.iterdir()) if root.is_dir() else None
    holds = "No such folder." if there is None else f"The folder holds: {', '.join(there[:10]) or 'nothing'}."
    near = did_you_mean(locale, there or [])
    msg = (
        f"No Common Voice clips of '{locale}' in '{root}': looked for '{locale}/clips' and "
        f"'cv-corpus-*/{locale}/clips'. {holds}{near} Give `root` the folder that the archives were unpacked in."
    )
    raise UserError(msg)


def release_of(folder: Path) -> str:
    """Return the release that the folder of a language belongs to, as the folder above says; empty if it does not."""
    release = _RELEASE.match(folder.resolve().parent.name)
    return release[1] if release else ""


def clip_name(path: str) -> str:
    """Return the file name of a clip as a list has it; very old releases leave the suffix out, copies add folders."""
    name = path.rsplit("/", 1)[-1]
    return name if "." in name else f"{name}.mp3"


def clip_id(clip: str, time: int, tally: Tally) -> str:
    """Return the id of a clip, which is its name; where a test set lists it again, a number tells the rows apart."""
    stem = clip.rsplit(".", 1)[0]
    if time == 1:
        return stem
    tally.changed["the same clip again, with an id of its own"] += 1
    return f"{stem}-{time}"


def find_list(folder: Path, split: str, prefix: str = "") -> Path | None:
    """Return a list of clips, if it is there; copies on the Hugging Face hub call ``dev`` ``validation``."""
    names = ("dev", "validation") if split == "dev" else (split,)
    return next((path for name in names if (path := folder / f"{prefix}{name}.tsv").is_file()), None)


def required_list(folder: Path, split: str) -> Path:
    """Return a list of clips.

    Raises:
        UserError: If it is not there.
    """
    path = find_list(folder, split)
    if path is None:
        there = ", ".join(sorted(path.name for path in folder.glob("*.tsv"))) or "none"
        msg = (
            f"'{folder}' has no {split}.tsv; its lists: {there}. Delta segments come without splits, and so did "
            "release 13.0 at first: fetch the whole release, or its archive anew."
        )
        raise UserError(msg)
    return path


def sentence_lists(folder: Path, split: str) -> list[Path]:
    """Return the lists of Common Voice that hold the sentences of a split.

    Clips that a later release no longer counts as validated are in ``other`` and ``invalidated``: a test set looks
    there too, since it must not lose them.

    Raises:
        UserError: If there is none.
    """
    validated = find_list(folder, "validated")
    lists = [validated] if validated else [path for name in SPLITS if (path := find_list(folder, name))]
    if not lists:
        msg = f"No Common Voice sentences in '{folder}': looked for validated.tsv, train.tsv, dev.tsv and test.tsv."
        raise UserError(msg)
    more = ("other", "invalidated") if split not in LEARNED_SPLITS else ()
    return lists + [path for name in more if (path := find_list(folder, name))]


def clip_durations(folder: Path, split: str) -> dict[str, float]:
    """Return the durations in seconds that releases from 16.1 on list, by file name; none for a test set.

    They save opening a million clips. A test set is measured, not believed.
    """
    path = folder / "clip_durations.tsv"
    if split not in LEARNED_SPLITS or not path.is_file():
        return {}
    durations_s, name, tally = {}, None, Tally()
    for row in read_table(path, (), tally):  # a clip without a right row has its header read
        name = row.get("clip") or row.get("filename")
        try:
            duration_s = float(row.get("duration[ms]", "")) / 1000
        except ValueError:
            continue
        if name and 0 < duration_s < math.inf:
            durations_s[name] = duration_s
    if tally.changed and name:  # the file is cut off, and perhaps within the last duration
        durations_s.pop(name, None)
    return durations_s


def manifest_folder(root: Path, selection: str) -> Path:
    """Return where the manifests of a selection go; one of very many languages goes by its hash."""
    short = selection if len(selection) <= 100 else hashlib.sha256(selection.encode()).hexdigest()[:16]
    return root / "manifests" / short


class CommonVoice:
    """Reader of Common Voice on disk: one utterance a clip, one language after the other, in the order of the lists.

    Args:
        root: Folder that holds one folder a language, or the folder of a release.
        languages: Languages as Common Voice names them: ``de``, ``sv-SE``, ``zh-CN``.
        train_split: List to train on: ``train``, where each sentence comes once, or ``validated``, which is larger,
            without what shares a clip, a speaker or a sentence with ``dev`` or ``test``.
        clean_transcripts: Cleaners of transcripts by name; ``quotes``, the default, takes off those that exports put
            around sentences.
    """

    name = "commonvoice"

    def __init__(
        self,
        root: Path,
        languages: list[str],
        train_split: str = "train",
        clean_transcripts: Sequence[str] = ("quotes",),
    ) -> None:
        if not languages or len(set(languages)) < len(languages):
            msg = f"Common Voice needs at least one language, each once; got {languages}."
            raise UserError(msg)
        for language in languages:
            check_language(language, "Common Voice")
        if train_split not in TRAIN_SPLITS:
            msg = (
                f"Unknown `train_split` '{train_split}'.{did_you_mean(train_split, TRAIN_SPLITS)} "
                f"Known: {', '.join(TRAIN_SPLITS)}."
            )
            raise UserError(msg)
        self.root = Path(root)
        self.languages = list(languages)
        self.train_split = train_split
        self.cleaners = check_cleaners(clean_transcripts)
        releases = {release_of(folder) for language in self.languages for folder in locale_folders(self.root, language)}
        self.version = ", ".join(sorted(releases - {""})) or "unknown"

    def options(self) -> dict[str, Any]:
        """Return the options that decide what the manifests hold."""
        return {
            "languages": self.languages,
            "train_split": self.train_split,
            "clean_transcripts": self.cleaners,
        }

    def splits(self) -> list[str]:
        """Return the splits, which all languages have.

        Raises:
            UserError: If a language is missing, or one of its lists is.
        """
        for language in self.languages:
            folder = locale_folder(self.root, language)
            for name in (*SPLITS, self.train_split):
                required_list(folder, name)
        return list(SPLITS)

    def files(self) -> list[Path]:
        """Return the lists of clips and of their durations."""
        names = (*SPLITS, "validated", "clip_durations")
        folders = [locale_folder(self.root, language) for language in self.languages]
        return [path for folder in folders for name in names if (path := find_list(folder, name))]

    def published(self) -> dict[str, int]:
        """Return nothing: every release of every language has sizes of its own."""
        return {}

    def read(self, split: str, tally: Tally) -> Iterator[Utterance]:
        """Yield the clips of all languages, one language after the other.

        Raises:
            UserError: If a list lacks a column or is damaged, or none of a language's clips is there.
        """
        for language in self.languages:
            folder = locale_folder(self.root, language)
            utterances = self._read_language(folder, language, split, tally)
            yield from with_durations(utterances, split, tally, clip_durations(folder, split))

    def _read_language(self, folder: Path, language: str, split: str, tally: Tally) -> Iterator[Utterance]:
        learned = split in LEARNED_SPLITS
        path = required_list(folder, self.train_split if split == "train" else split)
        held_out = _HeldOut(folder) if path.stem == "validated" else None
        clips = (folder / "clips").absolute()
        times: Counter[str] = Counter()
        for row in read_table(path, ("path", "sentence"), tally, whole=not learned):
            clip, sentence = clip_name(row["path"]), row["sentence"]
            transcript = clean(sentence, self.cleaners)
            times[clip] += 1
            if held_out and (shared := held_out.shares(row)):
                tally.rejected[f"validated, but its {shared} is in dev or test"] += 1
                continue
            if learned and not transcript.strip():
                tally.rejected["no sentence"] += 1
                continue
            if learned and times[clip] > 1:
                tally.rejected["the same clip again"] += 1
                continue
            if transcript != sentence:
                tally.changed["transcript cleaned"] += 1
            yield Utterance(
                id=clip_id(clip, times[clip], tally),
                audio=f"{clips}/{clip}",
                offset_s=0.0,
                duration_s=0.0,
                source_language=language,
                transcript=transcript,
                speaker=row.get("client_id", ""),
                corpus=self.name,
            )


class _HeldOut:
    """Clips, speakers and sentences of ``dev`` and ``test``, which ``validated`` holds as well."""

    def __init__(self, folder: Path) -> None:
        self.clips: set[str] = set()
        self.speakers: set[str] = set()
        self.sentences: set[str] = set()
        for split in ("dev", "test"):
            for row in read_table(required_list(folder, split), ("path", "sentence"), Tally(), whole=True):
                self.clips.add(clip_name(row["path"]))
                self.speakers.add(row.get("client_id", ""))
                self.sentences.add(row["sentence"])
        self.speakers.discard("")

    def shares(self, row: dict[str, str]) -> str:
        """Return what a row shares with them, or an empty string."""
        if clip_name(row["path"]) in self.clips:
            return "clip"
        if row.get("client_id", "") in self.speakers:
            return "speaker"
        return "sentence" if row["sentence"] in self.sentences else ""


class CommonVoiceDataModule(CorpusDataModule):
    """Common Voice for training and scoring, any release.

    Args:
        root: Folder that holds one folder a language, or ``cv-corpus-<release>`` with those in it. The release is read
            from that name.
        languages: Languages as Common Voice names them: ``de``, ``sv-SE``, ``zh-CN``.
        tasks: Only ``asr``; for translation see CoVoST 2.
        train_split: List to train on: ``train``, where each sentence comes once, or ``validated``, which is larger,
            without what shares a clip, a speaker or a sentence with ``dev`` or ``test``.
        clean_transcripts: Cleaners of transcripts by name; ``quotes``, the default, takes off those that exports put
            around sentences.
        **kwargs: Options of :class:`speechllm.data.corpus.CorpusDataModule`.
    """

    def __init__(
        self,
        root: str,
        languages: list[str] = ["en"],  # noqa: B006 (never changed, and shown by --help as it is)
        tasks: list[str] = ["asr"],  # noqa: B006
        train_split: str = "train",
        clean_transcripts: list[str] = ["quotes"],  # noqa: B006
        **kwargs: Any,
    ) -> None:
        corpus = CommonVoice(Path(root), languages, train_split, clean_transcripts)
        ways = [
            *([] if train_split == "train" else [train_split]),
            *([] if clean_transcripts == ["quotes"] else ["-".join(clean_transcripts) or "verbatim"]),
        ]
        selection = "_".join(["commonvoice", "-".join(languages), *ways])
        super().__init__(corpus, manifest_folder(Path(root), selection), tasks=tasks, test_splits=["test"], **kwargs)
