"""Shards: what is written is what is read, from disk and from a store that fails, by several processes and workers."""

import io
import json
import shutil
import tarfile
from itertools import chain

import numpy as np
import pytest
import soundfile
import torch

from speechllm.data import MixtureDataModule, MustCDataModule, ShardedDataModule, TableDataModule, remote, shard_reader
from speechllm.data.epoch_plan import BatchBudget, Part
from speechllm.data.shard_plan import ShardPlan
from speechllm.data.shards import write_shards
from speechllm.errors import UserError
from tests.corpora.must_c import write_must_c
from tests.data.synthetic_rows import random_durations_s
from tests.loopback_store import served

ROWS = 23


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Write clips with tables of train, dev and test; the third clip breaks off after its header."""
    root = tmp_path_factory.mktemp("table")
    rows = ["audio,transcript,translation_de"]
    for number in range(ROWS):
        samples = np.random.default_rng(number).uniform(-0.5, 0.5, 8_000 + 400 * number)
        soundfile.write(root / f"{number}.flac", samples, 16_000, subtype="PCM_16")
        rows.append(f"{number}.flac,Number {number}\u2028,Nummer {number} „ü“")
    (root / "2.flac").write_bytes((root / "2.flac").read_bytes()[:300])
    for split in ("train", "dev", "test"):
        (root / f"{split}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    data = TableDataModule(str(root), source="en", tasks=["asr", "st"], num_workers=0)
    data.prepare_data()
    return data


@pytest.fixture(scope="module")
def shards(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(table.manifest_dir, str(folder), shard_utterances=4, workers=0)
    return folder


def sharded(root, **options):
    data = ShardedDataModule(str(root), **({"tasks": ["asr", "st"], "num_workers": 0, "buffer_shards": 2} | options))
    data.prepare_data()
    return data


def by_row(loader):
    """Return audio and texts by id and task."""
    return {
        (batch.ids[place], batch.tasks[place]): (
            batch.audio[place, : batch.audio_lengths[place]],
            batch.transcripts[place],
            batch.translations[place],
            batch.rows[place],
        )
        for batch in loader
        for place in range(len(batch))
    }


@pytest.mark.parametrize("loader", ["train_dataloader", "val_dataloader", "test_dataloader"])
def test_batches_are_those_of_the_corpus(table, shards, loader):
    expected, found = by_row(getattr(table, loader)()), by_row(getattr(sharded(shards), loader)())
    assert found.keys() == expected.keys()
    assert len(found) == 2 * (ROWS - 1 if loader == "train_dataloader" else ROWS)
    for key, (audio, transcript, translation, row) in found.items():
        assert torch.equal(audio, expected[key][0]), "16-bit audio is the same bit for bit"
        assert (transcript, translation) == expected[key][1:3]
        if loader != "train_dataloader":
            assert row == expected[key][3], "splits that are scored keep their order"


def test_a_test_clip_that_cannot_be_read_stays_without_audio(shards):
    audio, transcript, _, row = by_row(sharded(shards).test_dataloader())["2.flac", "asr"]
    assert (len(audio), transcript, row) == (0, "Number 2\u2028", 4)
    summary = json.loads((shards / "corpus.json").read_text(encoding="utf-8"))
    assert summary["splits"]["test"]["utterances"] == ROWS
    assert summary["splits"]["train"]["utterances"] == ROWS - 1


def test_shards_are_tars_that_others_can_read(shards):
    with tarfile.open(shards / "test-000001.tar") as tar:
        names = tar.getnames()
        assert names == [f"{row:09d}.{end}" for row in range(4, 8) for end in ("flac", "json")]
        samples, rate = soundfile.read(io.BytesIO(tar.extractfile(names[0]).read()))
        assert (rate, len(samples)) == (16_000, 8_000 + 400 * 4)
        assert json.load(tar.extractfile(names[1]))["supervisions"][0]["text"] == "Number 4\u2028"


def test_a_clip_that_is_not_the_one_of_its_manifest_is_not_read(shards, tmp_path):
    folder = tmp_path / "shards"
    shutil.copytree(shards, folder)
    first, second = (folder / f"train-{number:06d}.tar" for number in (1, 2))
    first.rename(folder / "other.tar")
    second.rename(first)
    (folder / "other.tar").rename(second)
    skipped = [said for batch in sharded(folder).train_dataloader() for said in batch.skipped]
    assert len(skipped) == 2 * 2 * 4
    assert any(".tar#512+" in said and "is not the clip of its manifest" in said for said in skipped)


def test_a_shard_that_is_cut_off_on_disk_is_not_waited_for(shards, tmp_path):
    folder = tmp_path / "shards"
    shutil.copytree(shards, folder)
    shard = folder / "test-000003.tar"
    shard.write_bytes(shard.read_bytes()[:2_000])
    with pytest.raises(UserError, match=r"test-000003\.tar' ends before byte \d+\. Write it anew"):
        list(sharded(folder).test_dataloader())


def test_rows_of_train_are_shuffled_among_shards(shards):
    data = sharded(shards)
    rows = data.train_rows().rows
    ids = [int(rows[number].utterance.id.removesuffix(".flac")) for number in range(0, len(rows), 2)]
    assert sorted(ids) == [number for number in range(ROWS) if number != 2]
    assert ids != sorted(ids)


def test_a_second_call_goes_on_where_the_first_stopped(table, tmp_path, monkeypatch):
    from speechllm.data import shards as module

    written = []
    monkeypatch.setattr(module, "write_shard", lambda job: written.append(job.file) or write(job))
    write = __import__("speechllm.data.shard_writing", fromlist=["write_shard"]).write_shard
    write_shards(table.manifest_dir, str(tmp_path), 10, workers=0)
    assert len(written) == 9
    (tmp_path / "train-000001.json").unlink()
    written.clear()
    first = (tmp_path / "train.jsonl.gz").read_bytes()
    write_shards(table.manifest_dir, str(tmp_path), 10, workers=0)
    assert written == ["train-000001.tar"]
    assert (tmp_path / "train.jsonl.gz").read_bytes() == first
    written.clear()
    write_shards(table.manifest_dir, str(tmp_path), 9, workers=0)
    assert len(written) == 9, "shards of other rows are written anew"


def test_workers_write_the_same(table, shards, tmp_path):
    write_shards(table.manifest_dir, str(tmp_path), 4, workers=2)
    for path in shards.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.fixture
def patient(monkeypatch):
    """Wait no second between tries, and ask for small pieces."""
    monkeypatch.setattr(shard_reader, "location", lambda url: remote.Location(url, wait_s=0.001))
    monkeypatch.setattr(remote, "PIECE_BYTES", 20_000)


@pytest.mark.loopback
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_store_that_fails_now_and_then_gives_every_row_once(table, shards, tmp_path, patient, num_workers):
    with served(shards) as store:
        data = sharded(store.url, cache_dir=str(tmp_path), num_workers=num_workers)
        store.every = 4
        expected, found = by_row(table.train_dataloader()), by_row(data.train_dataloader())
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key][0], expected[key][0]) for key in found)
        assert by_row(data.test_dataloader()).keys() == by_row(table.test_dataloader()).keys()


@pytest.mark.loopback
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_shard_that_is_gone_ends_the_run_with_its_name(shards, tmp_path, patient, num_workers):
    with served(shards) as store:
        data = sharded(store.url, cache_dir=str(tmp_path), num_workers=num_workers)
        loader = data.train_dataloader()
        store.folder = tmp_path
        with pytest.raises(UserError, match=r"train-00000\d.tar' is not there"):
            list(loader)


def test_targets_of_talks_are_transcribed_once_and_exclusions_travel(tmp_path):
    data = MustCDataModule(str(write_must_c(tmp_path / "c", ("de", "fr"))), targets=["de", "fr"], tasks=["asr", "st"])
    data.prepare_data()
    listed = data.train_rows().rows[0].utterance.id
    (data.manifest_dir / "exclude.tsv").write_text(f"split\tid\treason\ntrain\t{listed}\tsilent\n", encoding="utf-8")
    write_shards(data.manifest_dir, str(tmp_path / "shards"), 4, workers=0)
    found = sharded(tmp_path / "shards", test_splits=["tst-COMMON"])
    assert len(found.eval_rows("test")) == len(data.eval_rows("test")) == 15
    assert len(found.train_rows().rows) == len(data.train_rows().rows)
    assert found.left_out["excluded by the list"] == data.left_out["excluded by the list"] > 0


@pytest.mark.loopback
def test_manifests_of_remote_shards_are_fetched_once(shards, tmp_path):
    with served(shards) as store:
        data = sharded(store.url, cache_dir=str(tmp_path))
        store.requests.clear()
        data.prepare_data()
        assert {path for _, path, _ in store.requests} == {"/corpus.json"}
        (data.manifest_dir / "corpus.json").write_text("{}")
        data.prepare_data()
        assert "/train.jsonl.gz" in {path for _, path, _ in store.requests}
    with served(tmp_path) as empty, pytest.raises(UserError, match=r"corpus.json' is not there"):
        ShardedDataModule(empty.url).prepare_data()


def test_a_prepared_corpus_without_shards(table):
    with pytest.raises(UserError, match="manifests without shards"):
        ShardedDataModule(str(table.manifest_dir)).prepare_data()


def shard_plan(rows=600, shard=20, buffer_shards=3, **options):
    durations_s = random_durations_s(rows)
    starts = np.append(np.arange(0, rows, shard), rows)
    return ShardPlan(durations_s, BatchBudget(60.0, 8), 5, 1, shards=starts, buffer_shards=buffer_shards, **options)


@pytest.mark.parametrize(("world_size", "workers"), [(1, 1), (1, 4), (2, 2), (3, 5), (30, 1), (7, 1)])
def test_processes_and_workers_read_shards_of_their_own(world_size, workers):
    plan = shard_plan()
    steps = plan.steps(2, world_size, workers)
    assert sorted(row for step in steps for draw in step for row in draw.rows) == list(range(600))
    assert all(len(step) == world_size for step in steps)
    held = {}
    for number, step in enumerate(steps):
        for rank, draw in enumerate(step):
            for row in draw.rows:
                held.setdefault(row // 20, set()).add((rank, number % workers))
    assert all(len(readers) == 1 for readers in held.values())
    assert plan.steps(2, world_size, workers) == steps
    assert plan.steps(3, world_size, workers) != steps


def test_a_worker_holds_few_shards_at_a_time():
    (order,) = [[draw.rows for (draw,) in shard_plan().steps(0, 1)]]
    windows = [[row // 20 for row in chain(*order[start : start + 1])] for start in range(len(order))]
    last = {shard: max(place for place, window in enumerate(windows) if shard in window) for shard in range(30)}
    first = {shard: min(place for place, window in enumerate(windows) if shard in window) for shard in range(30)}
    for place in range(len(order)):
        assert sum(first[shard] <= place <= last[shard] for shard in range(30)) <= 3


def test_batches_from_shards_keep_their_budget_and_pad_little():
    plan = shard_plan(6_000, 500, 4)
    draws = [draw for (draw,) in plan.steps(0, 1)]
    padded_s = [len(draw.rows) * plan.durations_s[draw.rows].max() for draw in draws]
    assert max(padded_s) <= 60.0
    assert max(len(draw.rows) for draw in draws) == 8
    assert plan.durations_s.sum() / sum(padded_s) > 0.94


def test_more_processes_than_shards():
    with pytest.raises(UserError, match="31 processes cannot share 30 shards out"):
        shard_plan().steps(0, 31)


def test_weighted_parts_take_shards_in_turn():
    plan = shard_plan(parts=[Part(0, 400, 1.0), Part(400, 600, 3.0)])
    drawn = np.zeros(600, dtype=int)
    for epoch in range(4):
        rows = [row for step in plan.steps(epoch, 1) for draw in step for row in draw.rows]
        assert sum(row < 400 for row in rows) in range(140, 170)
        drawn += np.bincount(rows, minlength=600)
    assert (drawn[:400] >= 1).all()
    assert drawn[400:].max() - drawn[400:].min() <= 1


def test_a_mixture_of_shards_and_files(table, shards):
    mixture = MixtureDataModule([sharded(shards), table], num_workers=0, max_utterances=4, buffer_shards=2)
    mixture.setup("test")
    found = list(mixture.train_dataloader())
    seen = sorted(chain(*(batch.rows for batch in found)))
    assert seen == [row for row in range(2 * (2 * ROWS - 1)) if row not in (48, 49)], "all but the clip that is broken"
    assert sum(len(batch) for batch in mixture.test_dataloader()) == 4 * ROWS


def test_draws_go_on_where_a_run_of_shards_stopped(shards):
    from speechllm.data.sampling import TrainingSampler

    plan = shard_plan()
    sampler = TrainingSampler(plan, 0, 2, 3, lambda: 0)
    other = [list(TrainingSampler(plan, rank, 2, 3)) for rank in range(2)]
    sampler.trained = lambda: 7
    state = sampler.state()
    again = [TrainingSampler(plan, rank, 2, workers=1) for rank in range(2)]
    for rank, resumed in enumerate(again):
        assert resumed.resume(state)
        assert list(resumed) == other[rank][7:]
