"""A Europarl-ST of a few seconds, with generated tones for speeches in several formats, one with an empty channel."""

from pathlib import Path

import numpy as np
import soundfile

from tests.corpora import Expected, FakeCorpus
from tests.corpora.must_c import tone

# speech: (suffix, sampling rate, gain of each channel, speaker)
SPEECHES = {
    "en.20080924.31.3-243": ("wav", 16_000, (1.0,), "Mary O'Neil"),
    "en.20080924.4.3-018": ("flac", 44_100, (0.0, 1.0), "J. Smith"),
    "en.20090101.1.1-001": ("wav", 16_000, (1.0, 0.5), "A. Jones"),
    "fr.20100301.2.2-002": ("ogg", 16_000, (1.0,), "Zoé Dupré"),
}
# (speech, begin in s, end in s, transcript, translation)
PAIRS = {
    "en-de": {
        "train": [
            ("en.20080924.4.3-018", 0.25, 1.05, "Madam President, it is so.", "Frau Präsidentin! So ist es."),
            ("en.20080924.31.3-243", 0.5, 1.0, 'A "quote\u2028here.', "Ein „Zitat\u2028hier."),
        ],
        "train-noisy": [("en.20080924.31.3-243", 1.0, 1.6, "Noisy.", "Unsauber.")],
        "dev": [("en.20090101.1.1-001", 0.0, 0.4, "(Applause) For dev.", "(Beifall) Für dev.")],
        "test": [
            ("en.20090101.1.1-001", 1.0, 1.6, "The last comes first.", "Das letzte zuerst."),
            ("en.20090101.1.1-001", 0.2, 0.7, "Then the other.", "Dann das andere."),
        ],
    },
    "en-fr": {
        "train": [
            ("en.20080924.4.3-018", 0.25, 1.05, "Madam President, it is so.", "Madame la Présidente, c'est ainsi."),
            ("en.20080924.31.3-243", 0.5, 1.5, 'A "quote\u2028here. Noisy.', "Une « citation »."),
        ],
        "dev": [("en.20090101.1.1-001", 0.0, 0.4, "(Applause) For dev.", "Pour dev.")],
        "test": [("en.20090101.1.1-001", 0.2, 0.7, "Then the other.", "Puis l'autre.")],
    },
    "fr-en": {
        "train": [("fr.20100301.2.2-002", 0.0, 0.5, "Oui.", "Yes.")],
        "dev": [("fr.20100301.2.2-002", 0.5, 1.0, "Non.", "No.")],
        "test": [("fr.20100301.2.2-002", 1.0, 1.5, "Peut-être.", "Perhaps.")],
    },
}


def write_fake(root: Path) -> FakeCorpus:
    """Write the pairs en-de, en-fr and fr-en below ``root``/v1.1."""
    write_europarl_st(root / "v1.1")
    splits: dict[str, list[Expected]] = {}
    for split in ("train", "dev", "test"):
        for pair, parts in PAIRS.items():
            source, target = pair.split("-")
            for number, (speech, begin, end, spoken, translation) in enumerate(parts[split]):
                found = splits.setdefault(split, [])
                same = [one for one in found if split == "train" and one.transcript == spoken]
                if same:
                    same[0].translations[target] = translation
                else:
                    name = f"{pair}_{speech}_{number:05d}"
                    found.append(Expected(name, round((end - begin) * 16_000), source, spoken, {target: translation}))
    return FakeCorpus({"root": str(root), "pairs": list(PAIRS), "tasks": ["asr", "st", "asr+st"]}, splits)


def write_europarl_st(root: Path, pairs: tuple[str, ...] = tuple(PAIRS)) -> Path:
    """Write language pairs below ``root``, which is the folder of the source languages, and return it."""
    for speech in SPEECHES:
        write_speech(root, speech)
    for pair in pairs:
        source, target = pair.split("-")
        for split, segments in PAIRS[pair].items():
            write_list(root / source / target / split, source, target, segments)
    return root


def write_speech(root: Path, speech: str) -> None:
    """Write a speech of 2 s."""
    suffix, rate, gains, _ = SPEECHES[speech]
    folder = root / speech[:2] / "audios"
    folder.mkdir(parents=True, exist_ok=True)
    samples = np.stack([gain * tone(2.0, 300.0, rate) for gain in gains], axis=1)
    soundfile.write(folder / f"{speech}.{suffix}", samples, rate)


def write_list(folder: Path, source: str, target: str, segments: list[tuple[str, float, float, str, str]]) -> None:
    """Write the segments of a split, and who speaks in its speeches."""
    folder.mkdir(parents=True)
    speeches = list(dict.fromkeys(row[0] for row in segments))
    lists = {
        "segments.lst": [f"{speech} {begin:.2f} {end:.2f}" for speech, begin, end, *_ in segments],
        f"segments.{source}": [row[3] for row in segments],
        f"segments.{target}": [row[4] for row in segments],
        "speeches.lst": speeches,
        "speakers.lst": [SPEECHES[speech][3] for speech in speeches],
    }
    for name, lines in lists.items():
        (folder / name).write_bytes("".join(f"{line}\n" for line in lines).encode())
