"""An MLC-SLM of a few seconds, with generated tones for conversations, in the folders of the challenge's archives."""

from pathlib import Path

import soundfile

from tests.corpora import Expected, FakeCorpus
from tests.corpora.must_c import tone

RATE = 16_000
LENGTH_S = 2.0

# folder of the recordings: {recording: lines of its list}
PARTS = {
    "MLC-SLM_Workshop-Training_Set_1/MLC-SLM_Workshop-Training_Set_1/data": {
        "English/American/0500/0500_001": [
            "0.280273886484085\t0.7401385301640696\tO1\tHi, Will.",
            "0.6\t1.1\tO2\tUh-huh;  it's\u2028\u201con\u201d.",
            "1.29\t1.9\tO1\tI paid $3.50!",
        ],
        "English/American/0501/0501_002": ["0.1\t0.45\tO1\tOkay"],
        "Thai/0303/0303_001_phone": ["0.25\t0.75\tO1\tสวัสดี ครับ", "0.8\t1.3\tO2\tค่ะ"],
    },
    "MLC-SLM_Workshop-Training_Set_2/data": {"French/0700/0700_003": ["0.3\t0.9\tO2\tL'été, «déjà»?"]},
    "MLC-SLM_Workshop-Development_Set/data": {
        "English/American/0517_007": ["0.29\t0.88\tO1\tReally?", "0.5\t1.2\tO2\tYeah, I think so."],
        "Thai/0303_001_phone": ["0.4\t0.7\tO1\tใช่"],
    },
    "test": {"English-American/0900_001": ["0.1\t0.6\tO1", "0.7\t1.3\tO2"], "Thai/0901_001": ["0.2\t0.5\tO1"]},
}

# split: (utterance, duration in s, language, text)
SPLITS = {
    "train": [
        ("English-American-0500-0500_001-O1-000028-000074", 0.46, "en", "hi will"),
        ("English-American-0500-0500_001-O2-000060-000110", 0.5, "en", "uh-huh it's \u201con\u201d"),
        ("English-American-0500-0500_001-O1-000129-000190", 0.61, "en", "i paid 350"),
        ("English-American-0501-0501_002-O1-000010-000045", 0.35, "en", "okay"),
        ("French-0700-0700_003-O2-000030-000090", 0.6, "fr", "l'été «déjà»"),
        ("Thai-0303-0303_001_phone-O1-000025-000075", 0.5, "th", "สวัสดี ครับ"),
        ("Thai-0303-0303_001_phone-O2-000080-000130", 0.5, "th", "ค่ะ"),
    ],
    "dev": [
        ("English-American-0517_007-O1-000028-000088", 0.59, "en", "really"),
        ("English-American-0517_007-O2-000050-000120", 0.7, "en", "yeah i think so"),
        ("Thai-0303_001_phone-O1-000040-000070", 0.3, "th", "ใช่"),
    ],
    "test": [
        ("English-American-0900_001-O1-000010-000060", 0.5, "en", ""),
        ("English-American-0900_001-O2-000070-000130", 0.6, "en", ""),
        ("Thai-0901_001-O1-000020-000050", 0.3, "th", ""),
    ],
}


def write_fake(root: Path) -> FakeCorpus:
    """Write two archives of training data, a development set, and an evaluation set without texts."""
    for part, recordings in PARTS.items():
        for number, (name, lines) in enumerate(recordings.items()):
            write_recording(root / part / name, lines, 200.0 + 50 * number)
    expected = {
        split: [Expected(name, round(RATE * seconds), language, text) for name, seconds, language, text in rows]
        for split, rows in SPLITS.items()
    }
    options = {"root": str(root), "tasks": ["asr"], "test_splits": ["official-dev", "test"]}
    return FakeCorpus(options, {**expected, "official-dev": expected["dev"]})


def write_recording(stem: Path, lines: list[str], frequency_hz: float = 200.0, length_s: float = LENGTH_S) -> None:
    """Write a recording and its list of segments."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(f"{stem}.wav", tone(length_s, frequency_hz), RATE)
    Path(f"{stem}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
