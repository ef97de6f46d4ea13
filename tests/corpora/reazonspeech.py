"""A ReazonSpeech of a few clips, one folder of an archive to train on and one for dev and test."""

from pathlib import Path

import soundfile

from tests.corpora import Expected, FakeCorpus
from tests.corpora.must_c import tone

# (clip, seconds, text), in the order of the table: two rows of dev, two of test, three to train on
ROWS = [
    ("000/00a1.flac", 0.5, "今日のニュースをお伝えします。"),
    ("000/00b2.flac", 0.75, "ＮＨＫの「朝ドラ」は、８時からです！"),
    ("000/00c3.flac", 0.4, 'タブは\t一つ目だけ。"'),
    ("000/00d4.flac", 0.6, "行の\u2028中。"),
    ("001/00e5.flac", 1.0, "３．１４とｶﾞｲﾄﾞ♪"),
    ("001/00f6.flac", 0.5, "えっ？　本当ですか…。"),
    ("001/0107.flac", 0.8, "スーパーマーケット"),
]


def write_table(path: Path, rows: list[tuple[str, str]]) -> None:
    """Write clips and texts as the release does: no header, no quotes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{clip}\t{text}\n" for clip, text in rows), encoding="utf-8", newline="\n")


def write_fake(root: Path) -> FakeCorpus:
    """Write the table of the size small and its clips, in the folders of the release."""
    for clip, seconds, _ in ROWS:
        path = root / "data" / clip
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, tone(seconds, 300.0), 16_000)
    write_table(root / "tsv/small.tsv", [(clip, text) for clip, _, text in ROWS])
    expected = [Expected(clip, round(seconds * 16_000), "ja", text) for clip, seconds, text in ROWS]
    return FakeCorpus(
        options={"root": str(root), "dev_rows": 2, "test_rows": 2, "tasks": ["asr"]},
        splits={"dev": expected[:2], "test": expected[2:4], "train": expected[4:]},
    )
