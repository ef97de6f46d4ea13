"""SpecAugment: what is masked, how much of it, and what of an encoder it leaves alone."""

import pytest
import torch
from transformers import HubertConfig, HubertForCTC, HubertModel, Wav2Vec2FeatureExtractor

from speechllm.encoders.hubert import HubertEncoder
from speechllm.encoders.spec_augment import SpecAugment, SpecAugmentOptions
from speechllm.errors import UserError
from tests.named import save_whisper
from tests.tiny import make_batch, noise, tiny_encoder

ENCODERS = ["whisper", "seamless", "hubert"]
RATE = 100.0
LENGTHS = (1, 4, 5, 40, 300, 1000, 3000)
CLIPS = (8000, 16_079, 32_077)


def spec_augment(**options):
    return SpecAugment(SpecAugmentOptions.parse(options)).train()


def features(*lengths, size=80, padding=13):
    """Return ones with garbage behind them, in which whatever is masked by something else shows."""
    values = torch.full((len(lengths), max(lengths) + padding, size), 777.0)
    for row, length in enumerate(lengths):
        values[row, :length] = 1.0
    return values, torch.tensor(lengths)


def hidden(values, embedding_size=80, **options):
    """Return where frames and features were masked, for one utterance of ones."""
    lengths = torch.tensor([values.shape[1]])
    out = spec_augment(**options)(values, lengths, RATE, torch.full((embedding_size,), 5.0))
    return (out[0] == 5).all(dim=1), (out[0] == 0).all(dim=0)


def test_evaluation_mode_leaves_features_alone():
    values, lengths = features(40, 300)
    assert spec_augment().eval()(values, lengths, RATE) is values
    assert not torch.equal(spec_augment()(values, lengths, RATE, torch.zeros(80)), values)


def test_nothing_past_the_lengths_is_touched():
    values, lengths = features(*LENGTHS)
    for _ in range(20):
        out = spec_augment(feature_share=0.9)(values, lengths, RATE, torch.zeros(80))
        for row, length in enumerate(LENGTHS):
            assert (out[row, length:] == 777).all()


@pytest.mark.parametrize("share", [0.05, 0.2, 0.6])
@pytest.mark.parametrize("length", LENGTHS)
def test_time_masks_stay_within_their_share(length, share):
    module = spec_augment(time_share=share, time_masks=4, time_width_s=0.3)
    masks = module.time_mask(torch.full((400,), length), length + 7, RATE)
    covered = masks.sum(dim=1)
    assert covered.max() <= min(int(length * share), 4 * 30)
    assert not masks[:, length:].any()
    if length * share >= 1:
        assert covered.max() > 0, "in 400 utterances some mask was to be drawn"
        assert covered.min() < covered.max(), "widths must be drawn"


def test_time_masks_are_drawn_evenly():
    """One mask of 0 to 20 of 100 frames: all widths alike, and starts over the whole utterance."""
    masks = spec_augment(time_masks=1, time_width_s=0.2, time_share=0.5).time_mask(torch.full((8000,), 100), 100, RATE)
    widths = masks.sum(dim=1)
    counts = torch.bincount(widths, minlength=21)
    assert len(counts) == 21
    assert (counts / 8000 - 1 / 21).abs().max() < 0.01
    starts = masks.int().argmax(dim=1)[widths == 10]
    assert starts.min() == 0
    assert starts.max() == 90
    assert abs(starts.float().mean() - 45) < 5


@pytest.mark.parametrize(("length", "most"), [(100, 20), (1000, 4 * 50), (3000, 10 * 50)])
def test_longer_utterances_get_more_masks(length, most):
    """By default 1 s, 10 s and 30 s have one, four and ten masks; were there no overlap, the mean would be half."""
    masks = spec_augment().time_mask(torch.full((500,), length), length, RATE)
    mean = masks.sum(dim=1).float().mean()
    assert 0.4 * most < mean < 0.52 * most


def test_feature_masks_are_bands_of_every_frame():
    found = []
    for _ in range(300):
        frames, bands = hidden(torch.ones(1, 50, 80), time_masks=0, feature_masks=2, feature_share=0.5)
        assert not frames.any()
        runs = (bands.int().diff(prepend=torch.zeros(1, dtype=torch.int)) == 1).sum()
        assert runs <= 2
        found.append(int(bands.sum()))
    assert max(found) <= 40
    assert 15 < sum(found) / len(found) < 20  # two of 0 to 20, less what overlaps


def test_zero_masks_are_none():
    values, lengths = features(40, 300)
    out = spec_augment(time_masks=0, feature_masks=0)(values, lengths, RATE)
    assert torch.equal(out, values)


def test_the_mask_is_the_mean_of_the_utterance():
    values = torch.randn(2, 400, 80) + torch.tensor([3.0, -2.0])[:, None, None]
    values[1, 250:] = 1e4
    out = spec_augment()(values, torch.tensor([400, 250]), RATE)
    for row, length in enumerate((400, 250)):
        changed = out[row, :length] != values[row, :length]
        assert changed.any()
        mean = values[row, :length].mean()
        torch.testing.assert_close(out[row, :length][changed].unique(), mean[None], rtol=1e-4, atol=1e-4)


def test_an_utterance_is_masked_alike_whatever_stands_beside_it():
    """With the same random numbers: only an utterance's own length counts."""
    module = spec_augment()
    values = torch.randn(2, 300, 80)
    torch.manual_seed(7)
    beside_short = module(values[:, :120], torch.tensor([100, 50]), RATE)
    torch.manual_seed(7)
    beside_long = module(values, torch.tensor([100, 300]), RATE)
    torch.testing.assert_close(beside_short[0, :100], beside_long[0, :100], rtol=0, atol=1e-6)


def test_a_default_type_of_bfloat16_does_not_round_places():
    """Lightning sets it with `precision: bf16-true`."""
    module = spec_augment(time_masks=1, time_width_s=20.0, time_share=0.9, feature_masks=1, feature_share=0.9)
    torch.set_default_dtype(torch.bfloat16)
    try:
        frames = module.time_mask(torch.full((4000,), 1501), 1501, RATE).sum(dim=1)
        bands = module.feature_mask(4000, 1021, torch.device("cpu")).sum(dim=1)
    finally:
        torch.set_default_dtype(torch.float32)
    assert len(frames.unique()) > 1000  # bfloat16 has 256 random numbers
    assert frames.max() <= 1350
    assert bands.max() <= 918


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_are_masked_in_training_alone(name):
    """All but the masks stays in evaluation mode, so that nothing else differs."""
    encoder = tiny_encoder(name, tuning="lora", spec_augment={})
    plain = tiny_encoder(name, tuning="lora")
    plain.load_state_dict(encoder.state_dict())
    batch = make_batch(noise(*CLIPS), padding=321, garbage=1e4)
    expected = plain(batch.audio, batch.audio_lengths)
    assert torch.equal(encoder(batch.audio, batch.audio_lengths).values, expected.values)
    encoder.spec_augment.train()
    masked = encoder(batch.audio, batch.audio_lengths)
    assert masked.lengths.tolist() == expected.lengths.tolist()
    for row, length in enumerate(masked.lengths.tolist()):
        assert not torch.equal(masked.values[row, :length], expected.values[row, :length])
        assert masked.values[row, length:].abs().sum() == 0
    encoder.spec_augment = SpecAugment(SpecAugmentOptions(time_masks=0, feature_masks=0)).train()
    assert torch.equal(encoder(batch.audio, batch.audio_lengths).values, expected.values)


@pytest.mark.parametrize("name", ENCODERS)
def test_gradients_reach_every_trained_weight(name):
    encoder = tiny_encoder(name, tuning="full", spec_augment={"time_share": 0.9, "feature_share": 0.9}).train()
    batch = make_batch(noise(*CLIPS), garbage=1e4)
    encoder(batch.audio, batch.audio_lengths).values.square().sum().backward()
    for key, parameter in encoder.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", ENCODERS)
def test_state_dicts_are_the_same_with_and_without(name):
    assert (
        tiny_encoder(name, tuning="full", spec_augment={}).state_dict().keys()
        == tiny_encoder(name, tuning="full").state_dict().keys()
    )


def test_a_whisper_that_pads_to_30s_is_masked_where_there_is_speech():
    encoder = tiny_encoder("whisper", tuning="full", pad_to_30s=True, spec_augment={"time_share": 0.9})
    seen = []
    encode = encoder._encode_mel
    encoder._encode_mel = lambda mel, lengths: (seen.append(mel), encode(mel, lengths))[1]
    for training in (False, True):
        encoder.spec_augment.train(training)
        encoder(torch.stack(noise(32_000)), torch.tensor([32_000]))
    stock, masked = seen
    assert stock.shape == masked.shape == (1, 80, 3000)
    assert torch.equal(stock[..., 200:], masked[..., 200:])
    assert not torch.equal(stock[..., :200], masked[..., :200])


def test_seamless_hides_the_same_band_in_both_frames_of_a_stack():
    encoder = tiny_encoder("seamless", tuning="full", spec_augment={"time_masks": 0})
    seen = []
    encode = encoder._encode
    encoder._encode = lambda values, lengths: (seen.append(values), encode(values, lengths))[1]
    clip, lengths = torch.stack(noise(32_000)), torch.tensor([32_000])
    for training in (False, True):
        encoder.spec_augment.train(training)
        encoder(clip, lengths)
    changed = (seen[0] != seen[1]).all(dim=1)[0]
    assert changed.any()
    assert torch.equal(changed[:80], changed[80:])


@pytest.mark.parametrize("ctc_head", [False, True])
def test_hubert_puts_the_checkpoints_mask_embedding(ctc_head, tmp_path):
    reference = HubertForCTC(HubertConfig(**HubertEncoder.tiny["config"]))
    reference.save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    encoder = HubertEncoder(
        pretrained=str(tmp_path), tuning="full", ctc_head=ctc_head, spec_augment={"feature_masks": 0}
    )
    assert torch.equal(encoder.mask_embedding, reference.hubert.masked_spec_embed)
    assert "mask_embedding" not in encoder.state_dict()
    assert not any("masked_spec_embed" in key for key, _ in encoder.named_parameters())
    seen = []
    encoder.hubert.encoder.pos_conv_embed.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    encoder(noise(32_000)[0][None], torch.tensor([32_000]))
    assert (seen[0] == encoder.mask_embedding).all(dim=2).any()


def test_hubert_without_a_learned_mask_embedding_puts_zeros(tmp_path):
    HubertModel(HubertConfig(**HubertEncoder.tiny["config"], mask_time_prob=0.0)).save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    for options in ({"pretrained": str(tmp_path)}, {"config": HubertEncoder.tiny["config"]}):
        encoder = HubertEncoder(**options, tuning="full", spec_augment={})
        assert encoder.mask_embedding.tolist() == [0.0] * 16
    assert HubertEncoder(pretrained=str(tmp_path), tuning="full").mask_embedding is None


@pytest.mark.parametrize("name", ENCODERS)
def test_a_frozen_encoder_is_refused_before_weights_are_loaded(name):
    for source in ({}, {"config": None, "pretrained": "no/such folder"}):
        if name == "hubert":
            source["do_normalize"] = True  # else it is looked up in the checkpoint
        with pytest.raises(UserError, match="`spec_augment` is for an encoder that is trained, and this one has"):
            tiny_encoder(name, spec_augment={}, **source)


def test_a_pretrained_whisper(tmp_path):
    spec = save_whisper(tmp_path)
    encoder = tiny_encoder(
        "whisper", config=None, pretrained=spec["pretrained"], tuning="lora", spec_augment={}
    ).train()
    assert encoder(noise(8000)[0][None], torch.tensor([8000])).values.requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_mask": 2}, "does not take 'time_mask'. Did you mean 'time_masks'"),
        (True, "must be a mapping"),
        ({"time_masks": 2.0}, "`time_masks` must be a whole number of at least 0, but is 2.0"),
        ({"feature_masks": -1}, "`feature_masks` must be a whole number"),
        ({"time_share": 1}, "`time_share` must lie between 0 and 1, but is 1"),
        ({"feature_share": 0.0}, "`feature_share` must lie between 0 and 1"),
        ({"time_width_s": 0}, "`time_width_s` must be a number above 0, but is 0"),
        ({"time_width_s": "0.5"}, "`time_width_s` must be a number above 0, but is '0.5'"),
        ({"time_masks": True, "time_share": None}, "`time_masks` .* is True; `time_share` .* is None"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UserError, match=message):
        tiny_encoder("whisper", tuning="full", spec_augment=options)
