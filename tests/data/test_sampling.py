"""A process's share of an epoch, from where it stopped; and every row once for scoring."""

from itertools import islice

import pytest

from speechllm.data.epoch_plan import BatchBudget, EpochPlan, Part
from speechllm.data.sampling import EvaluationSampler, TrainingSampler
from tests.data.synthetic_rows import random_durations_s


def samplers(world_size, count=300, seed=1, **options):
    plan = EpochPlan(random_durations_s(count), BatchBudget(60.0, 16), 5, seed, **options)
    return [TrainingSampler(plan, rank, world_size) for rank in range(world_size)]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_processes_share_an_epoch_out(world_size):
    ranks = [list(sampler) for sampler in samplers(world_size)]
    assert len({len(rank) for rank in ranks}) == 1
    assert sorted(row for rank in ranks for draw in rank for row in draw.rows) == list(range(300))
    assert samplers(world_size)[0].batches() == len(ranks[0])


def test_epochs_differ_and_can_be_had_again():
    (sampler,) = samplers(1)
    first = list(sampler)
    sampler.begin_epoch(1)
    assert list(sampler) != first
    sampler.begin_epoch(0)
    assert list(sampler) == first


class Trainer:
    """Trains on batches and counts them."""

    def __init__(self, trained=0):
        self.trained = trained

    def __call__(self):
        return self.trained

    def train(self, sampler, steps=None, ahead=0):
        """Return the rows of ``steps`` batches, after as many more were read ahead."""
        draws = list(islice(sampler, None if steps is None else steps + ahead))
        self.trained += len(draws[:steps])
        return [row for draw in draws[:steps] for row in draw.rows]


def counted_samplers(world_size, trained=0, count=300):
    plan = EpochPlan(random_durations_s(count), BatchBudget(60.0, 16), 5, 1)
    trainers = [Trainer(trained) for _ in range(world_size)]
    return [
        (TrainingSampler(plan, rank, world_size, trained=trainer), trainer) for rank, trainer in enumerate(trainers)
    ]


@pytest.mark.parametrize("ahead", [0, 4])
@pytest.mark.parametrize(("before", "after"), [(1, 1), (2, 2), (4, 2), (2, 3), (1, 8)])
def test_a_resumed_epoch_has_the_rows_that_are_left_each_once(before, after, ahead):
    seen, left, second = [], [], []
    for sampler, trainer in (first := counted_samplers(before)):
        assert len(trainer.train(sampler)) > 0  # a whole epoch
        seen += trainer.train(sampler, 5, ahead)
    state = first[0][0].state()
    for sampler, trainer in counted_samplers(after, trained=first[0][1].trained):
        assert sampler.resume(state)
        assert sampler.batches() > 5
        left += trainer.train(sampler)
        assert sampler.epoch == 1
        second += trainer.train(sampler)
        assert sampler.epoch == 2
    assert sorted(seen + left) == list(range(300))
    assert sorted(second) == list(range(300))


def test_an_epoch_resumed_twice_with_other_numbers_of_processes():
    seen, state, total = [], None, 0
    for world_size, steps in ((4, 3), (2, 4), (3, None)):
        ranks = counted_samplers(world_size, total)
        for sampler, trainer in ranks:
            assert state is None or sampler.resume(state)
            seen += trainer.train(sampler, steps)
        total, state = ranks[0][1].trained, ranks[0][0].state()
    assert sorted(seen) == list(range(300))


def test_an_epoch_that_nothing_was_trained_of_is_had_again():
    ((sampler, trainer),) = counted_samplers(1)
    first = next(iter(sampler))
    assert next(iter(sampler)) == first
    assert sampler.state()["seen"] == [(1, 0)]
    trainer.train(sampler, 1)
    assert next(iter(sampler)).epoch == 1


def test_after_the_end_of_an_epoch_comes_the_next():
    ((sampler, trainer),) = counted_samplers(1)
    trainer.train(sampler)
    ((again, _),) = counted_samplers(1, trained=trainer.trained)
    assert again.resume(sampler.state())
    draws = list(again)
    assert {draw.epoch for draw in draws} == {1}
    assert sorted(row for draw in draws for row in draw.rows) == list(range(300))


@pytest.mark.parametrize("other", [{"count": 299}, {"seed": 2}, {"speeds": (0.9, 1.0)}, {"parts": [Part(0, 300, 1.0)]}])
def test_other_plans_are_not_resumed(other):
    (sampler,) = samplers(1)
    (changed,) = samplers(1, **other)
    assert not changed.resume(sampler.state())
    assert changed.seen == []
    smaller = TrainingSampler(EpochPlan(random_durations_s(300), BatchBudget(60.0, 15), 5, 1))
    assert not smaller.resume(sampler.state())
    assert samplers(2)[1].resume(sampler.state())


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 7, 60])
def test_evaluation_covers_every_row_once(world_size, count):
    durations_s = random_durations_s(count)
    ranks = [list(EvaluationSampler(durations_s, 40.0, 8, rank, world_size)) for rank in range(world_size)]
    assert sorted(row for rank in ranks for draw in rank for row in draw.rows) == list(range(count))
    assert len({len(rank) for rank in ranks}) == 1
    for draw in (draw for rank in ranks for draw in rank if draw.rows):
        assert len(draw.rows) <= 8
        assert durations_s[draw.rows[0]] * len(draw.rows) <= 40.0
        assert draw.rows == sorted(draw.rows, key=lambda row: -durations_s[row])


def test_evaluation_begins_with_the_longest_and_keeps_what_is_too_long():
    durations_s = random_durations_s(50)
    sampler = EvaluationSampler(durations_s, 5.0, 8)
    draws = list(sampler)
    assert len(draws) == len(sampler)
    assert draws[0].rows == [durations_s.argmax()]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_without_rows_that_are_decoded(world_size):
    durations_s = random_durations_s(60)
    ranks = [
        list(EvaluationSampler(durations_s, 40.0, 8, rank, world_size, without={0, 7, 59}))
        for rank in range(world_size)
    ]
    assert sorted(row for rank in ranks for draw in rank for row in draw.rows) == sorted(set(range(60)) - {0, 7, 59})
    assert len({len(rank) for rank in ranks}) == 1


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_of_nothing_has_a_batch_without_rows(world_size):
    """Trainers skip what has no batches, and with it what comes after them."""
    for rank in range(world_size):
        (draw,) = EvaluationSampler(random_durations_s(5), 40.0, 8, rank, world_size, without=range(5))
        assert draw.rows == draw.speeds == []
