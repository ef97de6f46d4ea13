"""Whisper's encoder against Hugging Face's, and its modes."""

import pytest
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperModel

from speechllm.encoders.whisper import LogMel, WhisperEncoder
from speechllm.errors import UserError
from tests.tiny import noise, tiny_encoder

SECONDS_30 = 480_000
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "vocab_size": 50}
CONFIG = WhisperEncoder.tiny["config"] | {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 16}


@pytest.fixture(scope="module", params=[WhisperForConditionalGeneration, WhisperModel])
def saved(request, tmp_path_factory):
    """A tiny Whisper in the real format, saved with and without its language-model head."""
    model = request.param(WhisperConfig(**CONFIG, **SPECIAL)).eval()
    folder = tmp_path_factory.mktemp("whisper")
    model.save_pretrained(folder)
    return folder, model.get_encoder()


def test_equals_hugging_face_on_3000_frames(saved):
    folder, reference = saved
    encoder = WhisperEncoder(pretrained=str(folder)).eval()
    clips = torch.stack([*noise(SECONDS_30), *noise(SECONDS_30, seed=1)])
    features = WhisperFeatureExtractor()(list(clips.numpy()), sampling_rate=16_000, return_tensors="pt").input_features
    with torch.no_grad():
        expected = reference(features).last_hidden_state
        frames = encoder(clips, torch.tensor([SECONDS_30] * 2))
    assert frames.lengths.tolist() == [1500, 1500]
    assert torch.equal(frames.values, expected)


def test_pad_to_30s_equals_the_stock_model(saved):
    folder, reference = saved
    clips = noise(50_000, 123_456)
    audio = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    lengths = torch.tensor([50_000, 123_456])
    features = WhisperFeatureExtractor()([c.numpy() for c in clips], sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        expected = reference(features.input_features).last_hidden_state
        stock = WhisperEncoder(pretrained=str(folder), pad_to_30s=True).eval()(audio, lengths)
        trimmed = WhisperEncoder(pretrained=str(folder), pad_to_30s=True, trim_to_speech=True).eval()(audio, lengths)
    assert stock.lengths.tolist() == [1500, 1500]
    assert torch.equal(stock.values, expected)
    assert trimmed.lengths.tolist() == [157, 386]
    assert torch.equal(trimmed.values[1], expected[1, :386])


def test_short_audio_differs_from_the_stock_model_only_through_the_silence(saved):
    """The masked forward attends to speech alone, so it must not equal the model that attends to 30 s."""
    folder, _ = saved
    clip, length = noise(50_000)[0][None], torch.tensor([50_000])
    masked = WhisperEncoder(pretrained=str(folder)).eval()(clip, length)
    stock = WhisperEncoder(pretrained=str(folder), pad_to_30s=True, trim_to_speech=True).eval()(clip, length)
    assert masked.lengths.tolist() == stock.lengths.tolist()
    assert (masked.values - stock.values).abs().max() > 1e-3


@pytest.mark.parametrize("mel_bins", [80, 128])
@pytest.mark.parametrize("do_normalize", [False, True])
@pytest.mark.parametrize("samples", [1, 400, 560, 16_079, 32_077, 160_000, 479_900, 479_999, SECONDS_30])
def test_log_mel_equals_the_extractor(samples, do_normalize, mel_bins):
    clip = noise(samples)[0]
    clip[-20:] *= 30  # the loudest frame is the last: the clamp must see the frames that overlap it
    extractor = WhisperFeatureExtractor(feature_size=mel_bins)
    expected = extractor(
        clip.numpy(),
        sampling_rate=16_000,
        return_tensors="pt",
        padding="max_length",
        return_attention_mask=True,
        do_normalize=do_normalize,
    )
    mel_frames = int(expected.attention_mask.sum())
    assert mel_frames == -(-samples // 160)
    got = LogMel(mel_bins, do_normalize)(clip[None], torch.tensor([samples]), mel_frames)
    tolerance = 1e-4 if do_normalize else 2**-23  # one unit in the last place
    torch.testing.assert_close(got[0], expected.input_features[0, :, :mel_frames], rtol=0, atol=tolerance)


@pytest.mark.parametrize(("samples", "frames"), [(560, 2), (720, 3), (16_000, 50), (16_079, 51), (32_077, 101)])
def test_golden_lengths(samples, frames):
    """Spec §2.1."""
    encoder = tiny_encoder()
    assert encoder.output_lengths(torch.tensor([samples])).tolist() == [frames]
    assert encoder.output_lengths(torch.tensor([160_000, SECONDS_30])).tolist() == [500, 1500]


def test_features_keep_float32_under_autocast():
    clip, lengths = noise(8000)[0][None], torch.tensor([8000])
    log_mel = LogMel(80)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = log_mel(clip, lengths, 50)
    assert torch.equal(inside, log_mel(clip, lengths, 50))
    assert torch.equal(log_mel.bfloat16()(clip, lengths, 50), inside)


def test_long_audio_is_an_error_or_chunks():
    clip, length = noise(SECONDS_30 + 8000)[0][None], torch.tensor([SECONDS_30 + 8000])
    with pytest.raises(UserError, match=r"lasts 30\.50 s; the encoder takes at most 30 s.*long_audio: chunk"):
        tiny_encoder()(clip, length)
    torch.manual_seed(0)
    encoder = tiny_encoder(long_audio="chunk")
    short = noise(5000)[0]
    audio = torch.nn.utils.rnn.pad_sequence([short, clip[0]], batch_first=True)
    with torch.no_grad():
        frames = encoder(audio, torch.tensor([5000, len(clip[0])]))
        first = encoder(clip[:, :SECONDS_30], torch.tensor([SECONDS_30])).values[0]
        rest = encoder(clip[:, SECONDS_30:], torch.tensor([8000])).values[0]
        alone = encoder(short[None], torch.tensor([5000])).values[0]
    assert frames.lengths.tolist() == [16, 1525] == encoder.output_lengths(torch.tensor([5000, 488_000])).tolist()
    torch.testing.assert_close(frames.values[1], torch.cat([first, rest]), rtol=0, atol=1e-5)
    torch.testing.assert_close(frames.values[0, :16], alone, rtol=0, atol=1e-5)
    assert frames.values[0, 16:].abs().sum() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": None}, "either `pretrained`"),
        ({"pretrained": "x"}, "either `pretrained`"),
        ({"trim_to_speech": True}, "only means something with `pad_to_30s"),
        ({"long_audio": "cut"}, "'error' or 'chunk', but is 'cut'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UserError, match=message):
        tiny_encoder(**options)


def test_sinusoidal_positions_stay_fixed():
    """They are not learned in Whisper, and full tuning does not start to."""
    encoder = tiny_encoder(tuning="full")
    fixed = [key for key, p in encoder.named_parameters() if not p.requires_grad]
    assert fixed == ["encoder.embed_positions.weight"]


def test_a_folder_without_a_checkpoint(tmp_path):
    with pytest.raises(UserError, match="could not be loaded"):
        WhisperEncoder(pretrained=str(tmp_path))


def test_a_checkpoint_that_lacks_weights(saved, tmp_path):
    from safetensors.torch import load_file, save_file

    folder, _ = saved
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    kept = {key: value for key, value in weights.items() if "encoder.layers.1" not in key}
    assert len(kept) < len(weights)
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="not a Whisper checkpoint: it lacks"):
        WhisperEncoder(pretrained=str(tmp_path))
