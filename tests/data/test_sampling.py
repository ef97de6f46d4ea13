"""A process's share of an epoch, from where it stopped; and every row once for scoring."""

import pytest

from speechllm.data.epoch_plan import BatchBudget, EpochPlan
from speechllm.data.sampling import EvaluationSampler, TrainingSampler
from tests.data.synthetic_rows import random_durations_s


def samplers(world_size, count=300, seed=1, **options):
    plan = EpochPlan(random_durations_s(count), BatchBudget(60.0, 16), 5, seed, **options)
    return [TrainingSampler(plan, rank, world_size) for rank in range(world_size)]


def rows_of(sampler, steps=None):
    return [row for draw in list(sampler)[:steps] for row in draw.rows]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_processes_share_an_epoch_out(world_size):
    ranks = [list(sampler) for sampler in samplers(world_size)]
    assert len({len(rank) for rank in ranks}) == 1
    assert sorted(row for rank in ranks for draw in rank for row in draw.rows) == list(range(300))
    assert samplers(world_size)[0].batches() == len(ranks[0])


def test_epochs_differ_and_can_be_had_again():
    (sampler,) = samplers(1)
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first


@pytest.mark.parametrize(("before", "after"), [(1, 1), (2, 2), (4, 2), (2, 3), (1, 8)])
def test_a_resumed_epoch_has_the_rows_that_are_left_each_once(before, after):
    first, later = samplers(before), samplers(after)
    seen = []
    for sampler in first:
        sampler.set_epoch(3)
        seen += rows_of(sampler, 5)
    left = []
    for sampler in later:
        assert sampler.resume(first[0].state(5))
        sampler.set_epoch(3)  # as the trainer does
        assert sampler.batches() - 5 == len(list(sampler))
        left += rows_of(sampler)
    assert sorted(seen + left) == list(range(300))
    assert len({len(list(sampler)) for sampler in later}) == 1
    later[0].set_epoch(4)
    fresh = samplers(after)[0]
    fresh.set_epoch(4)
    assert list(later[0]) == list(fresh)


def test_an_epoch_resumed_twice_with_other_numbers_of_processes():
    seen, state, total = [], None, 0
    for world_size, steps in ((4, 3), (2, 4), (3, None)):
        ranks = samplers(world_size)
        for sampler in ranks:
            assert state is None or sampler.resume(state)
            seen += rows_of(sampler, steps)
        total += steps or 0
        state = ranks[0].state(total)
    assert sorted(seen) == list(range(300))


def test_the_end_of_an_epoch_leaves_nothing():
    (sampler,) = samplers(1)
    (again,) = samplers(1)
    assert again.resume(sampler.state(sampler.batches()))
    assert list(again) == []
    again.set_epoch(1)
    assert sorted(rows_of(again)) == list(range(300))


@pytest.mark.parametrize("other", [{"count": 299}, {"seed": 2}])
def test_other_rows_are_not_resumed(other):
    (sampler,) = samplers(1)
    (changed,) = samplers(1, **other)
    assert not changed.resume(sampler.state(3))
    assert changed.seen == []


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
