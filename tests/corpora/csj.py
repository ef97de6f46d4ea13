"""A CSJ of a few talks, with words, tags and fields as the recipes of ESPnet and lhotse read them."""

from pathlib import Path

import soundfile

from tests.corpora import Expected, FakeCorpus
from tests.corpora.must_c import tone

TALKS: dict[str, list[tuple[float, float, str, list[str]]]] = {
    # core, train: two segments joined over 0.3 s, one after 0.6 s
    "A01F0055": [
        (0.1, 0.7, "L", ["(F えー)", "それ", "(F あ", "ー)", "で"]),
        (1.0, 1.5, "L", ["(D こ)", "これ", "は<H>", "一・"]),
        (2.1, 2.6, "L", ["(A エーユー;ＡＵ)", "の", "(A 二千;２０００)", "円"]),
    ],
    "A01M0264": [(0.2, 1.2, "L", ["(W ミダリ;ヒダリ)", "(? あれ,これ)", "(笑 です", "ね)"])],
    "A01M0110": [(0.0, 0.5, "L", ["(K たち(F ん)ばな;橘)", "(R ×××)", "さん"]), (1.5, 1.9, "L", ["<笑>"])],
    "A01M0056": [(0.5, 1.0, "L", ["(M (O ウォー))", "と", "(D2 が)", "を"])],
    "S00M0112": [(0.0, 1.0, "L", ["(?)", "はい"])],
    "S05M0613": [(0.0, 1.0, "L", ["除く"])],
    # noncore, train: a dialogue
    "D01F0002": [(0.0, 1.0, "L", ["そう", "(F あの"]), (0.4, 0.9, "R", ["うん"]), (1.1, 1.5, "L", ["ー)", "です"])],
}
CORE = ("A01F0055", "A01M0264", "A01M0110", "A01M0056")


def sdb_lines(talk: str, segments: list[tuple[float, float, str, list[str]]]) -> str:
    """Return the lines of a transcription: the fields that are read, and others around them."""
    lines = []
    for number, (start, end, channel, words) in enumerate(segments, start=1):
        for place, word in enumerate(words, start=1):
            time = f"{number:04d} {start:09.3f}-{end:09.3f} {channel}:-{number:03d}-{place:03d}"
            lines.append(
                "\t".join([talk, str(place), talk, time, "", word, word, "", "", word, "ヨミ", "名詞", "", ""])
            )
    return "".join(f"{line}\n" for line in lines)


def write_talk(root: Path, talk: str, segments: list, part: str = "core", seconds: float = 3.0) -> None:
    """Write a talk's transcription and recording, two of a dialogue."""
    sdb, wav = root / "MORPH/SDB" / part, root / "WAV" / part
    for folder in (sdb, wav):
        folder.mkdir(parents=True, exist_ok=True)
    (sdb / f"{talk}.sdb").write_bytes(sdb_lines(talk, segments).encode("cp932"))
    for name in (f"{talk}-L", f"{talk}-R") if talk[0] == "D" else (talk,):
        soundfile.write(wav / f"{name}.wav", tone(seconds, 300.0), 16_000)


def write_fake(root: Path) -> FakeCorpus:
    """Write the talks in ``MORPH/SDB`` and ``WAV``."""
    for talk, segments in TALKS.items():
        write_talk(root, talk, segments, "core" if talk in CORE else "noncore")
    return FakeCorpus(
        options={"root": str(root), "tasks": ["asr"]},
        splits={
            "train": [
                Expected("A01F0055_0000100_0001500", 22_400, "ja", "えーそれあーでここれは一"),
                Expected("A01F0055_0002100_0002600", 8_000, "ja", "ＡＵの二千円"),
                Expected("D01F0002-L_0000000_0001500", 24_000, "ja", "そうあのーです"),
                Expected("D01F0002-R_0000400_0000900", 8_000, "ja", "うん"),
            ],
            "dev": [Expected("A01M0264_0000200_0001200", 16_000, "ja", "ヒダリあれですね")],
            "eval1": [Expected("A01M0110_0000000_0000500", 8_000, "ja", "橘さん")],
            "eval2": [Expected("A01M0056_0000500_0001000", 8_000, "ja", "ウォーとがを")],
            "eval3": [Expected("S00M0112_0000000_0001000", 16_000, "ja", "はい")],
        },
    )
