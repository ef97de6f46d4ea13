"""fairseq S2T tables as its scripts and those of its descendants write them: whole clips, and slices of talks."""

import csv
from pathlib import Path

import soundfile

from tests.corpora import Expected, FakeCorpus
from tests.corpora.must_c import tone

COLUMNS = ("id", "audio", "n_frames", "tgt_text", "speaker", "src_text", "src_lang", "tgt_lang")


def write_table(path: Path, rows: list[dict[str, str]], columns: tuple[str, ...] = COLUMNS) -> Path:
    """Write rows with fairseq's own settings: no quotes, a backslash before what needs it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        writer = csv.DictWriter(
            file,
            columns,
            restval="",
            extrasaction="ignore",
            delimiter="\t",
            quoting=csv.QUOTE_NONE,
            escapechar="\\",
            lineterminator="\n",
        )
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_fake(root: Path) -> FakeCorpus:
    """Write tables to train on of a talk's slices, into German and of its transcripts, and tables of clips."""
    audio = root / "audio"
    audio.mkdir(parents=True)
    soundfile.write(audio / "ted_1.wav", tone(2.0, 300.0, 22_050), 22_050)
    soundfile.write(audio / "clip.flac", tone(0.75, 350.0), 16_000)
    first, second = "ted_1.wav:0:11025", "ted_1.wav:22050:17640"
    common = {"speaker": "spk.1", "src_lang": "en"}
    write_table(
        root / "train_st.tsv",
        [
            {"id": "ted_1_0", "audio": first, "n_frames": "11025", "tgt_text": 'Er sagte "ja.', "tgt_lang": "de"}
            | common,
            {"id": "ted_1_1", "audio": second, "n_frames": "17640", "tgt_text": "a\\b\t\u2028c", "tgt_lang": "de"}
            | common,
        ],
    )
    asr = {"id": "ted_1_0", "audio": first, "n_frames": "11025", "tgt_text": 'He said "yes.', "tgt_lang": "en"}
    write_table(root / "train_asr.tsv", [asr | common])
    clip = {"id": "c", "audio": "clip.flac", "n_frames": "12000", "tgt_text": "Un clip.", "src_text": "A clip."}
    write_table(root / "dev.tsv", [clip | {"tgt_lang": "fr"} | common])
    write_table(
        root / "tst-COMMON_st.tsv",
        [clip | {"tgt_text": "Ein Clip."}, {"id": "d", "audio": str(audio / "ted_1.wav"), "tgt_text": ""}],
        ("id", "audio", "n_frames", "tgt_text", "speaker", "src_text"),
    )
    return FakeCorpus(
        options={
            "root": str(root),
            "train": ["train_st.tsv", "train_asr.tsv"],
            "test": "tst-COMMON_st.tsv",
            "source": "en",
            "target": "de",
            "audio_root": "audio",
            "tasks": ["asr", "st", "asr+st"],
        },
        splits={
            "train": [
                Expected("ted_1_0", 8_000, "en", 'He said "yes.', {"de": 'Er sagte "ja.'}),
                Expected("ted_1_1", 12_800, "en", "", {"de": "a\\b\t\u2028c"}),
            ],
            "dev": [Expected("c", 12_000, "en", "A clip.", {"fr": "Un clip."})],
            "test": [
                Expected("c", 12_000, "en", "A clip.", {"de": "Ein Clip."}),
                Expected("d", 32_000, "en", "", {"de": ""}),
            ],
        },
    )
