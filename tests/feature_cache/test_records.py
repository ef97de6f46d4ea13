"""Records: what is read is what was written, rounded as its format says."""

import numpy as np
import pytest
import torch

from speechllm.feature_cache.records import RecordLayout, quantize


def round_trip(layout, values, logits=None):
    record = np.frombuffer(layout.pack(values, logits), np.uint8)
    assert len(record) == len(values) * layout.frame_bytes
    read = torch.full((len(values), layout.dim), 7.0, dtype=torch.bfloat16)
    read_logits = torch.zeros(len(values), layout.ctc_classes)
    layout.unpack(record, read, read_logits)
    return read, read_logits


def test_bf16_is_the_bits_of_bfloat16():
    values = torch.randn(11, 6) * torch.logspace(-20, 20, 6)
    read, _ = round_trip(RecordLayout(6), values)
    assert torch.equal(read.view(torch.int16), values.bfloat16().view(torch.int16))


def test_bf16_of_bfloat16_frames_loses_nothing():
    values = torch.randn(5, 6).bfloat16()
    assert torch.equal(round_trip(RecordLayout(6), values)[0], values)


def test_logits_stay_in_float32():
    values, logits = torch.randn(4, 3), torch.randn(4, 5)
    for storage in ("bf16", "int8"):
        assert torch.equal(round_trip(RecordLayout(3, storage, 5), values, logits)[1], logits)


def test_int8_has_a_scale_for_each_frame():
    """A loud frame does not take the steps of a quiet one; the error is half a step and bfloat16's rounding."""
    values = torch.randn(50, 32) * torch.logspace(-3, 3, 50)[:, None]
    layout = RecordLayout(32, "int8")
    read, _ = round_trip(layout, values)
    step = values.abs().amax(dim=1, keepdim=True) / 127
    assert ((read.float() - values).abs() <= 0.5 * step + values.abs() / 128).all()
    assert torch.equal(read.float(), layout.stored(values))
    error = (read.float() - values).norm() / values.norm()
    assert 0.002 < error < 0.02
    assert layout.frame_bytes == 36


def test_int8_of_silence_is_silence():
    small, scales = quantize(torch.zeros(2, 4))
    assert not small.any()
    assert scales.isfinite().all()


@pytest.mark.parametrize("storage", ["bf16", "int8"])
def test_a_record_may_begin_at_any_byte(storage):
    layout, values = RecordLayout(5, storage), torch.randn(3, 5)
    record = np.frombuffer(b"x" + layout.pack(values), np.uint8)[1:]
    read = torch.zeros(3, 5, dtype=torch.bfloat16)
    layout.unpack(record, read)
    assert torch.equal(read.float(), layout.stored(values))
