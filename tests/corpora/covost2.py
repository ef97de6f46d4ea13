"""A CoVoST 2 of a few seconds in both of its forms, with generated tones for clips and the quirks of the real one."""

from pathlib import Path

from tests.corpora import Expected, FakeCorpus
from tests.corpora.commonvoice import mp3_tone

RATE = 48_000

# (clip, sentence, translation, split)
ROWS = [
    ("common_voice_en_1", 'He said "yes.', 'Er sagte "ja.', "train"),
    ("common_voice_en_2", "N/A", "k. A.", "train_covost"),
    ("common_voice_en_3", "Remove me.", "REMOVE", "train"),
    ("common_voice_en_4", "No translation.", "", "train"),
    ("common_voice_en_5", "A clip of no bytes.", "Ein leerer Clip.", "train"),
    ("common_voice_en_6", "A back\\slash.", 'Noch ein "Zitat.', "train"),
    ("common_voice_en_7", "For dev.", "Für dev.", "dev"),
    ("common_voice_en_8", "For test.", "Für test.", "test"),
    ("common_voice_en_9", "Silent in test.", "REMOVE", "test"),
    ("common_voice_en_10", "Last of test.", "Ende.", "test"),
]
EMPTY = {"common_voice_en_5", "common_voice_en_9"}

# A corpus in which nothing is wrong: (clip, duration in s, speaker, sentence, translations, split)
VALID = {
    "en": [
        ("common_voice_en_100", 0.4, "a", 'He said "yes.', {"de": 'Er sagte "ja.', "zh-CN": "他说“是”。"}, "train"),
        (
            "common_voice_en_101",
            0.5,
            "b",
            'He said "yes.',
            {"de": 'Er sagte "ja.', "zh-CN": "他说“是”。"},
            "train_covost",
        ),
        ("common_voice_en_102", 0.6, "b", "N/A", {"de": "k. A.", "zh-CN": "无"}, "train"),
        ("common_voice_en_103", 0.3, "c", "One\u2028line.", {"de": "Eine\u2028Zeile.", "zh-CN": "一\r行。"}, "dev"),
        ("common_voice_en_105", 0.7, "d", "A back\\slash.", {"de": '"Ein" \\ Ende', "zh-CN": "反斜杠。"}, "test"),
        ("common_voice_en_104", 0.2, "e", "The end.", {"de": "Ende.", "zh-CN": "完。"}, "test"),
    ],
    "fr": [
        ("common_voice_fr_200", 0.5, "f", 'L\'été, "enfin".', {"en": 'Summer, "at last".'}, "train"),
        ("common_voice_fr_201", 0.4, "g", "Oui.", {"en": "Yes."}, "dev"),
        ("common_voice_fr_202", 0.3, "h", "C'est ça…", {"en": "That's it…"}, "test"),
    ],
}


def write_fake(root: Path) -> FakeCorpus:
    """Write English with two targets as released, and French into English as the release's script writes it."""
    splits: dict[str, list[Expected]] = {"train": [], "dev": [], "test": []}
    for source, rows in VALID.items():
        folder = root / source
        (folder / "clips").mkdir(parents=True)
        for number, (clip, duration_s, _, sentence, translations, split) in enumerate(rows):
            (folder / "clips" / f"{clip}.mp3").write_bytes(mp3_tone(duration_s, 200.0 + 30 * number, RATE))
            expected = Expected(clip, round(duration_s * 16_000), source, sentence, translations)
            splits[split.removesuffix("_covost")].append(expected)
    english = VALID["en"]
    write_table(
        root / "en/validated.tsv",
        ("client_id", "path", "sentence", "up_votes"),
        [(speaker, f"{clip}.mp3", sentence, "2") for clip, _, speaker, sentence, _, _ in english],
    )
    for target in ("de", "zh-CN"):
        listed = [(f"{clip}.mp3", texts[target], split) for clip, _, _, _, texts, split in english]
        write_table(root / f"en/covost_v2.en_{target}.tsv", ("path", "translation", "split"), listed)
    for split in splits:
        chosen = [
            (f"{clip}.mp3", sentence.replace('"', '\\"'), texts["en"].replace('"', '\\"'), speaker)
            for clip, _, speaker, sentence, texts, of in VALID["fr"]
            if of == split
        ]
        header = ("path", "sentence", "translation", "client_id")
        write_table(root / f"fr/covost_v2.fr_en.{split}.tsv", header, chosen)
    options = {"root": str(root), "pairs": ["en_de", "en_zh-CN", "fr_en"], "tasks": ["asr", "st", "asr+st"]}
    return FakeCorpus(options, splits)


def write_covost2(
    root: Path,
    targets: tuple[str, ...] = ("de",),
    scripted: bool = False,
    sentences: tuple[str, ...] = ("validated",),
    source: str = "en",
) -> Path:
    """Write the pairs <source>_<target> below ``root`` and return it.

    ``scripted`` chooses the form of the release's script; ``sentences`` the Common Voice lists that get every sentence.
    """
    folder = root / source
    (folder / "clips").mkdir(parents=True)
    table = [(clip.replace("_en_", f"_{source}_"), *rest) for clip, *rest in ROWS]
    empty = {clip.replace("_en_", f"_{source}_") for clip in EMPTY}
    for number, (clip, *_) in enumerate(table):
        path = folder / "clips" / f"{clip}.mp3"
        if clip in empty:
            path.touch()
        else:
            path.write_bytes(mp3_tone(0.4 + 0.1 * number, 300.0, RATE))
    for target in targets:
        rows = [(f"{clip}.mp3", sentence, _translation(text, target), split) for clip, sentence, text, split in table]
        stem = f"covost_v2.{source}_{target}"
        if scripted:
            for split in ("train", "dev", "test"):
                chosen = [
                    (path, sentence.replace('"', '\\"'), text.replace('"', '\\"'), speaker(of))
                    for path, sentence, text, of in rows
                    if of.removesuffix("_covost") == split
                ]
                write_table(folder / f"{stem}.{split}.tsv", ("path", "sentence", "translation", "client_id"), chosen)
        else:
            write_table(
                folder / f"{stem}.tsv", ("path", "translation", "split"), [(row[0], row[2], row[3]) for row in rows]
            )
    for name in sentences if not scripted else ():
        header = ("client_id", "path", "sentence", "up_votes")
        listed = [(speaker(row[3]), f"{row[0]}.mp3", row[1], "2") for row in table]
        write_table(folder / f"{name}.tsv", header, listed)
    return root


def speaker(split: str) -> str:
    """Return the one speaker of a split."""
    return f"speaker of {split.removesuffix('_covost')}"


def write_table(path: Path, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Write a tab-separated file without quoting."""
    path.write_text("".join("\t".join(row) + "\n" for row in [header, *rows]), encoding="utf-8", newline="\n")


def _translation(text: str, target: str) -> str:
    return text if target == "de" or text in ("", "REMOVE") else f"{target}: {text}"
