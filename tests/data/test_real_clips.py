"""The small real corpora beside the repository, through the loaders that users' corpora go through."""

import csv
import math
import re

import numpy as np
import pytest
import soundfile
import torch
from torchaudio.functional import resample

from speechllm.data import CoVoST2DataModule, MlcSlmDataModule, ShardedDataModule, TableDataModule
from speechllm.data.doctor.check import check_corpus
from speechllm.data.manifest import Tally
from speechllm.data.reading.text_files import read_table
from speechllm.data.shards import write_shards

MOST = 300
"""Clips of a corpus that are looked at one by one; they are evenly spaced."""


def rows_of(folder):
    with (folder / "transcripts.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def write_table(folder, rows, root):
    """Write rows of ``transcripts.tsv`` as a table of one's own, every split the same."""
    columns = ["id", "audio", "transcript", "source", "translation", "target", "speaker"]
    for split in ("train", "dev", "test"):
        with (root / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(columns)
            for row in rows:
                texts = (
                    row["text"],
                    row["src_lang"],
                    row["translation"],
                    row["tgt_lang"] if row["translation"] else "",
                )
                table.writerow([row["id"], folder / row["audio"], *texts, row["speaker"]])
    return root


def reference(path):
    """Return a clip at 16 kHz as two libraries give it, without our code."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    audio = torch.from_numpy(samples.mean(axis=1))
    return resample(audio.double(), rate, 16_000).clamp(-1, 1).float(), len(samples), rate


def by_id(loader):
    return {
        batch.ids[place]: (batch, place)
        for batch in loader
        for place in range(len(batch))
        if batch.tasks[place] == "asr"
    }


@pytest.fixture(params=["fixtures_misc", "an4", "fsdd"])
def table(request, shared_data, tmp_path):
    """Return a prepared datamodule, the rows it is made of, and the folder of the clips."""
    folder = shared_data / request.param
    rows = rows_of(folder)
    rows = rows[:: max(1, len(rows) // MOST)]
    data = TableDataModule(
        str(write_table(folder, rows, tmp_path)), tasks=["asr", "st"], num_workers=0, max_val_utterances=None
    )
    data.prepare_data()
    return data, rows, folder


def test_texts_ids_and_samples_come_back(table):
    data, rows, folder = table
    train = data.train_rows()
    assert len(train.rows) == sum(1 + bool(row["translation"]) for row in rows)
    found = by_id(data.test_dataloader())
    assert found.keys() == {row["id"] for row in rows}
    for row in rows:
        batch, place = found[row["id"]]
        audio, count, rate = reference(folder / row["audio"])
        assert batch.transcripts[place] == row["text"]
        assert batch.source_languages[place] == row["src_lang"]
        assert batch.audio_lengths[place] == len(audio) == math.ceil(count * 16_000 / rate)
        # The reference is computed in double precision, and the filters from 22,050 and 44,100 Hz are long.
        tolerance = 1e-6 if rate % 8_000 == 0 else 1e-5
        torch.testing.assert_close(batch.audio[place, : len(audio)], audio, rtol=0, atol=tolerance)
        assert abs(float(row["duration"]) - len(audio) / 16_000) < 0.1


def test_shards_hold_the_same_to_sixteen_bits(table, tmp_path):
    data, _, _ = table
    write_shards(data.manifest_dir, str(tmp_path / "shards"), shard_utterances=40, workers=0)
    sharded = ShardedDataModule(str(tmp_path / "shards"), tasks=["asr"], num_workers=0)
    sharded.prepare_data()
    expected = by_id(data.test_dataloader())
    found = by_id(sharded.train_dataloader())
    assert found.keys() == expected.keys()
    for name, (batch, place) in found.items():
        other, where = expected[name]
        length = int(other.audio_lengths[where])
        assert int(batch.audio_lengths[place]) == length
        difference = (batch.audio[place, :length] - other.audio[where, :length]).abs().max()
        assert difference <= 2**-15, name


def test_the_doctor_can_decode_all(table):
    data, _, _ = table
    assert "Decoded" in str(check_corpus(data.manifest_dir, workers=0))
    found = read_table(data.manifest_dir / "check/findings.tsv", ("split", "id", "reason"), Tally())
    reasons = {row["reason"] for row in found}
    assert not reasons & {"missing file", "empty file", "not decodable", "crashes the decoder", "past the end"}
    assert not {
        reason for reason in reasons if re.search("truncated|damaged|shorter|cannot|rate differs|channel", reason)
    }


def test_conversations_in_the_layout_of_mlc_slm(shared_data, tmp_path):
    root = shared_data / "an4_conv_mlcslm"
    data = MlcSlmDataModule(str(root), manifest_dir=str(tmp_path), num_workers=0, max_val_utterances=None)
    data.prepare_data()
    batches = list(data.test_dataloader())
    assert sum(len(batch) for batch in batches) == len(data.eval_rows("test")) > 40
    assert all(batch.audio_lengths.min() >= 400 for batch in batches)
    assert all(transcript == transcript.lower() for batch in batches for transcript in batch.transcripts)
    lines = [
        line.split(None, 3) for path in sorted((root / "dev").rglob("*.txt")) for line in path.open(encoding="utf-8")
    ]
    spoken = sorted(" ".join(fields[3].lower().split()) for fields in lines if len(fields) == 4)
    assert sorted(text for batch in batches for text in batch.transcripts) == spoken


def test_common_voice_clips_in_the_layout_of_covost(shared_data, tmp_path):
    folder = shared_data / "fixtures_misc"
    rows = [
        row for row in rows_of(folder) if row["src_lang"] == "fr" and row["tgt_lang"] == "en" and row["translation"]
    ]
    assert len(rows) >= 2
    (tmp_path / "fr/clips").mkdir(parents=True)
    for row in rows:
        name = row["audio"].rpartition("/")[2]
        (tmp_path / "fr/clips" / name).symlink_to((folder / row["audio"]).resolve())
    names = [row["audio"].rpartition("/")[2] for row in rows]
    sentences = [f"someone\t{name}\t{row['text']}\n" for name, row in zip(names, rows, strict=True)]
    listed = [f"{name}\t{row['translation']}\ttest\n" for name, row in zip(names, rows, strict=True)]
    for name, lines in (
        ("validated.tsv", ["client_id\tpath\tsentence\n", *sentences]),
        ("covost_v2.fr_en.tsv", ["path\ttranslation\tsplit\n", *listed]),
    ):
        (tmp_path / "fr" / name).write_text("".join(lines), encoding="utf-8")
    data = CoVoST2DataModule(str(tmp_path), pairs=["fr_en"], tasks=["st"], num_workers=0)
    data.prepare_data()
    found = {
        batch.ids[place]: (batch.transcripts[place], batch.translations[place], int(batch.audio_lengths[place]))
        for batch in data.test_dataloader()
        for place in range(len(batch))
    }
    for name, row in zip(names, rows, strict=True):
        audio, _, _ = reference(folder / row["audio"])
        assert found[name.rpartition(".")[0]] == (row["text"], row["translation"], len(audio))
        assert np.isfinite(audio.numpy()).all()
