"""A MuST-C of a few seconds, with generated tones for talks and the quirks of the real one."""

from pathlib import Path

import numpy as np
import soundfile

from tests.corpora import Expected, FakeCorpus

RATE = 16_000

# (talk, offset in s, duration in s, English, German)
TRAIN = [
    ("ted_1", 0.1, 0.5, "Thank you. (Laughter)", "Danke. (Gelächter)"),
    ("ted_1", 0.6, 0.7, "A line\u2028in two\rpieces.", "Eine Zeile\u0085in Stücken."),
    ("ted_1", 1.5, 0.9, "(Applause)", "(Applaus)"),
    ("ted_2", 0.25, 0.0, "Nothing.", "Nichts."),
    ("ted_2", 1.5, 5.0, "It runs past the end (of the talk).", "Über das Ende."),
]
TEST = [
    ("ted_9", 10.25 / 8, 0.4, "First in the yaml.", "Der erste."),
    ("ted_9", 0.2, 0.3, "The second.", "Der zweite (Applaus)."),
    ("ted_9", 0.95, 0.3, "The third.", "Der dritte."),
    ("ted_9", 9.5, 1.0, "Beyond the talk.", "Hinter dem Ende."),
    ("ted_9", 0.5, 0.0, "No length.", "Keine Länge."),
]
SPLITS = {"train": TRAIN, "dev": TRAIN[:2], "tst-COMMON": TEST, "tst-HE": TEST[:1]}

# A corpus in which nothing is wrong; French cuts one of the talks in its own way.
VALID = {
    "train": {
        "de": [
            ("ted_1", 0.1, 0.5, "Thank you. (Laughter)", "Danke. (Gelächter)"),
            ("ted_1", 0.7, 0.6, 'He said: "one\u2028two".', "Er sagte: „eins\u2028zwei“."),
            ("ted_2", 0.0, 0.8, "♫ La la ♫", "♫ La la ♫"),
        ],
        "fr": [
            ("ted_1", 0.1, 0.5, "Thank you. (Laughter)", "Merci. (Rires)"),
            ("ted_1", 0.7, 1.2, 'He said: "one\u2028two". Yes.', "Il a dit : « un\u2028deux ». Oui."),
            ("ted_2", 0.0, 0.8, "♫ La la ♫", "♫ La la ♫"),
        ],
    },
    "dev": {
        "de": [("ted_3", 0.2, 0.4, "For dev.", "Für dev.")],
        "fr": [("ted_3", 0.2, 0.4, "For dev.", "Pour dev.")],
    },
    "tst-COMMON": {
        "de": [
            ("ted_4", 1.25, 0.5, "-- and so on", "-- und so weiter"),
            ("ted_4", 0.3, 0.3, "(Applause)", "(Applaus)"),
        ],
        "fr": [("ted_4", 0.3, 0.7, "It's R&amp;D.", "C'est la R&D.")],
    },
    "tst-HE": {
        "de": [("ted_5", 0.0, 1.0, "The end.", "Ende.")],
        "fr": [("ted_5", 0.0, 1.0, "The end.", "Fin.")],
    },
}
SPOKEN = {
    "Thank you. (Laughter)": "Thank you.",
    'He said: "one\u2028two".': 'He said: "one two".',
    'He said: "one\u2028two". Yes.': 'He said: "one two". Yes.',
    "♫ La la ♫": "La la",
    "-- and so on": "and so on",
    "(Applause)": "",
    "It's R&amp;D.": "It's R&D.",
}


def tone(duration_s: float, frequency_hz: float = 440.0, rate: int = RATE) -> np.ndarray:
    """Return a sine of half the full scale, (T,) float32."""
    return (0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(round(duration_s * rate)) / rate)).astype(np.float32)


def write_fake(root: Path) -> FakeCorpus:
    """Write the partitions en-de and en-fr as release v1.2 unpacks, with nothing wrong in them."""
    splits: dict[str, list[Expected]] = {split: [] for split in VALID}
    for split, partitions in VALID.items():
        for target, segments in partitions.items():
            partition = root / f"MUSTC_v1.2_en-{target}" / f"en-{target}"
            write_split(partition / "data" / split, split, target, segments, verbatim=True)
            for number, (talk, _, seconds, english, translation) in enumerate(segments):
                spoken = SPOKEN.get(english, english)
                same = [one for one in splits[split] if split == "train" and one.transcript == spoken]
                if same:
                    same[0].translations[target] = translation
                    continue
                name = f"en-{target}_{talk}_{number:06d}"
                splits[split].append(Expected(name, round(RATE * seconds), "en", spoken, {target: translation}))
    options = {
        "root": str(root),
        "targets": ["de", "fr"],
        "version": "v1.2",
        "tasks": ["asr", "st", "asr+st"],
        "test_splits": ["tst-COMMON", "tst-HE"],
    }
    return FakeCorpus(options, splits)


def write_must_c(root: Path, targets: tuple[str, ...] = ("de",), version: str = "v1", archive: bool = False) -> Path:
    """Write partitions en-<target> below ``root`` and return it; ``archive`` keeps the archive's own folder."""
    for target in targets:
        partition = root / f"MUSTC_v1.0_en-{target}" / f"en-{target}" if archive else root / f"en-{target}"
        for split, segments in SPLITS.items():
            write_split(partition / "data" / split, split, target, segments, version)
    return root


def write_split(
    folder: Path, split: str, target: str, segments: list, version: str = "v1", verbatim: bool = False
) -> None:
    """Write one split: talks of 2 s, and the yaml and text files; ``verbatim`` does not mark targets other than de."""
    (folder / "wav").mkdir(parents=True)
    (folder / "txt").mkdir()
    for talk in {talk for talk, *_ in segments}:
        soundfile.write(folder / "wav" / f"{talk}.wav", tone(2.0, 200.0 + 40 * int(talk[4:])), RATE)
    words = "" if version == "v1" else "rW: 9, uW: 0, "
    yaml = [
        f"- {{duration: {duration:.6f}, offset: {offset:.6f}, {words}speaker_id: spk.{talk[4:]}, wav: {talk}.wav}}\n"
        for talk, offset, duration, *_ in segments
    ]
    texts = {
        "yaml": "".join(yaml),
        "en": "".join(f"{row[3]}\n" for row in segments),
        target: "".join(f"{row[4] if verbatim or target == 'de' else f'{target}: {row[4]}'}\n" for row in segments),
    }
    for end, text in texts.items():
        (folder / "txt" / f"{split}.{end}").write_bytes(text.encode("utf-8"))
