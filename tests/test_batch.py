"""The types that cross borders: masks from lengths, padding that is exactly zero, parts of a batch."""

import pytest
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor

from speechllm.batch import SAMPLE_RATE, TASKS, AdapterOutput, Batch, Frames, Hypothesis, lengths_to_mask, zero_padding


@pytest.fixture
def batch():
    lengths = torch.tensor([3, 0, 5, 2])
    audio = torch.arange(1.0, 21.0).reshape(4, 5).masked_fill(~lengths_to_mask(lengths), 0)
    return Batch(
        audio=audio,
        audio_lengths=lengths,
        ids=["a", "b", "c", "d"],
        tasks=["asr", "st", "asr+st", "st"],
        source_languages=["en", "en", "de", "it"],
        target_languages=["en", "de", "en", "fr"],
        transcripts=["ta", "tb", "tc", "td"],
        translations=["", "ub", "uc", "ud"],
        corpora=["x", "x", "y", "z"],
        rows=[10, 11, 12, 13],
        skipped=["e: unreadable"],
    )


def test_lengths_to_mask():
    mask = lengths_to_mask(torch.tensor([2, 0, 3]))
    assert mask.dtype == torch.bool
    assert mask.tolist() == [[True, True, False], [False, False, False], [True, True, True]]


def test_lengths_to_mask_of_a_given_width():
    lengths = torch.tensor([2, 1])
    assert lengths_to_mask(lengths, 4).tolist() == [[True, True, False, False], [True, False, False, False]]
    assert lengths_to_mask(lengths, 1).tolist() == [[True], [True]]
    assert lengths_to_mask(torch.tensor([0, 0])).shape == (2, 0)
    assert lengths_to_mask(lengths, 0).shape == (2, 0)


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zero_padding_whatever_stands_there(garbage, dtype):
    clean = torch.randn(3, 4, 2, dtype=dtype)
    lengths = torch.tensor([4, 1, 2])
    dirty = clean.clone()
    dirty[1, 1:], dirty[2, 2:] = garbage, garbage
    before = dirty.clone()
    zeroed = zero_padding(dirty, lengths)
    assert zeroed.dtype == dtype
    assert torch.equal(zeroed[0], clean[0])
    assert torch.equal(zeroed[1, :1], clean[1, :1])
    assert torch.equal(zeroed[2, :2], clean[2, :2])
    assert zeroed[1, 1:].abs().max() == 0
    assert zeroed[2, 2:].abs().max() == 0
    torch.testing.assert_close(dirty, before, rtol=0, atol=0, equal_nan=True)


def test_zero_padding_passes_gradients_only_to_valid_positions():
    values = torch.full((1, 3, 2), float("nan"))
    values[:, :2] = 1.0
    values.requires_grad_()
    zero_padding(values, torch.tensor([2])).sum().backward()
    assert values.grad.tolist() == [[[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]]


def test_batch_knows_its_size_and_durations(batch):
    assert len(batch) == 4
    batch.audio_lengths = torch.tensor([SAMPLE_RATE, 0, SAMPLE_RATE // 2, 40_000])
    assert batch.durations_s == [1.0, 0.0, 0.5, 2.5]


def test_select_keeps_every_field_together_and_trims(batch):
    part = batch.select([3, 0])
    assert part.audio.tolist() == [[16.0, 17.0, 0.0], [1.0, 2.0, 3.0]]
    assert part.audio_lengths.tolist() == [2, 3]
    assert (part.ids, part.tasks, part.corpora, part.rows) == (["d", "a"], ["st", "asr"], ["z", "x"], [13, 10])
    assert (part.source_languages, part.target_languages) == (["it", "en"], ["fr", "en"])
    assert (part.transcripts, part.translations) == (["td", "ta"], ["ud", ""])
    assert part.skipped == [], "clips left out belong to no part of the batch, and must not be counted twice"


def test_select_everything_is_the_batch(batch):
    part = batch.select([0, 1, 2, 3])
    assert torch.equal(part.audio, batch.audio)
    assert {name: value for name, value in vars(part).items() if not torch.is_tensor(value)} == {
        name: value for name, value in vars(batch).items() if not torch.is_tensor(value)
    } | {"skipped": []}


@pytest.mark.parametrize(("rows", "shape"), [([], (0, 0)), ([1], (1, 0)), ([1, 3], (2, 2))])
def test_select_of_nothing_and_of_unreadable_clips(batch, rows, shape):
    part = batch.select(rows)
    assert part.audio.shape == shape
    assert len(part) == len(part.audio_lengths) == len(rows)


def test_defaults_are_not_shared():
    first, second = (AdapterOutput(torch.zeros(1, 1, 1), torch.ones(1, dtype=torch.int64)) for _ in range(2))
    first.losses["ctc"] = torch.zeros(1)
    first.stats["quantity"] = torch.zeros(1)
    assert (second.losses, second.stats) == ({}, {})


def test_an_empty_hypothesis_is_the_default():
    assert Hypothesis() == Hypothesis(
        text="", transcript="", translation="", tokens=0, missing_separator=False, hit_limit=False
    )


def test_tasks():
    assert TASKS == ("asr", "st", "asr+st")


@pytest.mark.parametrize(("device", "waits"), [("cuda", False), ("cpu", True)])
def test_the_trainer_brings_batches_to_a_gpu_without_waiting_for_it(batch, device, waits, monkeypatch):
    """Lightning says so for tensors, and not for types of others."""
    waited = []
    monkeypatch.setattr(Tensor, "to", lambda self, to, non_blocking=False: waited.append(not non_blocking) or self)
    batch.features["whisper"] = Frames(torch.zeros(3, 2, 4), torch.tensor([2, 1, 1]), torch.zeros(3, 2, 5))
    move_data_to_device(batch, torch.device(device))
    assert waited == [waits] * 3
