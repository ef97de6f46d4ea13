"""Manifests, indices and shards that went bad after they were written: a clear error, or everything is still there.

More cases than the default: ``SPEECHLLM_FUZZ_CASES=500 pytest tests/data/test_fuzz_manifests.py``.
"""

import gzip
import io
import json
import logging
import os
import random
import shutil

import numpy as np
import pytest
import soundfile

from speechllm.data import ShardedDataModule, TableDataModule, remote
from speechllm.data.prepared import PreparedDataModule
from speechllm.data.shards import write_shards
from speechllm.errors import UserError
from tests.corpora.must_c import tone
from tests.data.corruption import noise_inside, restored, truncated

CASES = int(os.environ.get("SPEECHLLM_FUZZ_CASES", "50"))

ROWS = 40
"""More than a block of a manifest."""

TASKS = ["asr", "st"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Write three tables over stretches of one recording, prepare them, and return their datamodule."""
    root = tmp_path_factory.mktemp("table")
    soundfile.write(root / "talk.flac", tone(10.0), 16_000)
    for split in ("train", "dev", "test"):
        rows = [
            f"{split}{number},talk.flac,{0.1 * number:.1f},{0.1 + 0.01 * number:.2f},Text {number}.,Satz {number}."
            for number in range(ROWS)
        ]
        text = "\n".join(["id,audio,offset,duration,transcript,translation_de", *rows])
        (root / f"{split}.csv").write_text(f"{text}\n", encoding="utf-8")
    data = TableDataModule(str(root), source="en", tasks=TASKS, num_workers=0, min_duration_s=0.01)
    data.prepare_data()
    return data


@pytest.fixture(scope="module")
def shards(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(table.manifest_dir, str(folder), shard_utterances=15, workers=0)
    return folder


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Give a broken place one try, and do not wait."""
    monkeypatch.setattr(remote.time, "sleep", lambda _: None)


def of_manifests(folder):
    return PreparedDataModule(str(folder), TASKS, num_workers=0, max_val_utterances=None, min_duration_s=0.01)


def of_shards(folder):
    options = {"num_workers": 0, "max_val_utterances": None, "min_duration_s": 0.01, "buffer_shards": 2}
    data = ShardedDataModule(str(folder), tasks=TASKS, **options)
    data.prepare_data()
    return data


def read(data, caplog):
    """Return what each row of each loader says and how long it is, and the rows that are said to be unreadable."""
    found, excused = {}, set()
    for kind, loader in (
        ("train", data.train_dataloader),
        ("dev", data.val_dataloader),
        ("test", data.test_dataloader),
    ):
        caplog.clear()
        for batch in loader():
            for place, name in enumerate(batch.ids):
                length = int(batch.audio_lengths[place])
                samples = batch.audio[place, :length].numpy().tobytes()
                texts = (batch.transcripts[place], batch.translations[place], batch.target_languages[place])
                found[kind, name, batch.tasks[place]] = (*texts, length, samples)
            excused |= {(kind, said.partition(": ")[0]) for said in batch.skipped}
        excused |= {(kind, record.args[0]) for record in caplog.records if "counts as silence" in record.msg}
    return found, excused


def check(damage, path, datamodule, intact, folder, caplog):
    """Damage a file, read everything, and check what comes of it; return whether it was an error."""
    with restored(path):
        damage()
        message = ""
        try:
            found, excused = read(datamodule(folder), caplog)
        except UserError as error:
            message = str(error)
    if message:
        assert str(folder) in message
        return True
    for key, row in intact.items():
        assert found.get(key) == row or key[:2] in excused, f"{key} is {found.get(key, ())[:4]}, and was {row[:4]}"
    assert found.keys() <= intact.keys()
    return False


def ways(path, others, rng):
    """Return a name and a function that damages a file."""
    content = path.read_bytes()

    def flipped():
        at = rng.randrange(len(content))
        return content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]

    contents = {
        "truncated": lambda: truncated(content, rng),
        "noise": lambda: noise_inside(content, rng),
        "flipped": flipped,
        "random": lambda: rng.randbytes(rng.choice([1, 100, 20_000])),
        "empty": lambda: b"",
        "another's": lambda: rng.choice(others).read_bytes(),
    }
    if path.suffix == ".json":
        contents |= {"changed": lambda: changed_json(content, rng)}
    if path.suffix == ".npz":
        contents |= {"changed": lambda: changed_arrays(content, rng)}
    if path.suffix == ".gz":
        contents |= {"changed": lambda: changed_rows(content, rng)}
    name = rng.choice([*contents, "changed", "removed", "folder"])

    def damage():
        if name in contents:
            path.write_bytes(contents[name]())
            return
        path.unlink()
        if name != "removed":
            path.mkdir()

    return name, damage


ODD = (None, 0, -1, 10**30, float("nan"), "", "x", [], {}, [None], {"train": None}, True)


def changed_json(content, rng):
    """Return JSON with some value changed or taken out."""
    found = json.loads(content)
    place = found
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = rng.choice(list(keys))
        if not isinstance(place[key], dict | list) or not place[key] or rng.random() < 0.3:
            break
        place = place[key]
    if rng.random() < 0.3:
        del place[key]
    else:
        place[key] = rng.choice(ODD)
    return json.dumps(found).encode()


def changed_arrays(content, rng):
    """Return an index with one array taken out, or of another shape, type or content."""
    arrays = dict(np.load(io.BytesIO(content)))
    name = rng.choice(list(arrays))
    array = arrays.pop(name)
    changes = [
        lambda: None,
        lambda: array[:-1],
        lambda: np.concatenate([array, array]),
        lambda: array[:, None],
        lambda: array.astype("U8") if array.dtype.kind != "U" else array.astype("S8"),
        lambda: np.zeros(0),
        lambda: np.array(7),
        lambda: array.astype(object).astype("c16" if array.dtype.kind != "U" else "O"),
    ]
    if name in ("ids", "blocks", "sources"):  # of other numbers nobody can see that they are others
        changes += [lambda: array + array.dtype.type(9), lambda: array[::-1] + array.dtype.type(90)]
    change = rng.choice(changes)
    if (new := change()) is not None:
        arrays[name] = new
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def changed_rows(content, rng):
    """Return a manifest of one member with a row taken out, doubled, swapped or odd."""
    rows = gzip.decompress(content).split(b"\n")
    number = rng.randrange(len(rows) - 1)
    change = rng.randrange(4)
    if change == 0:
        del rows[number]
    elif change == 1:
        rows.insert(number, rows[number])
    elif change == 2:
        rows[number], rows[0] = rows[0], rows[number]
    else:
        rows[number] = changed_json(rows[number], rng)
    return gzip.compress(b"\n".join(rows), rng.choice([1, 6, 9]), mtime=0)


@pytest.mark.parametrize("kind", ["manifests", "shards"])
def test_damage_is_named_or_counted(kind, table, request, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    source = table.manifest_dir if kind == "manifests" else request.getfixturevalue("shards")
    datamodule = of_manifests if kind == "manifests" else of_shards
    folder = tmp_path / kind
    shutil.copytree(source, folder)
    intact, excused = read(datamodule(folder), caplog)
    assert len(intact) == 3 * ROWS * len(TASKS)
    assert not excused
    files = sorted(path for path in folder.iterdir() if kind == "shards" or path.name != "corpus.json")
    errors, failures = 0, []
    for seed in range(CASES):
        rng = random.Random(f"{kind} {seed}")
        path = rng.choice(files)
        name, damage = ways(path, [other for other in files if other.suffix == path.suffix], rng)
        try:
            errors += check(damage, path, datamodule, intact, folder, caplog)
        except Exception as error:
            failures.append(f"seed {seed}, {path.name} {name}: {type(error).__name__}: {error}")
    assert not failures, "\n".join(failures)
    assert CASES / 4 < errors < CASES


def test_manifests_are_written_anew_where_their_summary_went_bad(table, caplog):
    intact, _ = read(table, caplog)
    path = table.manifest_dir / "corpus.json"
    content = path.read_bytes()
    rng = random.Random(0)
    for number in range(9):
        path.write_bytes(truncated(content, rng) if number % 3 else changed_json(content, rng))
        table.prepare_data()
        assert read(table, caplog)[0] == intact
        assert json.loads(path.read_bytes())["splits"]["test"]["utterances"] == ROWS
