"""Tables of one's own files, one a split and each in another of the three formats."""

import json
from pathlib import Path

import soundfile

from tests.corpora import Expected, FakeCorpus
from tests.corpora.must_c import tone


def write_fake(root: Path) -> FakeCorpus:
    """Write clips of generated tones and their tables below ``root``."""
    (root / "clips").mkdir(parents=True)
    for name, seconds, rate in (
        ("train_0", 0.5, 16_000),
        ("train_1", 1.25, 16_000),
        ("dev_0", 0.6, 8_000),
        ("test_0", 0.7, 16_000),
        ("test_1", 0.4, 44_100),
    ):
        soundfile.write(root / "clips" / f"{name}.wav", tone(seconds, 300.0, rate), rate)
    (root / "train.csv").write_text(
        "audio,transcript,translation,translation_fr,offset,duration\n"
        'clips/train_0.wav,"He said ""yes"", she no.",Er sagte „ja“.,Il a dit «\u202foui\u202f».,,\n'
        'clips/train_1.wav,"Two\u2028lines, of\na kind.",Zwei Zeilen.,,0,0.5\n'
        "clips/train_1.wav,The rest of it.,Der Rest.,Le reste.,0.5,\n",
        encoding="utf-8",
    )
    (root / "dev.tsv").write_text('audio\ttranscript\ttranslation\nclips/dev_0.wav\t"Quoted"?\t"Zitiert"?\n')
    rows = [
        {"audio": "clips/test_0.wav", "transcript": "Où ?", "source": "fr", "target": "en", "translation": "Where?"},
        {"audio": "clips/test_1.wav", "transcript": "Here.", "translation": "", "id": "one", "mood": ["glad"]},
    ]
    (root / "test.jsonl").write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
    return FakeCorpus(
        options={"root": str(root), "source": "en", "target": "de", "tasks": ["asr", "st", "asr+st"]},
        splits={
            "train": [
                Expected(
                    "clips/train_0.wav",
                    8_000,
                    "en",
                    'He said "yes", she no.',
                    {"de": "Er sagte „ja“.", "fr": "Il a dit «\u202foui\u202f»."},
                ),
                Expected(
                    "clips/train_1.wav:0.000+0.500", 8_000, "en", "Two\u2028lines, of\na kind.", {"de": "Zwei Zeilen."}
                ),
                Expected(
                    "clips/train_1.wav:0.500", 12_000, "en", "The rest of it.", {"de": "Der Rest.", "fr": "Le reste."}
                ),
            ],
            "dev": [Expected("clips/dev_0.wav", 9_600, "en", '"Quoted"?', {"de": '"Zitiert"?'})],
            "test": [
                Expected("clips/test_0.wav", 11_200, "fr", "Où ?", {"en": "Where?"}),
                Expected("one", 6_400, "en", "Here.", {"de": ""}),
            ],
        },
    )
