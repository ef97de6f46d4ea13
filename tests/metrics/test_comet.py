"""The metric COMET: its figure, what it marks, and mistakes that are found before anything is decoded."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch

from speechllm.errors import UserError
from speechllm.metrics.base import Sample
from speechllm.metrics.comet import Comet
from speechllm.metrics.comet_checkpoint import find_checkpoint, fingerprint, read_settings
from speechllm.metrics.comet_native import load_model
from tests.metrics.comet_twin import score_distance, write_comet

SAMPLES = [
    Sample("Guten Tag!", "Schönen Tag!", "Good day!"),
    Sample("", "Nein.", "No."),
    Sample("Was?", "", "What?"),
    Sample("Wo ist er?", "Wo ist er?", " "),
]


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    return write_comet(tmp_path_factory.mktemp("comet"))


@pytest.mark.filterwarnings("ignore:comet")
def test_the_figure_is_the_mean_of_scored_segments(twin):
    metric = Comet("de", model=str(twin))
    statistics = metric.statistics(SAMPLES)
    assert statistics[:, 1].tolist() == [1, 1, 0, 1]
    assert metric.scored(statistics).tolist() == [True, True, False, True]
    assert not statistics[2].any()
    assert metric.score(SAMPLES) == {"comet_tiny-comet": pytest.approx(100 * statistics[[0, 1, 3], 0].mean())}
    assert metric.figures[0].unit == "points"
    assert metric.figures[0].higher_is_better


def test_an_empty_source_is_scored_marked_and_counted(twin):
    metric = Comet("de", model=str(twin))
    with pytest.warns(UserWarning, match=r"comet_tiny-comet \('de'\): 1 of 3 utterances have no transcript"):
        statistics = metric.statistics(SAMPLES)
    assert statistics[:, 2].tolist() == [0, 0, 0, 1]
    assert statistics[3, 0] != 0


def test_source_hypothesis_and_reference_keep_their_roles(twin, monkeypatch):
    metric = Comet("de", model=str(twin))
    seen = []
    monkeypatch.setattr(metric._backend, "score", lambda segments: seen.extend(segments) or [0.0])
    metric.statistics([Sample(hypothesis="h", reference="r", source="s")])
    assert seen == [("s", "h", "r")]


def test_a_score_worked_by_hand(tmp_path):
    """The head is minus 0.05 times the distance to the reference, through two tanh; no distance gives 0."""
    metric = Comet("de", model=str(write_comet(tmp_path, score_distance)))
    same, other = metric.statistics([Sample("ja", "ja", "yes"), Sample("nein", "ja", "yes")])[:, 0]
    assert same == 0
    model = load_model(metric._checkpoint, "cpu")
    with torch.inference_mode():
        vectors = [model._encode([model.tokenizer.encode(text).ids])[0] for text in ("nein", "ja")]
    distance = (vectors[0] - vectors[1]).abs().sum().item()
    assert other == pytest.approx(np.tanh(np.tanh(-0.05 * distance)), abs=1e-6)
    assert other < -0.05


def test_weights_that_give_no_numbers_are_refused(tmp_path):
    folder = write_comet(tmp_path, lambda state: state["estimator.ff.6.bias"].fill_(float("nan")))
    with pytest.raises(UserError, match=r"2 of 2 scores of the COMET checkpoint 'tiny-comet' are no numbers"):
        Comet("de", model=str(folder)).statistics(SAMPLES[:2])


def test_halves_of_characters_are_scored(twin):
    """Byte-level LLMs write them; no tokenizer takes them."""
    statistics = Comet("de", model=str(twin)).statistics([Sample("Gut\ud83d", "Gut", "Good")])
    assert np.isfinite(statistics).all()


def test_signature(twin):
    fields = dict(field.split(":") for field in Comet("de", model=str(twin)).signature().split("|")[1:])
    assert fields.keys() == {"model", "weights", "backend", "source", "transformers", "torch"}
    assert (fields["model"], fields["backend"]) == ("tiny-comet", "native")
    assert fields["source"] == "reference_transcript"
    assert fields["weights"] == fingerprint(twin / "checkpoints" / "model.ckpt")


def test_a_name_with_spaces_is_one_word(twin, tmp_path):
    shutil.copytree(twin.parent, tmp_path / "my models")
    (tmp_path / "my models" / "tiny-comet").rename(tmp_path / "my models" / "my comet")
    metric = Comet("de", model=str(tmp_path / "my models" / "my comet"))
    assert metric.figures[0].name == "comet_my_comet"
    assert "model:my_comet|" in metric.signature()


def test_a_fingerprint_tells_weights_apart(twin, tmp_path):
    copy, other = write_comet(tmp_path / "a"), write_comet(tmp_path / "b", lambda state: state.popitem())
    renamed = tmp_path / "renamed.ckpt"
    renamed.write_bytes((twin / "checkpoints" / "model.ckpt").read_bytes())
    prints = [fingerprint(path / "checkpoints" / "model.ckpt") for path in (twin, copy, other)]
    assert prints[0] == prints[1] == fingerprint(renamed)
    assert prints[2] != prints[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "nativ"}, r"Unknown COMET back end 'nativ'\. Did you mean 'native'\? Known: native, unbabel"),
        ({"batch_size": 0}, "`batch_size` of COMET must be at least 1, but is 0"),
        ({"device": "tpu"}, "`device` of COMET must be auto, cpu, cuda"),
        ({"model": "./models/comet"}, r"There is no COMET checkpoint '\./models/comet'\. Give a folder, or a name"),
        ({"encoder": "no/such/folder"}, r"There is no COMET encoder 'no/such/folder'\. Give a folder, or a name"),
    ],
)
def test_wrong_options(options, message, twin):
    with pytest.raises(UserError, match=message):
        Comet("de", **{"model": str(twin), **options})


def test_a_folder_without_its_files(twin, tmp_path):
    with pytest.raises(UserError, match=r"has no hparams\.yaml and no checkpoints/model\.ckpt\. Give the folder that"):
        Comet("de", model=str(tmp_path))
    with pytest.raises(UserError, match=r"The COMET encoder '.*' has no config\.json and no tokenizer\.json"):
        Comet("de", model=str(twin), encoder=str(tmp_path))


def test_another_class_is_refused(tmp_path):
    folder = write_comet(tmp_path, class_identifier="unified_metric")
    with pytest.raises(UserError, match=r"tiny-comet is a COMET checkpoint of the class 'unified_metric'"):
        Comet("de", model=str(folder))


def test_the_encoder_is_the_one_that_the_settings_name_or_the_one_given(twin, tmp_path):
    """Beside the checkpoint, inside it, or elsewhere; a name that is nowhere is looked up on the hub."""
    score = Comet("de", model=str(twin)).score(SAMPLES[:2])
    shutil.copytree(twin, tmp_path / "tiny-comet")
    with pytest.raises(UserError, match=r"names the encoder 'xlmr'.*'xlmr' is no folder.*is given by `encoder`"):
        Comet("de", model=str(tmp_path / "tiny-comet"))
    given = Comet("de", model=str(tmp_path / "tiny-comet"), encoder=str(twin.parent / "xlmr"))
    assert given.score(SAMPLES[:2]) == score
    shutil.copytree(twin.parent / "xlmr", tmp_path / "tiny-comet" / "xlmr")
    assert Comet("de", model=str(tmp_path / "tiny-comet")).score(SAMPLES[:2]) == score


def test_a_name_that_is_not_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    message = (
        r"The COMET checkpoint 'Unbabel/wmt22-comet-da' is no folder, and hparams\.yaml is neither in the Hugging Face "
        r"cache of this machine nor can it be downloaded: .*run `hf download Unbabel/wmt22-comet-da` where there is a"
    )
    with pytest.raises(UserError, match=message):
        Comet("de")


def test_a_name_in_the_cache(twin, tmp_path, monkeypatch):
    """The default model has the plain name; neither it nor its encoder is asked of the network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for repository, source in (("Unbabel--wmt22-comet-da", twin), ("xlmr", twin.parent / "xlmr")):
        folder = tmp_path / f"models--{repository}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("0123abcd")
        shutil.copytree(source, folder / "snapshots" / "0123abcd")
    metric = Comet("de")
    assert metric.figures[0].name == "comet"
    assert metric.signature().startswith("comet|model:Unbabel/wmt22-comet-da|weights:")
    expected = Comet("de", model=str(twin)).score(SAMPLES[:2])["comet_tiny-comet"]
    assert metric.score(SAMPLES[:2]) == {"comet": expected}


def test_settings_are_plain_data(tmp_path):
    """Tags of Python are read as what they stand before, and run nothing."""
    path = tmp_path / "hparams.yaml"
    path.write_text(
        "class_identifier: regression_metric\n"
        "hidden_sizes: !!python/tuple [3072, 1024]\n"
        f"train_data: !!python/object/apply:os.mkdir ['{tmp_path / 'executed'}']\n"
        "validation_data: !!python/object:argparse.Namespace {a: 1}\n"
        "loss: !custom mse\n"
    )
    settings = read_settings(path)
    assert settings["hidden_sizes"] == [3072, 1024]
    assert settings["validation_data"] == {"a": 1}
    assert settings["loss"] == "mse"
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(("text", "message"), [("a: [", "cannot be read"), ("a: 1", "name a `class_identifier`")])
def test_settings_that_are_none(text, message, twin, tmp_path):
    shutil.copytree(twin.parent, tmp_path / "copy")
    path = tmp_path / "copy" / "tiny-comet" / "hparams.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        find_checkpoint(str(path.parent))
    assert str(path) in str(caught.value)


def test_a_metric_is_built_without_torch(twin):
    """What can go wrong is looked at before a long run, and costs it nothing."""
    code = (
        "import sys; from speechllm.metrics.comet import Comet; "
        f"Comet('de', model={str(twin)!r}).signature(); assert not {{'torch', 'transformers'}} & set(sys.modules)"
    )
    repository = str(Path(__file__).resolve().parents[2])
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": repository}, check=True)
