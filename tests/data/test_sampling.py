"""Which rows make a batch."""

import random
from itertools import chain

import pytest

from speechllm.data.rows import TrainingRows, interleave, missing_text, row_cut
from speechllm.data.sampling import EvaluationSampler, duration_bins, training_sampler
from speechllm.data.utterance import Utterance


def cuts(count, seed=0, name="u"):
    draw = random.Random(seed)
    return [
        row_cut(Utterance(f"{name}{row}", "a.wav", 0.0, draw.uniform(0.5, 12.0), "en", "x"), "asr", "en", row)
        for row in range(count)
    ]


def training_rows(count, name="u"):
    made = cuts(count, name=name)
    return TrainingRows(lambda: iter(cuts(count, name=name)), [cut.duration for cut in made])


def epoch_of(sampler, epoch=0):
    sampler.set_epoch(epoch)
    return [[cut.supervisions[0].id for cut in batch] for batch in sampler]


def sampler_of(count=300, **options):
    options = {"batch_seconds": 60.0, "max_utterances": 16, "num_buckets": 5, "seed": 1} | options
    return training_sampler(training_rows(count), **options)


def test_every_row_is_trained_on_once_an_epoch():
    batches = epoch_of(sampler_of())
    assert sorted(chain(*batches)) == sorted(cut.id for cut in cuts(300))


def test_batches_keep_their_limits_and_pad_little():
    lengths = {cut.id: cut.duration for cut in cuts(300)}
    batches = [[lengths[name] for name in batch] for batch in epoch_of(sampler_of())]
    assert all(len(batch) * max(batch) <= 60.0 and len(batch) <= 16 for batch in batches)
    padded = sum(len(batch) * max(batch) for batch in batches)
    assert sum(lengths.values()) / padded > 0.8


def test_order_depends_on_seed_and_epoch_alone():
    first = epoch_of(sampler_of())
    assert epoch_of(sampler_of()) == first
    assert epoch_of(sampler_of(seed=2)) != first
    sampler = sampler_of()
    later = epoch_of(sampler, 1)
    assert later != first
    assert sorted(chain(*later)) == sorted(chain(*first))
    assert epoch_of(sampler, 0) == first


@pytest.mark.parametrize("count", [300, 301, 23])
def test_ranks_get_equally_many_disjoint_batches(count):
    ranks = [epoch_of(sampler_of(count, rank=rank, world_size=2)) for rank in range(2)]
    assert len(ranks[0]) == len(ranks[1])
    assert all(batch for rank in ranks for batch in rank)
    assert sorted(chain(*ranks[0], *ranks[1])) == sorted(cut.id for cut in cuts(count))


@pytest.mark.parametrize("num_buckets", [1, 2, 50])
def test_any_number_of_buckets_serves_any_number_of_rows(num_buckets):
    assert sorted(chain(*epoch_of(sampler_of(3, num_buckets=num_buckets)))) == ["u0", "u1", "u2"]


def test_buckets_give_equally_many_batches():
    durations_s = [1.0] * 6 + [2.0] * 3 + [3.0] * 3
    assert duration_bins(durations_s, 2, batch_seconds=60.0, max_utterances=3) == [2.0]
    assert duration_bins(durations_s, 4, batch_seconds=60.0, max_utterances=1) == [2.0, 3.0]
    assert duration_bins([3.0] * 9, 5, 60.0, 16) == [4.0]
    assert duration_bins([3.0], 1, 60.0, 16) == [4.0]


@pytest.mark.parametrize(("batch_seconds", "max_utterances"), [(60.0, 100), (1000.0, 8)])
def test_an_epoch_ends_as_it_began(batch_seconds, max_utterances):
    """No part of an epoch has only short or only long utterances, whichever of the two limits closes a batch."""
    lengths = {cut.id: cut.duration for cut in cuts(4000)}
    sampler = sampler_of(4000, batch_seconds=batch_seconds, max_utterances=max_utterances)
    means = [sum(lengths[name] for name in batch) / len(batch) for batch in epoch_of(sampler)]
    fifth = len(means) // 5
    parts = [sum(means[start : start + fifth]) / fifth for start in range(0, 5 * fifth, fifth)]
    assert max(parts) < 1.25 * min(parts)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 7, 60])
def test_evaluation_covers_every_row_once(world_size, count):
    ranks = [list(EvaluationSampler(cuts(count), 40.0, 8, rank, world_size)) for rank in range(world_size)]
    assert sorted(cut.custom["row"] for rank in ranks for batch in rank for cut in batch) == list(range(count))
    assert len({len(rank) for rank in ranks}) == 1
    for batch in (batch for rank in ranks for batch in rank if batch):
        assert len(batch) <= 8
        assert batch[0].duration * len(batch) <= 40.0
        assert batch == sorted(batch, key=lambda cut: -cut.duration)


def test_evaluation_begins_with_the_longest_and_keeps_what_is_too_long():
    sampler = EvaluationSampler(cuts(50), 5.0, 8)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    assert len(batches[0]) == 1
    assert batches[0][0].duration == max(cut.duration for cut in cuts(50))


def test_interleaved_parts_run_out_together():
    mixed = interleave([training_rows(200, "a"), training_rows(50, "b")], seed=0)
    order = [cut.id[0] for cut in mixed]
    assert len(mixed) == len(order) == 250
    assert [cut.duration for cut in mixed] == mixed.durations_s
    assert [cut.custom["row"] for cut in mixed] == list(range(250))
    assert all(10 <= order[start : start + 125].count("b") <= 40 for start in (0, 125))


@pytest.mark.parametrize(
    ("task", "transcript", "translation", "missing"),
    [
        ("asr", "", "x", "no transcript"),
        ("asr", "x", "", ""),
        ("st", "", "x", ""),
        ("st", "x", " ", "no translation"),
        ("asr+st", "x", "", "no translation"),
        ("asr+st", "", "x", "no transcript"),
        ("asr+st", "x", "x", ""),
    ],
)
def test_tasks_need_their_texts(task, transcript, translation, missing):
    utterance = Utterance("u", "a.wav", 0.0, 1.0, "en", transcript, {"de": translation})
    assert missing_text(utterance, task, "en" if task == "asr" else "de") == missing
