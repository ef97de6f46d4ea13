"""The journal of an interrupted run: nothing that was written whole is lost, nothing else is taken over."""

import pytest

from speechllm.models.journal import Journal
from tests.evaluation.predicted import predicted

IDENTITY = {"checkpoint": {"path": "a.ckpt", "bytes": 3}, "num_beams": 1}


def written(folder, *ranks, identity=IDENTITY):
    """Write the rows of each rank, as a run that is killed leaves them."""
    for rank, rows in enumerate(ranks):
        journal = Journal(folder, identity)
        if rank == 0:
            journal.take_over()
        journal.open(rank)
        for row in rows:
            journal.append([predicted(row)])
    return folder


def rows_of(folder, identity=IDENTITY):
    found, differences = Journal(folder, identity).take_over()
    return [prediction.row for prediction in found], differences


def test_nothing_there(tmp_path):
    assert rows_of(tmp_path / "none") == ([], [])
    assert not (tmp_path / "none").exists()


def test_what_was_written_is_taken_over(tmp_path):
    """Also by another number of processes, and after a second interruption."""
    written(tmp_path, [4, 0], [3], [])
    found, _ = Journal(tmp_path, IDENTITY).take_over()
    assert found == [predicted(0), predicted(3), predicted(4)]
    assert [path.name for path in tmp_path.iterdir()] == ["0.jsonl"]
    written(tmp_path, [1], [2])
    assert rows_of(tmp_path) == ([0, 1, 2, 3, 4], [])


def test_a_batch_is_on_disk_at_once(tmp_path):
    journal = Journal(tmp_path, IDENTITY)
    journal.open(0)
    journal.append([predicted(0), predicted(1)])
    assert rows_of(tmp_path) == ([0, 1], [])  # nothing was closed


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_a_torn_last_line_is_dropped(tmp_path, cut):
    path = written(tmp_path, [0, 1, 2]) / "0.jsonl"
    *whole, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole) + last[:cut])
    assert rows_of(tmp_path) == ([0, 1], [])
    written(tmp_path, [2])
    assert rows_of(tmp_path) == ([0, 1, 2], [])


@pytest.mark.parametrize("content", [b"", b'{"decoded_by": {"che', b"[]\n", b"\xff\n", b"{}\n"])
def test_a_file_without_its_first_line_is_passed_over(tmp_path, content):
    written(tmp_path, [0], [1])
    (tmp_path / "1.jsonl").write_bytes(content)
    assert rows_of(tmp_path) == ([0], [])


def test_another_identity_is_discarded_and_named(tmp_path):
    written(tmp_path, [0, 1], [2])
    other = {"checkpoint": {"path": "a.ckpt", "bytes": 4}, "num_beams": 5}
    expected = ["checkpoint.bytes (was 3, is 4)", "num_beams (was 1, is 5)"]
    assert rows_of(tmp_path, other) == ([], expected)
    assert rows_of(tmp_path, other) == ([], []), "it is gone"


def test_consolidation_that_was_interrupted(tmp_path):
    """A row that stands in two files counts once."""
    written(tmp_path, [0, 1], [1, 2])
    assert rows_of(tmp_path) == ([0, 1, 2], [])


def test_texts_that_are_hard_to_write(tmp_path):
    hard = predicted(0, text="\ud800 \u2028\n\x00 🎉")
    journal = Journal(tmp_path, IDENTITY)
    journal.open(0)
    journal.append([hard])
    assert Journal(tmp_path, IDENTITY).take_over()[0] == [hard]


def test_remove(tmp_path):
    folder = tmp_path / "journal"
    journal = Journal(folder, IDENTITY)
    journal.open(0)
    journal.close()
    journal.remove()
    assert not folder.exists()
