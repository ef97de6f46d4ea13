"""A LibriSpeech of a few seconds, with generated tones for readings."""

from pathlib import Path

import soundfile

from tests.corpora import Expected, FakeCorpus
from tests.corpora.must_c import tone

RATE = 16_000

# part: (utterance, duration in s, text)
PARTS = {
    "train-clean-100": [
        ("103-1240-0000", 0.4, "CHAPTER ONE MISSUS RACHEL LYNDE IS SURPRISED"),
        ("103-1240-0001", 0.55, "THAT HAD ITS SOURCE AWAY BACK IN THE WOODS"),
        ("1034-121119-0000", 0.6, "I'D BETTER GO"),
    ],
    "train-clean-360": [("14-208-0000", 0.45, "YES")],
    "train-other-500": [("20-205-0000", 0.5, "NOT SO"), ("20-205-0001", 0.35, "O")],
    "dev-clean": [("84-121123-0000", 0.4, "GO DO YOU HEAR"), ("84-121550-0000", 0.3, "BUT HE'S RIGHT")],
    "dev-other": [("116-288045-0000", 0.3, "AS I APPROACHED THE CITY")],
    "test-clean": [
        ("61-70968-0000", 0.7, "HE BEGAN A CONFUSED COMPLAINT"),
        ("61-70968-0001", 0.3, "GIVE NOT SO EARNEST"),
    ],
    "test-other": [("1688-142285-0000", 0.5, "THERE'S IRON THEY SAY IN ALL OUR BLOOD")],
}


def write_fake(root: Path) -> FakeCorpus:
    """Write all seven parts below ``root``/LibriSpeech."""
    for part, utterances in PARTS.items():
        write_part(root / "LibriSpeech" / part, utterances)
    # Speaker 60's name holds the character that divides the columns.
    speakers = ";ID|SEX|SUBSET|MINUTES|NAME\n60 | M | train-clean-100 | 20.18 | Peter | of Buckinghamshire\n"
    (root / "LibriSpeech" / "SPEAKERS.TXT").write_text(speakers, encoding="utf-8")
    splits = {
        "train": ("train-clean-100", "train-clean-360", "train-other-500"),
        "dev": ("dev-clean",),
        "test-clean": ("test-clean",),
        "test-other": ("test-other",),
    }
    expected = {
        split: [
            Expected(name, round(RATE * seconds), "en", text) for part in parts for name, seconds, text in PARTS[part]
        ]
        for split, parts in splits.items()
    }
    return FakeCorpus({"root": str(root), "tasks": ["asr"]}, expected)


def write_part(folder: Path, utterances: list[tuple[str, float, str]]) -> None:
    """Write the chapters of a part: a flac an utterance, and the transcripts."""
    for number, (name, seconds, text) in enumerate(utterances):
        speaker, chapter, _ = name.split("-")
        place = folder / speaker / chapter
        place.mkdir(parents=True, exist_ok=True)
        soundfile.write(place / f"{name}.flac", tone(seconds, 200.0 + 30 * number), RATE)
        with (place / f"{speaker}-{chapter}.trans.txt").open("a", encoding="utf-8", newline="\n") as lines:
            lines.write(f"{name} {text}\n")
