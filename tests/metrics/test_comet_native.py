"""The native back end of COMET: its figures, and what it refuses to load."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import XLMRobertaConfig, XLMRobertaModel

from speechllm.errors import UserError
from speechllm.metrics import comet_native
from speechllm.metrics.comet_checkpoint import find_checkpoint
from speechllm.metrics.comet_native import NativeComet, load_model, normalize_layer, sparsemax
from tests.metrics.comet_twin import POSITIONS, SCALARS, WIDTH, write_comet

SEGMENTS = [
    ("Good day to you!", "Guten Tag!", "Schönen guten Tag!"),
    ("No.", "", "Nein."),
    ("Where is the station?", "Wo ist der Bahnhof?", "Wo ist der Bahnhof?"),
    ("a " * 60, "b c " * 40, "Das ist viel länger als der Encoder an Zeichen nimmt, und noch mehr."),
    ("", "Ohne Quelle", "Ohne eine Quelle"),
    ("Good day to you!", "日本語?", "Tag"),
]


def native(folder, batch_size=16, **options):
    return NativeComet(find_checkpoint(str(folder), **options), batch_size, "cpu")


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    return write_comet(tmp_path_factory.mktemp("comet"))


def test_gives_the_scores_of_unbabel_comet(shared_data):
    """Of a random checkpoint of COMET-22's shape; one hypothesis is empty, and one too long for the encoder."""
    folder = shared_data / "comet_tiny"
    rows = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    golden = json.loads((folder / "ref_scores.json").read_text(encoding="utf-8"))
    scorer = native(folder / "ckpt")
    tokenizer = load_model(scorer.checkpoint, "cpu").tokenizer
    lengths = [len(tokenizer.encode(row["mt"]).ids) for row in rows]
    assert min(lengths) == 2
    assert max(lengths) == 130 - 4
    assert [tokenizer.encode(row["mt"]).ids[:20] for row in rows] == golden["ids"]
    scores = scorer.score([(row["src"], row["mt"], row["ref"]) for row in rows])
    np.testing.assert_allclose(scores, golden["scores"], rtol=0, atol=1e-6)
    assert np.mean(scores) == pytest.approx(golden["system"], abs=1e-6)
    assert np.ptp(scores) > 0.5


def by_hand(folder, segment, mix, layer_norm=False):
    """Return a score from the formulas, a text at a time without padding."""
    state = torch.load(folder / "checkpoints" / "model.ckpt", weights_only=True)["state_dict"]
    tokenizer = Tokenizer.from_file(str(folder.parent / "xlmr" / "tokenizer.json"))
    encoder = XLMRobertaModel(XLMRobertaConfig.from_pretrained(folder.parent / "xlmr"), add_pooling_layer=False).eval()
    encoder.load_state_dict({k.removeprefix("encoder.model."): v for k, v in state.items() if "encoder.model." in k})
    vectors = []
    for text in segment:
        ids = tokenizer.encode(text).ids
        ids = [*ids[: POSITIONS - 5], 2] if len(ids) > POSITIONS - 4 else ids
        with torch.no_grad():
            layers = encoder(torch.tensor([ids]), output_hidden_states=True).hidden_states
        layers = [layer.double().numpy()[0] for layer in layers]
        if layer_norm:
            layers = [(layer - layer.mean()) / layer.std() for layer in layers]
        vectors.append(1.3 * sum(w * layer for w, layer in zip(mix, layers, strict=True)).mean(axis=0))
    source, hypothesis, reference = vectors
    features = [hypothesis, reference, hypothesis * reference, abs(hypothesis - reference)]
    values = np.concatenate([*features, hypothesis * source, abs(hypothesis - source)])
    for place in (0, 3):
        values = np.tanh(weight(state, place) @ values + bias(state, place))
    return float((weight(state, 6) @ values + bias(state, 6))[0])


def weight(state, place):
    return state[f"estimator.ff.{place}.weight"].double().numpy()


def bias(state, place):
    return state[f"estimator.ff.{place}.bias"].double().numpy()


SPARSE = [0.3 + 0.4 / 3, 0, 0.1 + 0.4 / 3, 0.2 + 0.4 / 3]
"""Three scalars with the sum 0.6 are within reach of one another; each gets a third of what is missing to 1."""

SOFT = np.exp(SCALARS) / np.exp(SCALARS).sum()


@pytest.mark.parametrize(
    ("transformation", "layer_norm", "mix"),
    [("sparsemax", False, SPARSE), ("softmax", False, SOFT), ("sparsemax_patch", False, SOFT), ("softmax", True, SOFT)],
)
def test_a_score_is_what_the_formulas_say(transformation, layer_norm, mix, tmp_path):
    folder = write_comet(tmp_path, layer_transformation=transformation, layer_norm=layer_norm)
    scores = native(folder).score(SEGMENTS)
    expected = [by_hand(folder, segment, mix, layer_norm) for segment in SEGMENTS]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)
    assert np.ptp(scores) > 0.05


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_a_score_does_not_depend_on_its_company(twin, batch_size):
    expected = [native(twin).score([segment])[0] for segment in SEGMENTS]
    np.testing.assert_allclose(native(twin, batch_size).score(SEGMENTS), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(native(twin, batch_size).score(SEGMENTS[::-1]), expected[::-1], rtol=0, atol=1e-6)


def test_many_segments_are_scored_in_parts(twin, monkeypatch, capsys):
    expected = native(twin).score(SEGMENTS)
    assert "COMET" not in capsys.readouterr().err
    monkeypatch.setattr(comet_native, "SEGMENTS_AT_ONCE", 4)
    monkeypatch.setattr(comet_native, "SHOW_PROGRESS_FROM", 6)
    np.testing.assert_allclose(native(twin).score(SEGMENTS), expected, rtol=0, atol=1e-6)
    assert "6/6" in capsys.readouterr().err


def test_texts_are_cut_off_where_comet_cuts_them(twin):
    """With <s>, the mark of a word's beginning and </s>, 33 characters make 36 tokens: four below 40 positions."""
    text = "abcdefghijklmnopqrstuvwxyzabcdefg"
    longest, changed = native(twin).score([("a", text, "b"), ("a", text[:-1] + "z", "b")])
    assert abs(longest - changed) > 1e-4
    longer = native(twin).score([("a", text + tail, "b") for tail in ("z", "y" * 100)])
    assert longer == pytest.approx([longest, longest], abs=1e-6)


def test_precision_of_training_does_not_matter(twin):
    expected = native(twin).score(SEGMENTS)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert native(twin).score(SEGMENTS) == expected
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_model_is_loaded_once(twin):
    load_model.cache_clear()
    first = native(twin)
    assert load_model.cache_info().misses == 0, "weights are loaded by the first score"
    for scorer in (first, first, native(twin, batch_size=2)):
        scorer.score(SEGMENTS[:1])
    assert load_model.cache_info().misses == 1


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]),
        ([7.0], [1.0]),
        ([3.0, 1.0, 2.0], [1.0, 0.0, 0.0]),  # a lead of 1 takes everything
        ([0.0, 0.5], [0.25, 0.75]),
        ([2.0, -5.0, 2.0], [0.5, 0.0, 0.5]),
        ([0.5, 0.2, 0.1], [0.5 + 0.2 / 3, 0.2 + 0.2 / 3, 0.1 + 0.2 / 3]),
        ([1.0, 0.0], [1.0, 0.0]),  # just at the border of the support
    ],
)
def test_sparsemax_in_closed_form(scores, expected):
    np.testing.assert_allclose(sparsemax(torch.tensor(scores)), expected, rtol=0, atol=1e-7)


def test_sparsemax_is_a_projection():
    """The threshold that makes the sum 1, found by halving an interval."""
    scores = torch.randn(200, 25, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for row in scores:
        low, high = row.min() - 1, row.max()
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if (row - middle).clamp(min=0).sum() > 1 else (low, middle)
        torch.testing.assert_close(sparsemax(row), (row - low).clamp(min=0), rtol=0, atol=1e-12)


def test_normalized_layers_do_not_see_padding():
    layer = torch.randn(2, 5, 3)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    normalized = normalize_layer(layer, mask)
    torch.testing.assert_close(normalized[1:, :2], normalize_layer(layer[1:, :2], mask[1:, :2]))
    assert normalized[1, :2].mean() == pytest.approx(0, abs=1e-6)
    assert normalized[1, :2].std(correction=0) == pytest.approx(1, abs=1e-6)


def refused(folder):
    with pytest.raises(UserError) as caught:
        native(folder).score(SEGMENTS)
    return str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "encoder.model.embeddings.word_embeddings.weight",
        "encoder.model.encoder.layer.2.output.dense.bias",
        "layerwise_attention.gamma",
        "layerwise_attention.scalar_parameters.3",
        "estimator.ff.6.weight",
    ],
)
def test_a_missing_tensor_is_refused(name, tmp_path):
    message = refused(write_comet(tmp_path, change=lambda state: state.pop(name)))
    assert f"model.ckpt lacks {name}:" in message
    assert "random" in message


@pytest.mark.parametrize(
    "name",
    [
        "encoder.model.encoder.layer.3.output.dense.bias",
        "encoder.model.embeddings.word_embeddings.weight.absmax",
        "layerwise_attention.scalar_parameters.4",
        "estimator.ff.9.weight",
        "estimator2.ff.0.weight",
        "bert.pooler.dense.weight",
    ],
)
def test_an_unknown_tensor_is_refused(name, tmp_path):
    message = refused(write_comet(tmp_path, change=lambda state: state.update({name: torch.zeros(1)})))
    assert f"model.ckpt holds unknown {name}:" in message


def test_renamed_tensors_are_refused(tmp_path):
    """As an older or newer transformers may name them: each is missing and unknown at once."""

    def rename(state):
        for name in [name for name in state if ".attention." in name]:
            state[name.replace(".attention.", ".self_attention.")] = state.pop(name)

    message = refused(write_comet(tmp_path, change=rename))
    assert "lacks encoder.model.encoder.layer.0.attention" in message
    assert "and 27 more" in message


@pytest.mark.parametrize("name", ["estimator.ff.0.weight", "encoder.model.embeddings.word_embeddings.weight"])
def test_another_shape_is_refused(name, tmp_path):
    message = refused(write_comet(tmp_path, change=lambda state: state.update({name: torch.zeros(3, 3)})))
    assert f"has another shape of {name} (3, 3), expected (" in message


def test_a_layer_weight_of_another_shape_is_refused(tmp_path):
    name = "layerwise_attention.scalar_parameters.1"
    message = refused(write_comet(tmp_path, change=lambda state: state.update({name: torch.zeros(2)})))
    assert f"has another shape of {name} (2,)" in message


def test_tensors_without_use_may_be_there_or_not(twin, tmp_path):
    """Released checkpoints hold the position ids of older versions of transformers."""

    def change(state):
        state["encoder.model.embeddings.position_ids"] = torch.arange(POSITIONS)[None]
        state["encoder.model.pooler.dense.weight"] = torch.zeros(WIDTH, WIDTH)
        state["encoder.model.pooler.dense.bias"] = torch.zeros(WIDTH)
        del state["layerwise_attention.dropout_mask"], state["layerwise_attention.dropout_fill"]

    assert native(write_comet(tmp_path, change)).score(SEGMENTS) == native(twin).score(SEGMENTS)


def test_settings_beside_the_weights_rule(twin, tmp_path):
    """As in COMET; what stands in hparams.yaml alone is used where the file of the weights has none."""
    for place, stored in enumerate((True, False)):
        folder = write_comet(tmp_path / str(place), stored=stored)
        settings = (folder / "hparams.yaml").read_text(encoding="utf-8")
        (folder / "hparams.yaml").write_text(settings.replace(": sparsemax", ": softmax"), encoding="utf-8")
        same = native(folder).score(SEGMENTS) == native(twin).score(SEGMENTS)
        assert same is stored


class Evil:
    """What is executed as soon as it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("archive", [True, False])
def test_a_pickled_program_is_refused_and_not_run(archive, tmp_path):
    folder = write_comet(tmp_path)
    target = folder / "checkpoints" / "model.ckpt"
    content = {"state_dict": {}, "callbacks": Evil(tmp_path / "executed")}
    if archive:
        torch.save(content, target)
    else:
        target.write_bytes(pickle.dumps(content, protocol=2))
    message = refused(folder)
    assert "is not read: it is damaged, or holds more than tensors and plain data" in message
    assert "\n" not in message
    assert not (tmp_path / "executed").exists()
    pickle.loads(pickle.dumps(Evil(tmp_path / "executed")))
    assert (tmp_path / "executed").exists(), "the test can fail"


@pytest.mark.parametrize("content", [[1, 2], {"model": {}}, {"state_dict": {"a": 1}}])
def test_other_files_of_torch_are_refused(content, tmp_path):
    folder = write_comet(tmp_path)
    torch.save(content, folder / "checkpoints" / "model.ckpt")
    assert "it has no `state_dict` of tensors" in refused(folder)


def test_a_damaged_file_is_refused(tmp_path):
    folder = write_comet(tmp_path)
    (folder / "checkpoints" / "model.ckpt").write_bytes(b"<html>not found</html>")
    assert "model.ckpt" in refused(folder)
    write_comet(tmp_path / "second")
    target = tmp_path / "second" / "tiny-comet" / "checkpoints" / "model.ckpt"
    target.write_bytes(target.read_bytes()[:-500])
    with pytest.raises(UserError, match=r"model\.ckpt: the weights cannot be read.*Is the file complete"):
        find_checkpoint(str(tmp_path / "second" / "tiny-comet"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"class_identifier": "unified_metric"},
            r"of the class 'unified_metric'.*regression_metric.*`backend: unbabel`",
        ),
        ({"class_identifier": "xcomet_metric"}, r"of the class 'xcomet_metric'"),
        ({"encoder_model": "BERT"}, r"`encoder_model` of the COMET checkpoint is 'BERT'.*knows: XLM-RoBERTa"),
        ({"layer": 5}, r"`layer` of the COMET checkpoint is 5"),
        ({"pool": "cls"}, r"`pool` of the COMET checkpoint is 'cls'"),
        ({"activations": "Mish"}, r"`activations`.*'Mish'"),
        ({"hidden_sizes": []}, r"`hidden_sizes`.*must be a list of widths, but is \[\]"),
    ],
)
def test_what_is_not_known_is_refused_before_weights_are_read(settings, message, twin, tmp_path):
    checkpoint = find_checkpoint(str(twin))
    changed = type(checkpoint)(**{**vars(checkpoint), "settings": {**checkpoint.settings, **settings}})
    with pytest.raises(UserError, match=message):
        NativeComet(changed, 16, "cpu")


@pytest.mark.parametrize(("device", "message"), [("gpu", "must be auto, cpu, cuda"), ("cuda:99", "this machine has")])
def test_devices(device, message, twin):
    with pytest.raises(UserError, match=message):
        NativeComet(find_checkpoint(str(twin)), 16, device)
