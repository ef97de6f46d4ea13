"""Shards: complete or not there, several writers, damage that is found, what killed processes leave behind."""

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from speechllm.feature_cache.folder import SHARDS, CacheSettings, create_folder, read_settings
from speechllm.feature_cache.records import RecordLayout
from speechllm.feature_cache.shards import DamagedError, ShardWriter, host_name, read_index, remove_leftovers
from speechllm.feature_cache.store import FeatureStore, KeyTable

LAYOUT = RecordLayout(4)
SETTINGS = CacheSettings("whisper", {}, 1, {}, dim=4, frame_rate=50.0)


def key(number):
    return number.to_bytes(16, "big")


def frames(number):
    return torch.full((3 + number, 4), float(number))


@pytest.fixture
def folder(tmp_path):
    create_folder(tmp_path, SETTINGS)
    return tmp_path


def write(folder, numbers, **options):
    writer = ShardWriter(folder / SHARDS, LAYOUT, **options)
    for number in numbers:
        writer.add(key(number), 100 * number, frames(number))
        writer.know(b"f" + key(number)[1:], key(number))
        writer.close_if_due()
    writer.close()


def read(store, number):
    place = store.find(key(number))
    values = torch.zeros(place.frames, 4, dtype=torch.bfloat16)
    store.layout.unpack(store.read(place), values)
    return place, values


def test_what_is_written_is_found(folder):
    write(folder, range(10), shard_bytes=100)
    store = FeatureStore(folder)
    assert len(list((folder / SHARDS).glob("*.npz"))) > 2
    assert len(store) == 10
    for number in range(10):
        place, values = read(store, number)
        assert place.samples == 100 * number
        assert torch.equal(values.float(), frames(number))
        assert store.find_file(b"f" + key(number)[1:]) == place
    assert store.find(key(11)) is None
    assert store.find_file(key(3)) is None
    assert store.bytes == sum((3 + number) * 8 for number in range(10))


def test_a_copy_in_another_process_reads_the_folder_itself(folder):
    write(folder, range(3))
    dump = pickle.dumps(FeatureStore(folder))
    assert len(dump) < 1000
    assert torch.equal(read(pickle.loads(dump), 2)[1].float(), frames(2))


def test_keys_that_begin_alike_are_told_apart():
    keys = [bytes(8) + bytes([n]) * 8 for n in range(5)] + [b"z" * 16]
    table = KeyTable(np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16))
    assert [table.find(key) for key in keys] == list(range(6))
    assert table.find(bytes(8) + b"\x09" * 8) is None


def test_a_shard_counts_only_when_its_index_is_there(folder):
    writer = ShardWriter(folder / SHARDS, LAYOUT)
    writer.add(key(1), 100, frames(1))
    assert len(FeatureStore(folder)) == 0
    writer.close()
    assert len(FeatureStore(folder)) == 1
    next((folder / SHARDS).glob("*.npz")).unlink()
    assert len(FeatureStore(folder)) == 0


def test_an_old_shard_is_closed(folder):
    writer = ShardWriter(folder / SHARDS, LAYOUT, shard_s=0.0)
    writer.add(key(1), 100, frames(1))
    writer.close_if_due()
    assert len(FeatureStore(folder)) == 1


def test_files_known_later_may_stand_without_records(folder):
    write(folder, [1])
    writer = ShardWriter(folder / SHARDS, LAYOUT)
    writer.know(b"moved".ljust(16), key(1))
    writer.close()
    store = FeatureStore(folder)
    assert store.find_file(b"moved".ljust(16)) == store.find(key(1))


WRITER = """
import sys, torch
from pathlib import Path
from tests.feature_cache.test_shards import write, LAYOUT, ShardWriter, key, frames, SHARDS
folder, first, last, end = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
write(folder, range(first, last), shard_bytes=200)
if end == "wait":
    writer = ShardWriter(folder / SHARDS, LAYOUT)
    writer.add(key(last), 1, frames(last))
    print("writing", flush=True)
    sys.stdin.read()
"""


def start_writer(folder, first, last, end="leave"):
    command = [sys.executable, "-c", WRITER, str(folder), str(first), str(last), end]
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)


def test_two_processes_write_at_once_and_one_is_killed(folder):
    """The records of both are there, and of the killed one those of finished shards; its rest is removed later."""
    stays, dies = start_writer(folder, 0, 30), start_writer(folder, 20, 50, "wait")
    assert dies.stdout.readline() == "writing\n"
    assert remove_leftovers(folder / SHARDS) == 0, "its process still runs"
    os.kill(dies.pid, signal.SIGKILL)
    dies.wait()
    assert stays.wait() == 0
    store = FeatureStore(folder)
    assert not store.damaged
    for number in range(50):
        assert torch.equal(read(store, number)[1].float(), frames(number))
    assert store.find(key(50)) is None
    assert remove_leftovers(folder / SHARDS) == 1
    assert not list((folder / SHARDS).glob("*.part"))
    write(folder, [50])
    assert len(FeatureStore(folder)) == len(store) + 1


def test_leftovers_of_other_machines_stay(folder):
    (folder / SHARDS / "elsewhere-1-ab-00000.bin.part").touch()
    (folder / SHARDS / f"{host_name()}-{os.getpid()}-ab-00000.bin.part").touch()
    assert remove_leftovers(folder / SHARDS) == 0


def test_a_record_that_changed_is_found_and_set_aside(folder):
    write(folder, [1, 2])
    write(folder, [3])
    damaged = next(path for path in (folder / SHARDS).glob("*.bin") if path.stat().st_size > 48)
    content = bytearray(damaged.read_bytes())
    content[40] ^= 1
    damaged.write_bytes(content)
    store = FeatureStore(folder)
    assert torch.equal(read(store, 1)[1].float(), frames(1))
    with pytest.raises(DamagedError, match=rf"{damaged.name}' is damaged at 32"):
        read(store, 2)
    assert store.verify() == [damaged.stem]
    store.set_aside(store.verify())
    assert len(store) == 1
    assert store.find(key(1)) is None
    assert read(store, 3)[0].samples == 300


@pytest.mark.parametrize(
    ("suffix", "size", "why"), [(".bin", 20, "it has 20 bytes, not 32"), (".npz", 90, "its index")]
)
def test_a_file_cut_short_is_named_and_left_out(folder, suffix, size, why, caplog):
    write(folder, [1])
    write(folder, [2])
    path = next(path.with_suffix(suffix) for path in (folder / SHARDS).glob("*.bin") if path.stat().st_size == 32)
    os.truncate(path, size)
    with pytest.raises(DamagedError, match=why):
        read_index(path.with_suffix(".npz"))
    store = FeatureStore(folder)
    assert list(store.damaged) == [path.stem]
    assert path.stem in caplog.text
    assert len(store) == 1


def test_the_first_description_stays(folder):
    other = CacheSettings("hubert", {}, 1, {}, dim=8, frame_rate=50.0)
    assert create_folder(folder, other) == SETTINGS == read_settings(folder)
    assert not list(folder.glob("*.part"))
