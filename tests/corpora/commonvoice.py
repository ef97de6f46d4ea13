"""Common Voice releases of a few seconds: any release's columns, generated tones for clips, the quirks of the real."""

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import soundfile

from tests.corpora import Expected, FakeCorpus
from tests.corpora.must_c import tone

COLUMNS = {
    "4": "client_id path sentence up_votes down_votes age gender accent",
    "5.0": "sentence client_id segment path gender accent up_votes locale down_votes age",
    "6.1": "client_id path sentence up_votes down_votes age gender accent locale segment",
    "13.0": "client_id path sentence up_votes down_votes age gender accents variant locale segment",
    "17.0": "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents variant locale"
    " segment",
}
"""Columns of the lists by release."""

# (clip, duration in s, speaker, sentence); all clips of the fake corpus are right
VALID = {
    "de": {
        "train": [
            ("common_voice_de_17300000.mp3", 0.4, "a" * 128, 'Er sagte: "Nein.'),
            ("common_voice_de_17300001.mp3", 0.512, "b" * 128, "Eine\u2028Zeile\rund\u0085noch eine."),
            ("common_voice_de_17300002.mp3", 0.6, "b" * 128, "N/A"),
        ],
        "dev": [("common_voice_de_17300003.mp3", 0.3, "c" * 128, "Schöne Straße.")],
        "test": [
            ("common_voice_de_17300005.mp3", 0.7, "d" * 128, "Wer fragt, \\ der führt."),
            ("common_voice_de_17300004.mp3", 0.2, "e" * 128, "„Ja“, sagte sie."),
        ],
    },
    "zh-CN": {
        "train": [("common_voice_zh-CN_18000000.mp3", 0.5, "f" * 128, "宋朝末年年间定居粉岭围。")],
        "dev": [("common_voice_zh-CN_18000001.mp3", 0.4, "g" * 128, "渐渐行动不便")],
        "test": [("common_voice_zh-CN_18000002.mp3", 0.3, "h" * 128, "二十一年去世。")],
    },
}


def write_fake(root: Path) -> FakeCorpus:
    """Write German and Chinese of release 17.0, German clips at 48 kHz and Chinese ones at 32 kHz."""
    for language, splits in VALID.items():
        folder = root / "cv-corpus-17.0-2024-03-15" / language
        rate = 48_000 if language == "de" else 32_000
        for split, rows in splits.items():
            write_list(folder / f"{split}.tsv", rows, "17.0")
            write_clips(folder, rows, rate)
        write_list(folder / "validated.tsv", [row for rows in splits.values() for row in rows], "17.0")
        write_durations(folder, [row[:2] for row in splits["train"][:2]])
    return FakeCorpus(
        options={"root": str(root), "languages": list(VALID), "tasks": ["asr"]},
        splits={
            split: [
                Expected(clip.removesuffix(".mp3"), round(duration_s * 16_000), language, sentence)
                for language, splits in VALID.items()
                for clip, duration_s, _, sentence in splits[split]
            ]
            for split in ("train", "dev", "test")
        },
    )


def write_list(path: Path, rows: Sequence[tuple[str, float, str, str]], release: str) -> None:
    """Write a list of clips with the columns of a release."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = COLUMNS[release].split()
    lines = ["\t".join(columns)]
    for clip, _, speaker, sentence in rows:
        values = {"client_id": speaker, "path": clip, "sentence": sentence, "sentence_id": "0123abcd", "up_votes": "2"}
        lines.append("\t".join(values.get(column, "") for column in columns))
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())


def write_clips(folder: Path, rows: Sequence[tuple], rate: int = 48_000) -> None:
    """Write a tone for each row of (clip, duration in s, …)."""
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    for number, (clip, duration_s, *_) in enumerate(rows):
        path = folder / "clips" / (clip if "." in clip else f"{clip}.mp3")
        path.write_bytes(mp3_tone(duration_s, 200.0 + 20 * number, rate))


def write_durations(folder: Path, rows: Sequence[tuple[str, float]], column: str = "clip") -> None:
    """Write the list of durations of releases from 16.1 on, from (clip, duration in s)."""
    lines = [f"{column}\tduration[ms]", *(f"{clip}\t{round(1000 * duration_s)}" for clip, duration_s in rows)]
    (folder / "clip_durations.tsv").write_bytes("".join(f"{line}\n" for line in lines).encode())


@cache
def mp3_tone(duration_s: float, frequency_hz: float, rate: int) -> bytes:
    """Return an mp3 file of a tone."""
    file = io.BytesIO()
    soundfile.write(file, tone(duration_s, frequency_hz, rate), rate, format="MP3")
    return file.getvalue()
