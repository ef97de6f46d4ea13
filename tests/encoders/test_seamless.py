"""SeamlessM4T v2's speech encoder against Hugging Face's, alone and in batches."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import SeamlessM4TFeatureExtractor, SeamlessM4Tv2Config, SeamlessM4Tv2ForSpeechToText, WhisperConfig

import speechllm.encoders.seamless as module
from speechllm.encoders.fbank import StackedFbank
from speechllm.encoders.seamless import SeamlessEncoder
from speechllm.errors import UserError
from tests.tiny import make_batch, noise, tiny_encoder

GOLDEN = {560: 1, 720: 1, 16_000: 7, 16_079: 7, 32_077: 13, 160_000: 63, 480_000: 188}  # spec §2.1
EVEN = (560, 16_079, 32_077, 41_600)  # an even number of filter-bank frames
LENGTHS = [16_240 + 320 * k for k in range(8)]  # 50 to 57 stacked frames: every remainder of 8
TOLERANCE = 2e-4  # spec §0.2
TEXT = {
    "vocab_size": 30,
    "encoder_layers": 1,
    "encoder_ffn_dim": 16,
    "encoder_attention_heads": 2,
    "decoder_layers": 1,
    "decoder_ffn_dim": 16,
    "decoder_attention_heads": 2,
}


def extract(clips):
    """Return features and mask of Hugging Face's extractor."""
    output = SeamlessM4TFeatureExtractor()([c.numpy() for c in clips], sampling_rate=16_000, return_tensors="pt")
    return output.input_features, output.attention_mask


def alone(encoder, clip):
    return encoder(clip[None], torch.tensor([len(clip)]))


@pytest.fixture(scope="module", params=["whole model", "speech encoder"])
def saved(request, tmp_path_factory):
    """A tiny SeamlessM4T v2 in the real format, with its text parts and without, and its speech encoder."""
    torch.manual_seed(0)
    model = SeamlessM4Tv2ForSpeechToText(SeamlessM4Tv2Config(**SeamlessEncoder.tiny["config"], **TEXT)).eval()
    folder = tmp_path_factory.mktemp("seamless")
    (model if request.param == "whole model" else model.speech_encoder).save_pretrained(folder)
    return folder, model.speech_encoder


def test_golden_lengths():
    encoder = tiny_encoder("seamless")
    assert encoder.output_lengths(torch.tensor(list(GOLDEN))).tolist() == list(GOLDEN.values())
    assert (encoder.frame_rate, encoder.min_samples, encoder.dim) == (6.25, 560, 16)


def test_output_lengths_at_every_remainder():
    encoder = tiny_encoder("seamless")
    for n in [*GOLDEN, *range(560, 6000, 160), 559 + 320 * 8, 560 + 320 * 8]:
        if n < 100_000:
            frames = alone(encoder, noise(n)[0])
            assert frames.values.shape[1] == int(encoder.output_lengths(torch.tensor(n))) == int(frames.lengths)


@pytest.mark.parametrize("samples", [560, 720, 879, 880, 16_079, 32_077, 100_000])
def test_features_equal_the_extractor(samples):
    clip = torch.cumsum(noise(samples)[0], dim=0) / 40 + 0.05  # more energy below, as in speech, and an offset
    expected, mask = extract([clip])
    features, lengths = StackedFbank()(clip[None], torch.tensor([samples]))
    assert lengths.tolist() == mask.sum(dim=1).tolist() == [((samples - 400) // 160 + 1) // 2]
    torch.testing.assert_close(features, expected[:, : int(lengths)], rtol=0, atol=5e-5)


def test_features_of_an_utterance_are_its_own():
    clips = noise(720, 8000, 16_079, 32_077)
    batch = make_batch(clips, garbage=1e4)
    features, lengths = StackedFbank()(batch.audio, batch.audio_lengths)
    for row, clip in enumerate(clips):
        own, length = StackedFbank()(clip[None], torch.tensor([len(clip)]))
        assert int(lengths[row]) == int(length)
        torch.testing.assert_close(features[row, : int(length)], own[0], rtol=0, atol=1e-6)
        assert features[row, int(length) :].abs().sum() == 0


def test_features_of_silence_are_zero():
    """A bin without variance is divided by nearly nothing: no rounding error may be left in it."""
    audio = torch.stack([torch.zeros(8000), torch.full((8000,), 0.3)])
    features, _ = StackedFbank()(audio, torch.tensor([8000, 7777]))
    assert features.abs().max() < 1e-9


def test_features_keep_their_precision_under_autocast_and_casts():
    clip, length = noise(8000)[0][None], torch.tensor([8000])
    fbank = StackedFbank()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, _ = fbank(clip, length)
    expected, _ = fbank(clip, length)
    assert torch.equal(inside, expected)
    assert torch.equal(fbank.bfloat16()(clip, length)[0], expected)


@pytest.mark.parametrize("samples", EVEN)
def test_equals_hugging_face_alone(saved, samples):
    folder, reference = saved
    encoder = SeamlessEncoder(pretrained=str(folder))
    clip = noise(samples)[0]
    features, mask = extract([clip])
    with torch.no_grad():
        expected = reference(features, attention_mask=mask).last_hidden_state
        values, lengths = encoder._encode(features, mask.sum(dim=1))
    assert int(lengths) == GOLDEN.get(samples, 17)
    torch.testing.assert_close(values, expected[:, : int(lengths)], rtol=0, atol=1e-5)
    torch.testing.assert_close(alone(encoder, clip).values, values, rtol=0, atol=1e-4)  # with our own features


def test_a_batch_equals_its_utterances_and_the_stock_model_does_not():
    """The stock adapter sees the padding: its last frames change with the batch, and this test would see it."""
    encoder = tiny_encoder("seamless")
    clips = noise(*LENGTHS, 60_080)
    batch = make_batch(clips, padding=777, garbage=1e4)
    together = encoder(batch.audio, batch.audio_lengths)
    with torch.no_grad():
        features, mask = extract(clips)
        stock = encoder.encoder(features, attention_mask=mask).last_hidden_state
    stock_differs = []
    for row, clip in enumerate(clips):
        own = alone(encoder, clip)
        length = int(own.lengths)
        assert int(together.lengths[row]) == length
        assert (together.values[row, :length] - own.values[0]).abs().max() < TOLERANCE
        assert together.values[row, length:].abs().sum() == 0
        stock_differs.append(bool((stock[row, :length] - own.values[0]).abs().max() > 0.1))
    assert (mask.sum(dim=1)[:8] % 8).tolist() == [2, 3, 4, 5, 6, 7, 0, 1]
    assert stock_differs == [True, True, False, False, False, False, True, True, False]


def test_without_its_masks_a_batch_differs(monkeypatch):
    encoder = tiny_encoder("seamless")
    clips = noise(16_080, 60_000)
    expected = alone(encoder, clips[0]).values[0]
    monkeypatch.setattr(module, "lengths_to_mask", lambda lengths, size, _: torch.ones(len(lengths), size).bool())
    monkeypatch.setattr(module, "attention_mask", lambda config, values, lengths: None)
    monkeypatch.setattr(module, "zero_padding", lambda values, lengths: values)
    batch = make_batch(clips)
    together = encoder(batch.audio, batch.audio_lengths).values[0, : len(expected)]
    assert (together - expected).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize("samples", [0, 559])
def test_too_short(samples):
    with pytest.raises(UserError, match=rf"'row 1' has {samples} samples; this encoder needs at least 560"):
        tiny_encoder("seamless")(torch.zeros(2, 8000), torch.tensor([8000, samples]))


def test_loading_leaves_no_weight_random_and_says_nothing(saved, caplog):
    folder, reference = saved
    encoder = SeamlessEncoder(pretrained=str(folder))
    state = encoder.encoder.state_dict()
    assert state.keys() == reference.state_dict().keys()
    assert all(torch.equal(value, state[key]) for key, value in reference.state_dict().items())
    assert caplog.text == ""


def test_frozen_stays_in_evaluation_mode():
    encoder = tiny_encoder("seamless")
    encoder.train()
    assert not any(child.training for child in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())


def test_full_tuning_trains_every_weight_in_every_step():
    """LayerDrop, 0.1 by default, would leave layers without gradient."""
    encoder = tiny_encoder("seamless", tuning="full").train()
    assert encoder.encoder.config.speech_encoder_layerdrop == 0
    batch = make_batch(noise(8000, 16_079))
    encoder(batch.audio, batch.audio_lengths).values.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
    assert encoder.encoder.feature_projection.projection.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("tuning", ["lora", "qlora"])
def test_lora_trains_its_own_weights_alone(tuning):
    encoder = tiny_encoder("seamless", tuning=tuning).train()
    trained = {key for key, p in encoder.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 2 * 3  # A and B of linear_q and linear_v in two layers and the length adapter
    assert all("linear_q.lora_" in key or "linear_v.lora_" in key for key in trained)
    batch = make_batch(noise(8000, 16_079), garbage=1e4)
    encoder(batch.audio, batch.audio_lengths).values.square().sum().backward()
    assert {key for key, p in encoder.named_parameters() if p.grad is not None} == trained


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_is_close(saved, autocast):
    folder, _ = saved
    batch = make_batch(noise(8000, 16_079))
    expected = SeamlessEncoder(pretrained=str(folder))(batch.audio, batch.audio_lengths)
    encoder = SeamlessEncoder(pretrained=str(folder), dtype="float32" if autocast else "bfloat16")
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        frames = encoder(batch.audio, batch.audio_lengths)
    assert frames.lengths.tolist() == expected.lengths.tolist()
    difference = (frames.values.float() - expected.values).norm() / expected.values.norm()
    assert 0 < difference < 0.03
    assert frames.values[0, int(frames.lengths[0]) :].abs().sum() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": None}, "either `pretrained`"),
        ({"pretrained": "x"}, "either `pretrained`"),
        ({"config": {"hiden_size": 8}}, "SeamlessM4Tv2Config has no field 'hiden_size'. Did you mean 'hidden_size'"),
        ({"config": {"hidden_size": "wide"}}, "SeamlessM4Tv2Config does not take these values"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UserError, match=message):
        tiny_encoder("seamless", **options)


def test_wrong_checkpoints(saved, tmp_path):
    with pytest.raises(UserError, match="could not be loaded"):
        SeamlessEncoder(pretrained=str(tmp_path))
    WhisperConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is a checkpoint of 'whisper', but this encoder takes 'seamless_m4t_v2'"):
        SeamlessEncoder(pretrained=str(tmp_path))
    folder, _ = saved
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    kept = {key: value for key, value in weights.items() if "adapter" not in key}
    assert len(kept) < len(weights)
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"is incomplete: it lacks adapter\.layers\.0"):
        SeamlessEncoder(pretrained=str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="could not be loaded"):
        SeamlessEncoder(pretrained=str(tmp_path))


def test_the_real_size():
    """The speech encoder of seamless-m4t-v2-large has 635 million parameters."""
    with torch.device("meta"):
        encoder = SeamlessEncoder(config={})
    assert encoder.dim == 1024
    assert sum(p.numel() for p in encoder.parameters()) == 635_046_720
