"""The back end that runs unbabel-comet: what it says to the environment, and the environment itself where it is."""

import json
import os
import sys

import numpy as np
import pytest
import torch

from speechllm.errors import UserError
from speechllm.metrics.base import Sample
from speechllm.metrics.comet import Comet
from speechllm.metrics.comet_checkpoint import find_checkpoint
from speechllm.metrics.comet_environment import RUNNER, environment_folder, installed_versions, marker
from speechllm.metrics.comet_unbabel import UnbabelComet
from tests.metrics.comet_twin import write_comet

SEGMENTS = [
    ("Good day!", "Guten Tag!\n", "Schönen\u2028Tag!"),
    ("No.", "", "Nein."),
    ("a " * 60, "b c " * 40, "Das ist viel länger als der Encoder an Zeichen nimmt, und noch mehr."),
    ("", "Ohne Quelle", "Ohne eine Quelle"),
]

STAND_IN = """#!{python}
import json, os, sys
assert sys.argv[1:3] == ["-I", {runner!r}], sys.argv
if sys.argv[3] == "versions":
    print(json.dumps({{"unbabel-comet": "2.2.7", "transformers": "4.57.6", "torch": "2.13.0"}}))
    sys.exit()
assert sys.argv[3] == "score"
request = json.load(open(sys.argv[4]))
rows = [json.loads(line) for line in open(request.pop("segments"), newline="\\n")]
json.dump({{"request": request, "rows": rows, "variables": dict(os.environ)}}, open({seen!r}, "w"))
print("Predicting 100%", file=sys.stderr)
{ending}
json.dump({{"scores": [len(row["mt"]) for row in rows]}}, open(sys.argv[5], "w"))
"""
"""Stands for the Python of the environment."""


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    return write_comet(tmp_path_factory.mktemp("comet"))


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Return a function that puts a stand-in in the place of the environment's Python."""
    installed_versions.cache_clear()

    def install(ending=""):
        seen = tmp_path / "seen.json"
        path = tmp_path / "python"
        path.write_text(STAND_IN.format(python=sys.executable, runner=str(RUNNER), seen=str(seen), ending=ending))
        path.chmod(0o755)
        monkeypatch.setenv("SPEECHLLM_COMET_PYTHON", str(path))
        return seen

    yield install
    installed_versions.cache_clear()


def test_what_the_environment_is_given_and_answers(stand_in, twin, monkeypatch, capsys):
    seen = stand_in()
    for name, value in (
        ("RANK", "3"),
        ("WORLD_SIZE", "4"),
        ("SLURM_NTASKS", "4"),
        ("MASTER_PORT", "1"),
        ("KEPT", "yes"),
    ):
        monkeypatch.setenv(name, value)
    scorer = UnbabelComet(find_checkpoint(str(twin)), 8, "cpu")
    assert scorer.score(SEGMENTS) == [len(hypothesis) for _, hypothesis, _ in SEGMENTS]
    given = json.loads(seen.read_text())
    assert given["rows"] == [dict(zip(("src", "mt", "ref"), segment, strict=True)) for segment in SEGMENTS]
    assert given["request"] == {
        "checkpoint": str(twin),
        "encoder": str(twin.parent / "xlmr"),
        "batch_size": 8,
        "gpus": 0,
    }
    assert given["variables"]["KEPT"] == "yes"
    assert given["variables"]["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"
    assert not {"RANK", "WORLD_SIZE", "SLURM_NTASKS", "MASTER_PORT"} & given["variables"].keys()
    assert capsys.readouterr().err == "Predicting 100%\n"


def test_devices(stand_in, twin, monkeypatch):
    seen = stand_in()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device, gpus, visible in (("auto", None, None), ("cuda", 1, None), ("cuda:1", 1, "1")):
        UnbabelComet(find_checkpoint(str(twin)), 8, device).score(SEGMENTS)
        given = json.loads(seen.read_text())
        assert given["request"]["gpus"] == gpus
        assert given["variables"].get("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES")) == (
            visible or os.environ.get("CUDA_VISIBLE_DEVICES")
        )


def test_as_a_metric(stand_in, twin):
    stand_in()
    metric = Comet("de", model=str(twin), backend="unbabel")
    assert metric.score([Sample("abc", "r", "s"), Sample("a", "r", "s")]) == {"comet_tiny-comet": 200}
    assert metric.signature().endswith(
        "|backend:unbabel|source:reference_transcript|unbabel-comet:2.2.7|transformers:4.57.6|torch:2.13.0"
    )


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        ("sys.exit('RuntimeError: the weights do not fit')", r"(?s)exit status 1.*Predicting.*the weights do not fit$"),
        ("sys.exit()", "ended without an answer that can be read"),
        ("open(sys.argv[5], 'w').write('{'); sys.exit()", "ended without an answer that can be read"),
        ("rows.pop()", "gave 3 scores for 4 segments"),
    ],
)
def test_a_failure_says_what_the_program_said(ending, message, stand_in, twin):
    stand_in(ending)
    with pytest.raises(UserError, match=message):
        UnbabelComet(find_checkpoint(str(twin)), 8, "cpu").score(SEGMENTS)


def test_no_environment(twin, tmp_path, monkeypatch):
    """Found when the metric is built, before anything is decoded."""
    monkeypatch.delenv("SPEECHLLM_COMET_PYTHON", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "speechllm" / "comet-2.2.7"
    with pytest.raises(UserError, match=rf"{folder}, is not there\. Run `speechllm comet-env`, which makes it, or set"):
        Comet("de", model=str(twin), backend="unbabel")
    (folder / "bin").mkdir(parents=True)
    with pytest.raises(UserError, match=r"was not completed\. Run `speechllm comet-env`"):
        Comet("de", model=str(twin), backend="unbabel")


def test_a_python_that_does_not_serve(twin, tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHLLM_COMET_PYTHON", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"SPEECHLLM_COMET_PYTHON is '.*none', which is no program"):
        Comet("de", model=str(twin), backend="unbabel")
    monkeypatch.setenv("SPEECHLLM_COMET_PYTHON", sys.executable)  # it has no unbabel-comet, and cannot have it
    with pytest.raises(UserError, match=r"(?s)does not run unbabel-comet: .*unbabel-comet.*speechllm comet-env"):
        Comet("de", model=str(twin), backend="unbabel")


@pytest.fixture
def real():
    """Skip where the environment of unbabel-comet is not; return a function that scores in it."""
    if "SPEECHLLM_COMET_PYTHON" not in os.environ and not marker(environment_folder()).is_file():
        pytest.skip(
            f"there is no environment of unbabel-comet at {environment_folder()}; `speechllm comet-env` makes it"
        )

    def score(folder, backend, segments=SEGMENTS, **options):
        metric = Comet("de", model=str(folder), backend=backend, device="cpu", **options)
        return metric._backend.score(segments)

    return score


@pytest.mark.parametrize(
    "settings",
    [
        {"layer_norm": True, "layer_transformation": "softmax"},
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"layer_transformation": "sparsemax_patch"}, marks=pytest.mark.slow),
    ],
)
def test_both_back_ends_agree(settings, real, tmp_path):
    folder = write_comet(tmp_path, **settings)
    scores = real(folder, "unbabel")
    np.testing.assert_allclose(real(folder, "native"), scores, rtol=0, atol=1e-6)
    assert np.ptp(scores) > 0.05


def test_unbabel_comet_gives_the_golden_scores(real, shared_data):
    """To the bit, in batches of the size that they were made with, on the machine where they were."""
    folder = shared_data / "comet_tiny"
    rows = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    golden = json.loads((folder / "ref_scores.json").read_text(encoding="utf-8"))["scores"]
    segments = [(row["src"], row["mt"], row["ref"]) for row in rows]
    np.testing.assert_allclose(real(folder / "ckpt", "unbabel", segments, batch_size=8), golden, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_unbabel_comet_may_not_leave_weights_random(real, tmp_path):
    """As it would by itself."""
    folder = write_comet(tmp_path, lambda state: state.pop("estimator.ff.6.weight"))
    with pytest.raises(UserError, match=r"lacks estimator\.ff\.6\.weight and 0 more parameters"):
        real(folder, "unbabel")
