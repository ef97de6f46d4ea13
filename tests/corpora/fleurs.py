"""A FLEURS of a few seconds in three languages, with generated tones for readings."""

from pathlib import Path

import soundfile

from tests.corpora import Expected, FakeCorpus
from tests.corpora.must_c import tone

RATE = 16_000

SENTENCES = {
    "en_us": {
        "1": ('He said "no.', "he said no"),
        "2": ("N/A, and\u2028so on.", "n a and so on"),
        "3": ("A dog barks.", "a dog barks"),
        "4": ("It costs 5 €.", "it costs 5 euros"),
    },
    "de_de": {
        "1": ('Er sagte "nein.', "er sagte nein"),
        "2": ("k. A. und so weiter.", "k a und so weiter"),
        "3": ("Ein Hund bellt – laut.", "ein hund bellt laut"),
        "4": ("Es kostet 5 €.", "es kostet 5 euro"),
    },
    "cmn_hans_cn": {
        "1": ("他说：“不。", "他说不"),
        "2": ("无可奉告。", "无可奉告"),
        "3": ("一只狗叫。", "一只狗叫"),
        "4": ("它的价格是5欧元。", "它的价格是5欧元"),
    },
}

# split: (sentence, clip, duration in s); a sentence may have several speakers
CLIPS = {
    "train": [("1", "10004088536354799741", 0.4), ("2", "100", 0.55), ("1", "101", 0.3)],
    "dev": [("3", "200", 0.35)],
    "test": [("4", "300", 0.45), ("4", "301", 0.6)],
}


def write_fake(root: Path) -> FakeCorpus:
    """Write English, German and Chinese; the first two are spoken, and all are translated into."""
    for number, code in enumerate(SENTENCES):
        write_language(root, code, 200.0 + 100 * number)
    languages = {"en_us": "en", "de_de": "de"}
    targets = {"de_de": "de", "cmn_hans_cn": "zh-CN"}
    expected = {
        split: [
            Expected(
                f"{code}-{sentence}-{clip}",
                round(RATE * seconds),
                language,
                SENTENCES[code][sentence][0],
                {other: SENTENCES[target][sentence][0] for target, other in targets.items() if target != code},
            )
            for code, language in languages.items()
            for sentence, clip, seconds in clips
        ]
        for split, clips in CLIPS.items()
    }
    options = {"sources": list(languages), "targets": list(targets), "tasks": ["asr", "st", "asr+st"]}
    return FakeCorpus({"root": str(root), **options}, expected)


def write_language(root: Path, code: str, frequency_hz: float = 200.0) -> Path:
    """Write the lists and clips of a language and return its folder."""
    folder = root / code
    for split, clips in CLIPS.items():
        (folder / "audio" / split).mkdir(parents=True)
        rows = []
        for sentence, clip, seconds in clips:
            soundfile.write(folder / "audio" / split / f"{clip}.wav", tone(seconds, frequency_hz), RATE)
            raw, normalised = SENTENCES[code][sentence]
            spelt = " | ".join(" ".join(word) for word in normalised.split()) + " |"
            rows.append((sentence, f"{clip}.wav", raw, normalised, spelt, str(round(RATE * seconds)), "FEMALE"))
        write_list(folder / f"{split}.tsv", rows)
    return folder


def write_list(path: Path, rows: list[tuple[str, ...]]) -> None:
    """Write a list without header and quoting."""
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8", newline="\n")
