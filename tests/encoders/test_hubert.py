"""HuBERT of both families against Hugging Face's, alone and in batches."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import HubertConfig, HubertForCTC, Wav2Vec2FeatureExtractor, WhisperConfig

import speechllm.encoders.hubert as module
from speechllm.encoders.hubert import HubertEncoder, group_norm
from speechllm.encoders.waveform import normalize_waveform
from speechllm.errors import UserError
from tests.tiny import make_batch, noise, tiny_encoder

GOLDEN = {400: 1, 560: 1, 720: 2, 16_000: 49, 16_079: 49, 32_077: 99, 160_000: 499, 480_000: 1499}  # spec §2.1
TINY = HubertEncoder.tiny["config"]
FAMILIES = {
    "group": {"feat_extract_norm": "group", "do_stable_layer_norm": False},  # mHuBERT-147, japanese-hubert-base
    "layer": {  # hubert-large-ls960-ft
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "conv_bias": True,
        "feat_proj_dropout": 0.1,
    },
}
LENGTHS = (400, 720, 8000, 16_079, 32_077)
TOLERANCE = 2e-4  # spec §0.2
CONVOLUTIONS = "hubert.feature_extractor."


def tiny_hubert(family, **options):
    return tiny_encoder("hubert", config=TINY | FAMILIES[family], **options)


def alone(encoder, clip):
    return encoder(clip[None], torch.tensor([len(clip)]))


def save(model, folder, do_normalize=True):
    """Save a model in the real format, the extractor's configuration included."""
    model.save_pretrained(folder)
    # As of mHuBERT-147, whose extractor gives no mask unless it is asked to.
    Wav2Vec2FeatureExtractor(do_normalize=do_normalize, return_attention_mask=False).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", params=FAMILIES)
def saved(request, tmp_path_factory):
    """A tiny HubertForCTC with its mask embedding and default LayerDrop, as released checkpoints have them."""
    torch.manual_seed(0)
    model = HubertForCTC(HubertConfig(**TINY, **FAMILIES[request.param])).eval()
    assert "hubert.masked_spec_embed" in model.state_dict()
    return save(model, tmp_path_factory.mktemp(request.param)), model


@pytest.mark.parametrize("family", FAMILIES)
def test_golden_lengths(family):
    encoder = tiny_hubert(family)
    assert encoder.output_lengths(torch.tensor(list(GOLDEN))).tolist() == list(GOLDEN.values())
    assert (encoder.frame_rate, encoder.min_samples, encoder.dim) == (50, 400, 16)


def test_output_lengths_at_every_remainder():
    encoder = tiny_encoder("hubert")
    for n in [*range(400, 1100, 20), 719, 720, 721, 16_000, 16_079, 32_077]:
        frames = alone(encoder, noise(n)[0])
        assert frames.values.shape[1] == int(encoder.output_lengths(torch.tensor(n))) == int(frames.lengths)


@pytest.mark.parametrize("samples", [400, 16_079, 100_000])
def test_normalisation_equals_the_extractor(samples):
    clip = noise(samples)[0] * 0.1 + 0.05
    expected = Wav2Vec2FeatureExtractor()(clip.numpy(), sampling_rate=16_000, return_tensors="pt").input_values
    padded = torch.nn.functional.pad(clip, (0, 333), value=1e4)[None]
    got = normalize_waveform(padded, torch.tensor([samples]))
    torch.testing.assert_close(got[:, :samples], expected, rtol=0, atol=1e-5)
    assert got[:, samples:].abs().sum() == 0


@pytest.mark.parametrize("samples", LENGTHS)
@pytest.mark.parametrize("do_normalize", [True, False])
def test_equals_hugging_face_alone(saved, samples, do_normalize):
    folder, reference = saved
    encoder = HubertEncoder(pretrained=folder, ctc_head=True, do_normalize=do_normalize)
    clip = noise(samples)[0] * 0.1 + 0.01
    inputs = Wav2Vec2FeatureExtractor(do_normalize=do_normalize)(
        clip.numpy(), sampling_rate=16_000, return_tensors="pt"
    ).input_values
    with torch.no_grad():
        expected = reference.hubert(inputs).last_hidden_state
        logits = reference(inputs).logits
    frames = alone(encoder, clip)
    torch.testing.assert_close(frames.values, expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(frames.ctc_logits, logits, rtol=0, atol=2e-5)
    assert frames.ctc_blank == 0


@pytest.mark.parametrize("do_normalize", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_equals_its_utterances(family, do_normalize):
    encoder = tiny_hubert(family, do_normalize=do_normalize, ctc_head=True)
    clips = noise(*LENGTHS)
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 3, 1]):
        batch = make_batch(clips, order, padding=777, garbage=1e4)
        together = encoder(batch.audio, batch.audio_lengths)
        for row, i in enumerate(order):
            own = alone(encoder, clips[i])
            length = int(own.lengths)
            assert int(together.lengths[row]) == length
            assert (together.values[row, :length] - own.values[0]).abs().max() < TOLERANCE
            assert (together.ctc_logits[row, :length] - own.ctc_logits[0]).abs().max() < TOLERANCE
            assert together.values[row, length:].abs().sum() == 0
            assert together.ctc_logits[row, length:].abs().sum() == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_without_its_masks_a_batch_differs(family, monkeypatch):
    encoder = tiny_hubert(family)
    clips = noise(8000, 32_077)
    expected = alone(encoder, clips[0]).values[0]
    monkeypatch.setattr(module, "lengths_to_mask", lambda lengths, size, _: torch.ones(len(lengths), size).bool())
    monkeypatch.setattr(module, "attention_mask", lambda config, values, lengths: None)
    batch = make_batch(clips)
    together = encoder(batch.audio, batch.audio_lengths).values[0, : len(expected)]
    assert (together - expected).abs().max() > 10 * TOLERANCE


def test_with_the_stock_group_norm_a_batch_differs(monkeypatch):
    """Masked attention is not enough: the norm after the first convolution pools over the padding."""
    encoder = tiny_hubert("group")
    clips = noise(8000, 32_077)
    expected = alone(encoder, clips[0]).values[0]
    monkeypatch.setattr(module, "group_norm", lambda norm, values, lengths: norm(values))
    batch = make_batch(clips)
    together = encoder(batch.audio, batch.audio_lengths).values[0, : len(expected)]
    assert (together - expected).abs().max() > 10 * TOLERANCE


def test_group_norm_pools_over_valid_positions():
    norm = torch.nn.GroupNorm(3, 3)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    values = torch.randn(2, 3, 50) + 5
    values[1, :, 20:] = 1e4
    got = group_norm(norm, values, torch.tensor([50, 20]))
    torch.testing.assert_close(got[:1], norm(values[:1]), rtol=0, atol=1e-5)
    torch.testing.assert_close(got[1:, :, :20], norm(values[1:, :, :20]), rtol=0, atol=1e-5)


def test_silence_is_finite():
    encoder = tiny_hubert("group", do_normalize=True)
    assert alone(encoder, torch.zeros(8000)).values.isfinite().all()


@pytest.mark.parametrize("samples", [0, 399])
def test_too_short(samples):
    with pytest.raises(UserError, match=rf"'row 1' has {samples} samples; this encoder needs at least 400"):
        tiny_encoder("hubert")(torch.zeros(2, 8000), torch.tensor([8000, samples]))


@pytest.mark.parametrize("ctc_head", [False, True])
def test_loading_leaves_no_weight_random_and_says_nothing(saved, ctc_head, caplog):
    folder, reference = saved
    encoder = HubertEncoder(pretrained=folder, ctc_head=ctc_head)
    expected = reference.hubert.state_dict()
    expected.pop("masked_spec_embed")
    state = encoder.hubert.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(value, state[key]) for key, value in expected.items())
    assert (encoder.ctc_head is not None) == ctc_head
    assert caplog.text == ""


def test_loads_a_checkpoint_with_the_old_names_of_weight_norm(saved, tmp_path):
    """Released checkpoints are older than torch's parametrizations."""
    folder, reference = saved
    save(reference, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    old = {}
    for key, value in weights.items():
        for new_name, old_name in (("original0", "weight_g"), ("original1", "weight_v")):
            key = key.replace(f"parametrizations.weight.{new_name}", old_name)
        old[key] = value
    assert {"hubert.encoder.pos_conv_embed.conv.weight_g", "hubert.encoder.pos_conv_embed.conv.weight_v"} <= set(old)
    save_file(old, tmp_path / "model.safetensors", metadata={"format": "pt"})
    clip = noise(8000)[0]
    for ctc_head in (False, True):
        encoder = HubertEncoder(pretrained=str(tmp_path), ctc_head=ctc_head)
        expected = HubertEncoder(pretrained=folder, ctc_head=ctc_head)
        assert torch.equal(alone(encoder, clip).values, alone(expected, clip).values)


def test_loads_a_checkpoint_without_head(saved, tmp_path):
    folder, reference = saved
    save(reference.hubert, tmp_path)
    clip = noise(8000)[0]
    encoder = HubertEncoder(pretrained=str(tmp_path))
    assert torch.equal(alone(encoder, clip).values, alone(HubertEncoder(pretrained=folder), clip).values)
    with pytest.raises(UserError, match=r"`ctc_head: true` needs a checkpoint with a CTC head, and '.*' has none"):
        HubertEncoder(pretrained=str(tmp_path), ctc_head=True)


def test_do_normalize_comes_from_the_checkpoint(saved, tmp_path):
    _, reference = saved
    for given in (True, False):
        folder = save(reference, tmp_path, do_normalize=given)
        assert json.loads((tmp_path / "preprocessor_config.json").read_text())["do_normalize"] is given
        assert HubertEncoder(pretrained=folder).do_normalize is given
        assert HubertEncoder(pretrained=folder, do_normalize=not given).do_normalize is not given
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match="Set the encoder option `do_normalize`"):
        HubertEncoder(pretrained=folder)
    assert HubertEncoder(pretrained=folder, do_normalize=True).do_normalize is True
    assert tiny_encoder("hubert").do_normalize is False


def test_frozen_stays_in_evaluation_mode():
    encoder = tiny_encoder("hubert", ctc_head=True)
    encoder.train()
    assert not any(child.training for child in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not alone(encoder, noise(8000)[0]).ctc_logits.requires_grad


@pytest.mark.parametrize("ctc_head", [False, True])
@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_full_tuning_trains_all_but_what_is_kept_frozen(family, freeze, ctc_head):
    """LayerDrop, 0.1 by default, and an unused mask embedding would leave weights without gradient."""
    encoder = tiny_hubert(family, tuning="full", freeze_feature_encoder=freeze, ctc_head=ctc_head).train()
    frozen = {key for key, p in encoder.named_parameters() if not p.requires_grad}
    convolutions = {key for key, _ in encoder.named_parameters() if key.startswith(CONVOLUTIONS)}
    head = {"ctc_head.weight", "ctc_head.bias"} if ctc_head else set()
    assert frozen == (convolutions if freeze else set()) | head
    batch = make_batch(noise(8000, 16_079), garbage=1e4)
    encoder(batch.audio, batch.audio_lengths).values.square().sum().backward()
    for key, p in encoder.named_parameters():
        assert (p.grad is None) == (key in frozen)
        assert p.grad is None or p.grad.isfinite().all()
    if not freeze:
        assert encoder.hubert.feature_extractor.conv_layers[0].conv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("tuning", ["lora", "qlora"])
def test_lora_trains_its_own_weights_alone(tuning):
    """Neither the convolutions nor the CTC head are among them, whatever else is asked for."""
    encoder = tiny_encoder("hubert", tuning=tuning, freeze_feature_encoder=True, ctc_head=True).train()
    trained = {key for key, p in encoder.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 2 * 2  # A and B of q_proj and v_proj in two layers
    assert all("q_proj.lora_" in key or "v_proj.lora_" in key for key in trained)
    batch = make_batch(noise(8000, 16_079), garbage=1e4)
    frames = encoder(batch.audio, batch.audio_lengths)
    frames.values.square().sum().backward()
    assert {key for key, p in encoder.named_parameters() if p.grad is not None} == trained
    assert encoder.ctc_head.weight.dtype == torch.float32


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_is_close(saved, autocast):
    folder, _ = saved
    batch = make_batch(noise(8000, 16_079))
    expected = HubertEncoder(pretrained=folder, ctc_head=True)(batch.audio, batch.audio_lengths)
    encoder = HubertEncoder(pretrained=folder, ctc_head=True, dtype="float32" if autocast else "bfloat16")
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        frames = encoder(batch.audio, batch.audio_lengths)
    assert frames.lengths.tolist() == expected.lengths.tolist()
    assert frames.ctc_logits.dtype == torch.float32
    difference = (frames.values.float() - expected.values).norm() / expected.values.norm()
    assert 0 < difference < 0.05


def test_random_head_has_the_vocabulary_of_the_config():
    encoder = tiny_encoder("hubert", ctc_head=True, config={**TINY, "vocab_size": 11, "pad_token_id": 5})
    frames = alone(encoder, noise(8000)[0])
    assert frames.ctc_logits.shape == (1, 24, 11)
    assert frames.ctc_blank == 5
    assert alone(tiny_encoder("hubert"), noise(8000)[0]).ctc_logits is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": None}, "either `pretrained`"),
        ({"pretrained": "x"}, "either `pretrained`"),
        ({"config": {"conv_dims": [8]}}, "HubertConfig has no field 'conv_dims'. Did you mean 'conv_dim'"),
        ({"config": {"conv_dim": [8]}}, "HubertConfig does not take these values"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UserError, match=message):
        tiny_encoder("hubert", **options)


def test_wrong_checkpoints(saved, tmp_path):
    with pytest.raises(UserError, match="no preprocessor_config"):
        HubertEncoder(pretrained=str(tmp_path))
    with pytest.raises(UserError, match="could not be loaded"):
        HubertEncoder(pretrained=str(tmp_path), do_normalize=True)
    WhisperConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is a checkpoint of 'whisper', but this encoder takes 'hubert'"):
        HubertEncoder(pretrained=str(tmp_path), do_normalize=True)
    _, reference = saved
    save(reference, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {key: value for key, value in weights.items() if "encoder.layers.1" not in key}
    assert len(kept) < len(weights)
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for ctc_head in (False, True):
        with pytest.raises(UserError, match=r"is incomplete: it lacks .*encoder\.layers\.1"):
            HubertEncoder(pretrained=str(tmp_path), ctc_head=ctc_head)
    narrow = {key: value[..., :8].clone() if "projection" in key else value for key, value in weights.items()}
    save_file(narrow, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="could not be loaded"):
        HubertEncoder(pretrained=str(tmp_path))


def test_the_real_sizes():
    """The published counts of HuBERT base and large, less the mask embedding that is not built."""
    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    for config, dim, published in (({}, 768, 94_371_712), (large | FAMILIES["layer"], 1024, 315_438_720)):
        with torch.device("meta"):
            encoder = HubertEncoder(config=config)
        assert encoder.dim == dim
        assert sum(p.numel() for p in encoder.parameters()) == published - dim
