"""From rows to a batch."""

import numpy as np
import pytest
import soundfile
import torch

from speechllm.data.dataset import SpeechDataset
from speechllm.data.epoch_plan import Draw
from speechllm.data.utterance import Utterance
from tests.corpora.must_c import tone
from tests.data.synthetic_rows import ListedRows


def draw(*rows, speeds=None):
    return Draw(list(rows), speeds or [1.0] * len(rows), 0)


@pytest.fixture
def rows(tmp_path):
    """Return five rows: two good clips, one of no bytes, one with NaN, and one of 10 ms."""
    soundfile.write(tmp_path / "a.wav", tone(1.0), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "b.flac", tone(0.5, rate=8_000), 8_000)
    (tmp_path / "empty.mp3").touch()
    soundfile.write(tmp_path / "nan.wav", np.full(8_000, np.nan, np.float32), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "short.wav", tone(0.01), 16_000)
    made = []
    for row, name in enumerate(["a.wav", "empty.mp3", "b.flac", "nan.wav", "short.wav"]):
        texts = (f"text {row}", {"de": f"Text {row}"})
        made.append(Utterance(name.split(".")[0], str(tmp_path / name), 0.0, 0.5, "en", *texts, corpus="c"))
    return ListedRows(made)


def test_training_leaves_out_and_names_what_cannot_be_read(rows):
    batch = SpeechDataset(rows, keep_unreadable=False)[draw(*range(5))]
    assert batch.ids == ["a", "b"]
    assert batch.rows == [0, 2]
    assert batch.audio_lengths.tolist() == [8_000, 8_000]
    assert [message.split(":")[0] for message in batch.skipped] == ["empty", "nan", "short"]
    assert "0 bytes" in batch.skipped[0]


def test_evaluation_keeps_every_row(rows, caplog):
    batch = SpeechDataset(rows, keep_unreadable=True)[draw(*range(5))]
    assert batch.ids == ["a", "empty", "b", "nan", "short"]
    assert batch.audio_lengths.tolist() == [8_000, 0, 8_000, 0, 0]
    assert batch.translations == [f"Text {row}" for row in range(5)]
    assert batch.skipped == []
    assert caplog.text.count("counts as silence") == 3


def test_batch_of_nothing_readable_has_no_rows(rows):
    batch = SpeechDataset(rows, keep_unreadable=False)[draw(3, 4)]
    assert len(batch) == 0
    assert (batch.audio.shape, batch.audio_lengths.shape) == ((0, 0), (0,))
    assert batch.audio_lengths.dtype == torch.int64
    assert len(batch.skipped) == 2
    assert len(SpeechDataset(rows, keep_unreadable=True)[draw()]) == 0


def test_padding_is_zero_and_samples_are_those_of_the_file(tmp_path):
    soundfile.write(tmp_path / "talk.wav", tone(2.0), 16_000, subtype="FLOAT")
    spans = [(0.25, 0.5), (1.0, 0.75)]
    rows = ListedRows(
        Utterance(f"u{row}", str(tmp_path / "talk.wav"), *span, "en", "x") for row, span in enumerate(spans)
    )
    batch = SpeechDataset(rows, keep_unreadable=False)[draw(0, 1)]
    assert (batch.audio.dtype, batch.audio.shape) == (torch.float32, (2, 12_000))
    for audio, (offset_s, duration_s) in zip(batch.audio, spans, strict=True):
        start, count = int(offset_s * 16_000), int(duration_s * 16_000)
        np.testing.assert_array_equal(audio[:count].numpy(), tone(2.0)[start : start + count])
        assert not audio[count:].any()


def test_rows_of_one_utterance_share_their_audio(rows):
    batch = SpeechDataset(rows, keep_unreadable=True)[draw(0, 2, 0, 1, 1)]
    assert batch.ids == ["a", "b", "a", "empty", "empty"]
    assert batch.audio_of == [0, 1, 0, 3, 3]
    assert torch.equal(batch.audio[0], batch.audio[2])
    assert batch.select([2, 1, 0]).audio_of == [0, 1, 0]
