"""Every corpus, from its files on disk to a batch and back to its texts: found by its file, tested unasked."""

import importlib
import json
import re
from pathlib import Path

import pytest

from speechllm.batch import TASKS
from speechllm.commands.prepare import CORPORA_FOLDER, corpora, prepare
from speechllm.data import datamodules
from speechllm.data.manifest import read_manifest
from tests.corpora import FakeCorpus

OWN = {"synthetic"}
"""Corpora that are written and not read: tests/data/corpora/test_synthetic.py."""

NAMES = sorted(set(corpora()) - OWN)


@pytest.fixture(scope="module", params=NAMES)
def fake(request, tmp_path_factory) -> tuple[type, FakeCorpus]:
    """Return the datamodule's class and a fake of the corpus on disk."""
    module = importlib.import_module(f"tests.corpora.{request.param}")
    root = tmp_path_factory.mktemp(request.param)
    written = module.write_fake(root)
    names = {found.__module__.rpartition(".")[2]: found for found in datamodules().values()}
    return names[request.param], written


def module_of(fake, **options):
    datamodule_class, written = fake
    options = {"num_workers": 0, "max_val_utterances": None, "max_duration_s": 60.0} | written.options | options
    data = datamodule_class(**options)
    data.prepare_data()
    return data


def test_there_are_many():
    assert len(NAMES) >= 14
    assert {path.stem for path in CORPORA_FOLDER.glob("*.py")} - {"__init__"} == set(corpora())


def test_manifests_hold_what_is_on_disk(fake):
    data = module_of(fake)
    _, written = fake
    summary = json.loads((data.manifest_dir / "corpus.json").read_text(encoding="utf-8"))
    assert sorted(summary["splits"]) == sorted(written.splits)
    for split, expected in written.splits.items():
        found = list(read_manifest(data.manifest_dir, split))
        assert [utterance.id for utterance in found] == [utterance.id for utterance in expected]
        for utterance, wanted in zip(found, expected, strict=True):
            texts = (utterance.source_language, utterance.transcript, utterance.translations)
            assert texts == (wanted.source_language, wanted.transcript, wanted.translations), wanted.id
            assert utterance.corpus.startswith(data.corpus.name)
            assert Path(utterance.audio).is_absolute()
        assert summary["splits"][split]["rejected"] == {}
        assert summary["splits"][split]["utterances"] == len(expected)


def test_batches_hold_the_audio_and_texts_of_their_rows(fake):
    data = module_of(fake)
    _, written = fake
    loaders = {"train": [data.train_dataloader], "dev": [data.val_dataloader]} if "train" in written.splits else {}
    loaders["test"] = [data.test_dataloader]
    for kind, (loader,) in loaders.items():
        if kind == "dev" and "dev" not in written.splits:
            continue
        splits = data.test_splits if kind == "test" else [kind]
        expected = {utterance.id: utterance for split in splits for utterance in written.splits[split]}
        seen = set()
        for batch in loader():
            for place, name in enumerate(batch.ids):
                wanted = expected[name]
                assert batch.audio_lengths[place] == wanted.samples, name
                assert batch.transcripts[place] == wanted.transcript
                assert batch.source_languages[place] == wanted.source_language
                if batch.tasks[place] == "asr":
                    assert batch.target_languages[place] == wanted.source_language
                else:
                    assert batch.translations[place] == wanted.translations[batch.target_languages[place]]
                seen.add(name)
            assert not batch.skipped
        assert seen == {name for name, utterance in expected.items() if has_row(data, utterance, kind)}


def has_row(data, utterance, kind):
    """Return whether any task can be done on an utterance; in training it must also have the texts."""
    transcribed = bool(utterance.transcript) or kind != "train"
    translated = any(text or kind != "train" for text in utterance.translations.values())
    possible = {"asr": transcribed, "st": translated, "asr+st": transcribed and translated}
    return any(possible[task] for task in data.tasks if task in TASKS)


def test_manifests_are_current_until_a_file_changes(fake, capsys):
    data = module_of(fake)
    manifest = next(data.manifest_dir.glob("*.jsonl.gz"))
    before = manifest.stat().st_mtime_ns
    data.prepare_data()
    assert manifest.stat().st_mtime_ns == before
    assert data.corpus.files(), "a change of the corpus would never be seen"
    assert all(path.is_file() for path in data.corpus.files())


def test_prepare_prints_what_there_is(fake, tmp_path, capsys):
    datamodule_class, written = fake
    name = datamodule_class.__module__.rpartition(".")[2]
    options = {key: value for key, value in written.options.items() if key not in ("root", "tasks", "test_splits")}
    prepare(name, Path(written.options["root"]), tmp_path / "out", **options)
    printed = capsys.readouterr().out
    for split, expected in written.splits.items():
        assert re.search(rf"^{re.escape(split)} +{len(expected)} ", printed, re.MULTILINE), printed


def test_an_absent_corpus_is_named(fake, tmp_path):
    datamodule_class, written = fake
    with pytest.raises(Exception, match="nowhere") as caught:
        datamodule_class(**written.options | {"root": str(tmp_path / "nowhere")}).prepare_data()
    assert type(caught.value).__name__ == "UserError"
