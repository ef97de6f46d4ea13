"""Files of checkpoints: whole or not there, checked when read, one good one at every moment."""

import errno
import os
import random
import zipfile

import pytest
import torch

from speechllm.errors import UserError
from speechllm.models.resuming import checkpoint_files, last_files
from speechllm.models.resuming.checkpoint_files import AtomicCheckpointIO, damage, write_checkpoint
from speechllm.models.resuming.last_files import LastState, clean, find_last, forget, replace_last
from speechllm.models.resuming.last_files import last_files as list_last

CHECKPOINT = {
    "state_dict": {"weight": torch.arange(35.0).reshape(5, 7)},
    "hyper_parameters": {},
    "global_step": 3,
    "optimizer_states": [],
    "loops": {"fit_loop": {"epoch_progress": {"current": {"processed": 2}}}},
}


def step(number):
    return CHECKPOINT | {"global_step": number}


def same(path):
    read = torch.load(path, weights_only=True)
    return torch.equal(read["state_dict"]["weight"], CHECKPOINT["state_dict"]["weight"]) and read["global_step"] == 3


@pytest.fixture
def path(tmp_path):
    """Return the path of a checkpoint that is written."""
    write_checkpoint(CHECKPOINT, tmp_path / "checkpoints" / "last.ckpt")
    return tmp_path / "checkpoints" / "last.ckpt"


def test_what_is_written_is_read_by_torch_and_by_lightning(path):
    assert damage(path) is None
    assert same(path)
    assert torch.equal(AtomicCheckpointIO().load_checkpoint(path)["state_dict"]["weight"][0], torch.arange(7.0))
    assert torch.load(path, weights_only=True, mmap=True)["global_step"] == 3
    assert zipfile.ZipFile(path).comment.startswith(b"speechllm crc32 ")
    assert [name.name for name in path.parent.iterdir()] == ["last.ckpt"]


def test_tensors_of_many_sizes_are_written_as_they_are(tmp_path):
    """The checksum is taken of what torch hands over, in pieces of any size."""
    tensors = [torch.randn(size) for size in (0, 1, 2, 1000, 70_000)]
    write_checkpoint({"tensors": tensors}, tmp_path / "a.ckpt")
    assert damage(tmp_path / "a.ckpt") is None
    for one, other in zip(tensors, torch.load(tmp_path / "a.ckpt", weights_only=True)["tensors"], strict=True):
        assert torch.equal(one, other)


def test_every_flipped_bit_is_found(path):
    """Those in the name of the checksum itself leave the file without one; its content is held to the archive's."""
    data = path.read_bytes()
    draw = random.Random(0)
    for number, bit in enumerate(draw.sample(range(len(data) * 8), 300)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        other = path.with_name(f"{number}.ckpt")
        other.write_bytes(flipped)
        assert damage(other) or (bit // 8 >= len(data) - 26 and same(other)), bit
        other.unlink()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_what_is_cut_off_is_found(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match=r"last.ckpt' is not a readable checkpoint: it is (empty|cut off)"):
        AtomicCheckpointIO().load_checkpoint(path)


def test_a_file_without_a_checksum_is_held_to_the_archives_own(tmp_path):
    torch.save(CHECKPOINT, tmp_path / "old.ckpt")
    assert damage(tmp_path / "old.ckpt") is None
    data = bytearray((tmp_path / "old.ckpt").read_bytes())
    place = data.index(CHECKPOINT["state_dict"]["weight"].numpy().tobytes())
    data[place + 9] ^= 4
    (tmp_path / "flipped.ckpt").write_bytes(data)
    assert "checksum of" in damage(tmp_path / "flipped.ckpt")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_leaves_the_one_before(path, monkeypatch, number):
    class Full:
        """A file on a disk that takes 500 bytes more."""

        left = 500

        def __init__(self, path):
            self.file = path.open("wb")

        def write(self, data):
            self.left -= len(data)
            if self.left < 0:
                raise OSError(number, os.strerror(number))
            return self.file.write(data)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

    monkeypatch.setattr(checkpoint_files, "open_file", Full)
    problem = "There is no space for the checkpoint" if number == errno.ENOSPC else "cannot be written: .*Input/output"
    with pytest.raises(UserError, match=f"{problem}.*The one before, '.*last.ckpt', is untouched"):
        write_checkpoint(step(4), path)
    assert same(path)
    assert [name.name for name in path.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_at_every_moment_there_is_a_good_one(tmp_path, monkeypatch, keep):
    folder = tmp_path / "checkpoints"
    found = []

    def watched(change):
        def changed(*args):
            found.append(find_last(tmp_path).step)
            change(*args)
            found.append(find_last(tmp_path).step)

        return changed

    write_checkpoint(step(0), folder / "last.ckpt")
    for name in ("replace", "link", "unlink"):
        monkeypatch.setattr(last_files.os, name, watched(getattr(os, name)))
    for number in range(1, 5):
        write_checkpoint(step(number), folder / last_files.NEW)
        replace_last(folder, keep)
        assert found[-1] == number
        assert min(found) >= number - 1
        found.clear()
    assert [find_last(tmp_path).step] == [4]
    assert [torch.load(path, weights_only=True)["global_step"] for path in list_last(folder)] == [4, 3, 2][:keep]


def test_fewer_are_kept_when_the_policy_says_so(tmp_path):
    folder = tmp_path / "checkpoints"
    for number in range(5):
        write_checkpoint(step(number), folder / last_files.NEW)
        replace_last(folder, keep=4 if number < 4 else 2)
    assert sorted(path.name for path in folder.iterdir()) == ["last-1.ckpt", "last.ckpt"]


def test_sharded_checkpoints_which_are_folders_take_turns_too(tmp_path):
    folder = tmp_path / "checkpoints"
    for number in range(4):
        (folder / last_files.NEW).mkdir(parents=True)
        (folder / last_files.NEW / "shard").write_text(str(number))
        replace_last(folder, keep=2)
    assert [(path.name, (path / "shard").read_text()) for path in list_last(folder)] == [
        ("last.ckpt", "3"),
        ("last-1.ckpt", "2"),
    ]


def test_a_checkpoint_of_slurms_requeueing_counts_where_it_is_newer(tmp_path, path):
    write_checkpoint(step(9), tmp_path / "hpc_ckpt_1.ckpt")
    os.utime(tmp_path / "hpc_ckpt_1.ckpt", ns=(0, path.stat().st_mtime_ns + 1))
    assert find_last(tmp_path).step == 9
    os.utime(tmp_path / "hpc_ckpt_1.ckpt", ns=(0, path.stat().st_mtime_ns - 1))
    assert find_last(tmp_path).step == 3


def test_where_no_last_one_is_left_the_best_is_taken(tmp_path, path):
    write_checkpoint(step(2), path.with_name("best.ckpt"))
    assert find_last(tmp_path).step == 3
    path.unlink()
    assert find_last(tmp_path).step == 2
    write_checkpoint({key: CHECKPOINT[key] for key in ("state_dict", "hyper_parameters")}, path)
    with pytest.warns(
        UserWarning, match="holds weights alone, and no state of a run. The run goes on from .*best.ckpt"
    ):
        assert find_last(tmp_path).step == 2


def test_a_run_that_starts_anew_leaves_nothing_to_go_on_from(tmp_path, path):
    """It may be killed before it has written anything, and be requeued."""
    write_checkpoint(step(2), path.with_name("best.ckpt"))
    write_checkpoint(step(1), path.with_name("last-1.ckpt"))
    forget(path.parent)
    assert find_last(tmp_path) is None


def test_when_nothing_is_left_to_train():
    state = LastState(None, step=60, epochs=4)
    assert "step 60 of `trainer.max_steps: 60`" in state.end(60, None)
    assert "epoch 4 of `trainer.max_epochs: 4`" in state.end(-1, 4)
    assert [state.end(61, None), state.end(-1, 5), state.end(-1, -1)] == [""] * 3
    assert "early stopping ended it" in LastState(None, 9, 1, "early stopping").end(60, None)


def test_none_that_can_be_read(tmp_path, path):
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"No last checkpoint in .* can be read: .*it is empty"):
        find_last(tmp_path)


def test_what_was_not_finished_is_cleaned_up(path):
    for name in (".best.ckpt.unfinished", "..last.ckpt.new.unfinished", last_files.NEW):
        (path.parent / name).write_bytes(b"half")
    clean(path.parent)
    assert [name.name for name in path.parent.iterdir()] == ["last.ckpt"]
