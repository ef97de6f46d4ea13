"""A MuST-C of a few seconds, with generated tones for talks and the quirks of the real one."""

from pathlib import Path

import numpy as np
import soundfile

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


def tone(duration_s: float, frequency_hz: float = 440.0, rate: int = RATE) -> np.ndarray:
    """Return a sine of half the full scale, (T,) float32."""
    return (0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(round(duration_s * rate)) / rate)).astype(np.float32)


def write_must_c(root: Path, targets: tuple[str, ...] = ("de",), version: str = "v1", archive: bool = False) -> Path:
    """Write partitions en-<target> below ``root`` and return it; ``archive`` keeps the archive's own folder."""
    for target in targets:
        partition = root / f"MUSTC_v1.0_en-{target}" / f"en-{target}" if archive else root / f"en-{target}"
        for split, segments in SPLITS.items():
            write_split(partition / "data" / split, split, target, segments, version)
    return root


def write_split(folder: Path, split: str, target: str, segments: list, version: str = "v1") -> None:
    """Write one split: talks of 2 s, and the yaml and text files."""
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
        target: "".join(f"{row[4] if target == 'de' else f'{target}: {row[4]}'}\n" for row in segments),
    }
    for end, text in texts.items():
        (folder / "txt" / f"{split}.{end}").write_bytes(text.encode("utf-8"))
