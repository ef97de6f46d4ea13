"""Which rows make a batch."""

from itertools import chain

import numpy as np
import pytest

from speechllm.data.epoch_plan import BatchBudget, Draw, EpochPlan, Part, bucket_bounds, even_out
from tests.data.synthetic_rows import random_durations_s


def plan_of(durations_s=300, seconds=60.0, utterances=16, num_buckets=5, seed=1, quadratic_s=None, **options):
    if isinstance(durations_s, int):
        durations_s = random_durations_s(durations_s)
    return EpochPlan(durations_s, BatchBudget(seconds, utterances, quadratic_s), num_buckets, seed, **options)


def batches_of(plan, epoch=0, world_size=1):
    return [draw.rows for step in plan.steps(epoch, world_size) for draw in step]


def test_every_row_is_drawn_once_an_epoch():
    assert sorted(chain(*batches_of(plan_of()))) == list(range(300))


@pytest.mark.parametrize("num_buckets", [1, 5, 30])
@pytest.mark.parametrize(("seconds", "utterances"), [(60.0, 100), (1000.0, 8), (13.0, 4)])
def test_batches_keep_their_budget(num_buckets, seconds, utterances):
    durations_s = random_durations_s(400)
    for rows in batches_of(plan_of(durations_s, seconds, utterances, num_buckets)):
        assert 0 < len(rows) <= utterances
        assert len(rows) * durations_s[rows].max() <= seconds


def test_a_row_longer_than_the_budget_is_a_batch_of_its_own():
    durations_s = np.array([70.0, 1.0, 65.0, 1.0])
    assert sorted(map(sorted, batches_of(plan_of(durations_s, num_buckets=2)))) == [[0], [1, 3], [2]]


def test_padding_of_log_normal_durations_is_below_six_percent():
    durations_s = np.clip(np.random.default_rng(0).lognormal(1.6, 0.6, 20_000), 0.3, 30)
    padded_s = sum(len(rows) * durations_s[rows].max() for rows in batches_of(plan_of(durations_s, 160.0, 32, 30)))
    assert 0.94 < durations_s.sum() / padded_s < 1


def test_long_rows_count_more_with_a_quadratic_penalty():
    durations_s = np.array([1.0] * 64 + [10.0] * 64)
    plain = batches_of(plan_of(durations_s, 80.0, 1000, 2))
    penalised = batches_of(plan_of(durations_s, 80.0, 1000, 2, quadratic_s=10.0))
    assert {len(rows) for rows in plain if rows[0] >= 64} == {8}
    assert {len(rows) for rows in penalised if rows[0] >= 64} == {4}  # 10 s count as 10 * (1 + 10/10) = 20
    assert max(len(rows) for rows in penalised if rows[0] < 64) == 64  # 1 s counts as 1.1


def test_order_depends_on_seed_epoch_and_number_of_processes_alone():
    first = plan_of().steps(0, 2)
    assert plan_of().steps(0, 2) == first
    assert plan_of(seed=2).steps(0, 2) != first
    assert plan_of().steps(1, 2) != first
    plan = plan_of()
    plan.steps(5, 2)
    assert plan.steps(0, 2) == first, "no state is kept from one epoch to the next"


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [300, 301, 23])
def test_every_process_gets_as_many_batches(count, world_size):
    steps = plan_of(count).steps(0, world_size)
    assert all(len(step) == world_size for step in steps)
    assert sorted(row for step in steps for draw in step for row in draw.rows) == list(range(count))
    assert all(draw.rows for step in steps for draw in step)


def test_batches_of_a_step_cost_about_the_same():
    durations_s = random_durations_s(4000)
    steps = plan_of(durations_s, num_buckets=20).steps(0, 4)
    ratios = [
        max(lengths) / min(lengths) for step in steps if (lengths := [durations_s[draw.rows].max() for draw in step])
    ]
    assert np.mean(ratios) < 1.1


def test_fewer_rows_than_processes_leave_some_without():
    (step,) = plan_of(5).steps(0, 8)
    assert sorted(len(draw.rows) for draw in step) == [0, 0, 0, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("num_buckets", [1, 2, 50])
def test_any_number_of_buckets_serves_any_number_of_rows(num_buckets):
    assert sorted(chain(*batches_of(plan_of(3, num_buckets=num_buckets)))) == [0, 1, 2]


def test_buckets_give_equally_many_batches():
    costs = np.array([1.0] * 6 + [2.0] * 3 + [3.0] * 3)
    assert bucket_bounds(costs, 2, BatchBudget(60.0, 3)).tolist() == [1.0, 3.0]
    assert bucket_bounds(costs, 12, BatchBudget(60.0, 3)).tolist() == [1.0, 2.0, 3.0]
    assert bucket_bounds(np.full(9, 3.0), 5, BatchBudget(60.0, 16)).tolist() == [3.0]


@pytest.mark.parametrize(("seconds", "utterances"), [(60.0, 100), (1000.0, 8)])
def test_an_epoch_ends_as_it_began(seconds, utterances):
    """No part of an epoch has only short or only long utterances, whichever of the two limits closes a batch."""
    durations_s = random_durations_s(4000)
    means = [durations_s[rows].mean() for rows in batches_of(plan_of(durations_s, seconds, utterances))]
    fifth = len(means) // 5
    parts = [sum(means[start : start + fifth]) / fifth for start in range(0, 5 * fifth, fifth)]
    assert max(parts) < 1.25 * min(parts)


@pytest.mark.parametrize("world_size", [1, 2])
def test_rows_of_one_utterance_come_in_one_batch(world_size):
    sizes = np.random.default_rng(0).integers(1, 6, 200)
    durations_s = np.repeat(random_durations_s(200), sizes)
    utterances = np.repeat(np.arange(200), sizes)
    batches = batches_of(plan_of(durations_s, units=np.append(0, np.cumsum(sizes))), world_size=world_size)
    assert sorted(chain(*batches)) == list(range(sizes.sum()))
    assert len({(utterances[row], place) for place, rows in enumerate(batches) for row in rows}) == 200
    assert max(len(rows) for rows in batches) <= 16


def test_parts_are_drawn_by_weight_and_used_up_evenly():
    plan = plan_of(1000, parts=[Part(0, 900, 1.0), Part(900, 1000, 1.0)])
    drawn = np.zeros(1000, dtype=int)
    for epoch in range(9):
        rows = list(chain(*batches_of(plan, epoch, 2)))
        assert len(rows) == 1000
        assert sum(row < 900 for row in rows) == 500
        drawn += np.bincount(rows, minlength=1000)
    assert (drawn[:900] == 5).all()  # 9 epochs of 500 draws from 900 rows
    assert (drawn[900:] == 45).all()


def test_speeds_change_what_a_row_counts():
    durations_s = np.append(np.full(899, 9.0), 10.0)
    plan = plan_of(durations_s, seconds=100.0, utterances=100, num_buckets=5, speeds=(0.9, 1.0, 1.1))
    draws = [draw for step in plan.steps(0, 1) for draw in step]
    counts = {speed: sum(draw.speeds.count(speed) for draw in draws) for speed in (0.9, 1.0, 1.1)}
    assert sum(counts.values()) == 900
    assert min(counts.values()) > 240
    for draw in draws:
        longest_s = (durations_s[draw.rows] / draw.speeds).max()
        assert longest_s <= 10.0, "no row becomes longer than the longest is"
        assert len(draw.rows) * longest_s <= 100.0
    again = [draw for step in plan.steps(0, 1) for draw in step]
    assert again == draws
    assert [draw.speeds for draw in draws] != [draw.speeds for step in plan.steps(1, 1) for draw in step]


def test_even_out_halves_the_largest():
    batches = [Draw([1, 2, 3], [1.0] * 3, 0), Draw([4], [1.0], 0), Draw([5, 6], [0.9, 1.1], 0)]
    assert [draw.rows for draw in even_out(batches, 4)] == [[1, 2], [3], [4], [5, 6]]
    assert sorted(row for draw in even_out(batches, 5) for row in draw.rows) == [1, 2, 3, 4, 5, 6]
    assert len(even_out(batches, 5)) == 5
