"""A CoVoST 2 of a few seconds in both of its forms, with generated tones for clips and the quirks of the real one."""

from pathlib import Path

import soundfile

from tests.corpora.must_c import tone

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
            soundfile.write(path, tone(0.4 + 0.1 * number, 300.0, RATE), RATE, format="MP3")
    for target in targets:
        rows = [(f"{clip}.mp3", sentence, _translation(text, target), split) for clip, sentence, text, split in table]
        stem = f"covost_v2.{source}_{target}"
        if scripted:
            for split in ("train", "dev", "test"):
                chosen = [
                    (path, sentence.replace('"', '\\"'), text.replace('"', '\\"'), "speaker")
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
        write_table(folder / f"{name}.tsv", header, [("speaker", f"{row[0]}.mp3", row[1], "2") for row in table])
    return root


def write_table(path: Path, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Write a tab-separated file without quoting."""
    path.write_text("".join("\t".join(row) + "\n" for row in [header, *rows]), encoding="utf-8", newline="\n")


def _translation(text: str, target: str) -> str:
    return text if target == "de" or text in ("", "REMOVE") else f"{target}: {text}"
