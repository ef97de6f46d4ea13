"""Filling: what is written is what was computed, nothing twice, and a disk that is full says so."""

import errno
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from speechllm.errors import UserError
from speechllm.feature_cache import filling
from speechllm.feature_cache.filling import Counts, check_space, forecast_bytes
from speechllm.feature_cache.folder import SHARDS, CacheSettings
from speechllm.feature_cache.reader import FeatureReader
from speechllm.feature_cache.shards import ShardWriter
from speechllm.feature_cache.store import FeatureStore
from tests.feature_cache.caches import LENGTHS, spec_of, write_cache
from tests.tiny import noise


@pytest.mark.parametrize("name", ["whisper", "hubert", "seamless"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_frames_are_those_computed_rounded_to_bfloat16(name, dtype, tmp_path):
    computed, counts = write_cache(tmp_path, spec_of(name, dtype=dtype))
    assert (counts.added, counts.known) == (5, 0)
    assert counts.added_s == pytest.approx(sum(LENGTHS) / 16_000)
    reader = FeatureReader([tmp_path])
    for clip, frames in zip(noise(*LENGTHS), computed, strict=True):
        (read,) = reader.collate([reader.find(clip)]).values()
        length = int(frames.lengths)
        assert read.lengths.tolist() == [length]
        assert torch.equal(read.values[0], frames.values[0, :length].bfloat16())


def test_logits_of_a_ctc_head_are_kept_exactly(tmp_path):
    computed, _ = write_cache(tmp_path, spec_of("hubert", ctc_head=True))
    reader = FeatureReader([tmp_path])
    found = reader.collate([reader.find(clip) for clip in noise(*LENGTHS)])
    (read,) = found.values()
    assert read.ctc_blank == computed[0].ctc_blank
    for row, frames in enumerate(computed):
        length = int(frames.lengths)
        assert torch.equal(read.ctc_logits[row, :length], frames.ctc_logits[0, :length])
        assert not read.ctc_logits[row, length:].any()
        assert not read.values[row, length:].any()


def test_the_same_audio_is_encoded_once(tmp_path):
    clips = noise(8_000, 4_000, 8_000)
    _, counts = write_cache(tmp_path, spec_of(), clips)
    assert (counts.added, counts.known) == (2, 1)
    _, counts = write_cache(tmp_path, spec_of(), [*clips, *noise(5_000)])
    assert (counts.added, counts.known) == (1, 3)
    assert len(FeatureStore(tmp_path)) == 3


def test_clips_that_cannot_be_encoded_are_counted(tmp_path):
    _, counts = write_cache(tmp_path, spec_of("hubert"), [*noise(8_000, 300), torch.zeros(0)])
    assert (counts.added, counts.unfit, counts.unreadable) == (1, 1, 1)


def test_the_error_of_eight_bits_is_measured(tmp_path):
    errors = {}
    for storage in ("bf16", "int8"):
        computed, _ = write_cache(tmp_path / storage, spec_of(), storage=storage)
        store, reader = FeatureStore(tmp_path / storage), FeatureReader([tmp_path / storage])
        errors[storage] = (store.squares[0] / store.squares[1]) ** 0.5
        (read,) = reader.collate([reader.find(clip) for clip in noise(*LENGTHS)]).values()
        squares = np.zeros(2)
        for row, frames in enumerate(computed):
            exact = frames.values[0, : int(frames.lengths)]
            error = read.values[row, : len(exact)].float() - exact
            squares += [float(error.square().sum()), float(exact.square().sum())]
        assert errors[storage] == pytest.approx((squares[0] / squares[1]) ** 0.5)
    assert errors["bf16"] < 0.003 < errors["int8"] < 0.01
    assert FeatureStore(tmp_path / "int8").bytes == FeatureStore(tmp_path / "bf16").bytes * 20 // 32


def test_the_forecast_is_what_it_takes(tmp_path):
    """100 h of Whisper-large-v3 in bfloat16: 3,600 · 100 s · 50 Hz · 1,280 · 2 bytes, and a little for the index."""
    settings = CacheSettings("whisper", {}, 1, {}, dim=1280, frame_rate=50.0)
    durations_s = np.full(60_000, 6.0)
    assert forecast_bytes(settings, durations_s) == pytest.approx(360_000 * 50 * 2560, rel=1e-3)
    write_cache(tmp_path, spec_of())
    store = FeatureStore(tmp_path)
    forecast = forecast_bytes(store.settings, np.array(LENGTHS) / 16_000)
    assert forecast - 5 * filling.INDEX_BYTES == store.bytes


def test_a_disk_that_is_too_small_is_refused_before_it_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(filling.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**11))
    assert check_space(tmp_path / "not" / "there", 9 * 10**10) == 10**11
    with pytest.raises(UserError, match=r"will take about 120\.0 GB, and .*there' has 100\.0 GB free.*int8"):
        check_space(tmp_path / "not" / "there", 12 * 10**10)


def test_a_disk_that_fills_up_says_what_stays(tmp_path, monkeypatch):
    write_cache(tmp_path, spec_of(), noise(8_000))
    add, added = ShardWriter.add, []

    def full(self, *args):
        added.append(args)
        if len(added) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        add(self, *args)

    monkeypatch.setattr(ShardWriter, "add", full)
    with pytest.raises(UserError, match=r"failed: No space left on device\. What was finished stays.*goes on from"):
        write_cache(tmp_path, spec_of())
    assert len(FeatureStore(tmp_path)) == 1
    monkeypatch.undo()
    _, counts = write_cache(tmp_path, spec_of())
    assert (counts.added, counts.known) == (4, 1)


def test_an_interrupted_fill_is_usable_and_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write_cache(tmp_path, spec_of(), [*noise(8_000, 16_000, 4_000), Interrupting()], batch_size=1)
    done = len(FeatureStore(tmp_path))
    assert done == 3
    _, counts = write_cache(tmp_path, spec_of())
    assert (counts.added, counts.known) == (2, 3)
    assert not list((tmp_path / SHARDS).glob("*.part"))


class Interrupting:
    """A clip at which somebody presses Ctrl-C."""

    def __len__(self):
        raise KeyboardInterrupt


def test_counts_add_up():
    total = Counts(added=1, done_s=2.0)
    total += Counts(added=2, unfit=1, done_s=0.5)
    assert total == Counts(added=3, unfit=1, done_s=2.5)
