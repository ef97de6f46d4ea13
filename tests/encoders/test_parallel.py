"""Two encoders in parallel: the streams of an utterance stay together, at one rate, each encoder tuned its own way."""

import warnings
from fractions import Fraction

import pytest
import torch

import speechllm.fusions  # noqa: F401  # registers what the encoder names
from speechllm.batch import SAMPLE_RATE, Frames
from speechllm.encoders.base import Encoder
from speechllm.encoders.parallel import ParallelEncoder, resample_frames
from speechllm.errors import UserError
from speechllm.registry import ENCODERS
from tests.tiny import make_batch, noise, tiny_encoder

LENGTHS = (4_000, 23_456, 9_999)
TOLERANCE = 1e-5
FIRST, SECOND = ParallelEncoder.tiny["encoders"]


class ClockEncoder(Encoder):
    """Frames that say at which second they stand, and of which utterance they are."""

    def __init__(self, rate=50.0, extra=0, limit_s=None, shortest=1):
        super().__init__()
        self.dim, self.frame_rate, self.extra = 2, rate, extra
        self.max_duration_s, self.min_samples = limit_s, shortest
        self.pretrained = None
        self.apply_tuning("frozen")

    def output_lengths(self, audio_lengths):
        return (audio_lengths * self.frame_rate / SAMPLE_RATE).ceil().long() + self.extra

    def forward(self, audio, audio_lengths):
        lengths = self.output_lengths(audio_lengths)
        seconds = torch.arange(int(lengths.max())) / self.frame_rate
        values = torch.stack([seconds.expand(len(lengths), -1), audio[:, :1].expand(-1, len(seconds))], dim=2)
        values = values.masked_fill(torch.arange(len(seconds))[None, :, None] >= lengths[:, None, None], 1e4)
        return Frames(values, lengths)


@pytest.fixture
def clocks(monkeypatch):
    """Return a builder of two clocks in parallel whose streams are concatenated."""
    monkeypatch.setitem(ENCODERS._parts, "clock", ClockEncoder)

    def build(first, second, **options):
        specs = [{"name": "clock", **first}, {"name": "clock", **second}]
        return ParallelEncoder(specs, {"name": "concat"}, **options)

    return build


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_streams_of_one_position_belong_to_one_utterance(order):
    """Spec §11.6: whatever the batch, each half of a frame is what its encoder says of that utterance alone."""
    clips = noise(*LENGTHS)
    encoder = tiny_encoder("parallel", fusion={"name": "concat"})
    batch = make_batch(clips, order, padding=777, garbage=1e4)
    together = encoder(batch.audio, batch.audio_lengths)
    for row, i in enumerate(order):
        alone = [part(clips[i][None], torch.tensor([LENGTHS[i]])) for part in (encoder.first, encoder.second)]
        length = int(together.lengths[row])
        assert [int(frames.lengths[0]) for frames in alone] == [length, length]
        expected = torch.cat([frames.values[0] for frames in alone], dim=1)
        torch.testing.assert_close(together.values[row, :length], expected, rtol=0, atol=TOLERANCE)
        assert together.values[row, length:].abs().sum() == 0


def test_a_batch_of_three_equals_each_alone():
    clips = noise(*LENGTHS)
    encoder = tiny_encoder("parallel")
    batch = make_batch(clips, padding=777, garbage=1e4)
    together = encoder(batch.audio, batch.audio_lengths)
    assert together.values.shape[2] == encoder.dim == 2 * (16 + 12)
    for row, clip in enumerate(clips):
        alone = encoder(clip[None], torch.tensor([len(clip)]))
        length = int(alone.lengths[0])
        assert int(together.lengths[row]) == length
        torch.testing.assert_close(together.values[row, :length], alone.values[0], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (Fraction(1), [0, 10, 30]),
        (Fraction(2), [0, 5, 10, 20, 30, 30]),
        (Fraction(3, 2), [0, 20 / 3, 10 + 20 / 3, 30, 30]),
        (Fraction(1, 2), [0, 30]),
        (Fraction(8), [*[10 * i / 8 for i in range(8)], *[10 + 20 * i / 8 for i in range(8)], *[30] * 8]),
    ],
)
def test_golden_resampling(ratio, expected):
    """By hand; the second utterance ends after one frame, and what stands behind it is never read."""
    values = torch.tensor([[0.0, 10.0, 30.0, 1e4], [7.0, 1e4, 1e4, 1e4]])[..., None]
    frames = resample_frames(Frames(values, torch.tensor([3, 1])), ratio)
    ones = -(-1 * ratio.numerator // ratio.denominator)
    assert frames.lengths.tolist() == [len(expected), ones]
    torch.testing.assert_close(frames.values[0, : len(expected), 0], torch.tensor(expected, dtype=torch.float32))
    assert frames.values[1, :ones, 0].tolist() == [7.0] * ones


def test_resampling_keeps_the_number_format_and_gives_zero_padding():
    values = torch.randn(2, 5, 3, dtype=torch.bfloat16)
    frames = resample_frames(Frames(values, torch.tensor([5, 2])), Fraction(2))
    assert frames.values.dtype == torch.bfloat16
    assert frames.values[1, 4:].abs().sum() == 0


@pytest.mark.parametrize("rates", [(50.0, 6.25), (6.25, 50.0), (50.0, 49.5), (12.5, 16.67)])
@pytest.mark.parametrize("frame_rate", [None, 25.0, 100.0])
def test_streams_of_two_rates_show_the_same_moment(clocks, rates, frame_rate):
    """Frame t of both streams stands at t / rate of the same utterance, until the last frame of either is held."""
    encoder = clocks({"rate": rates[0]}, {"rate": rates[1]}, frame_rate=frame_rate)
    assert encoder.frame_rate == (frame_rate or max(rates))
    audio_lengths = torch.tensor([400, 16_000, 51_234])
    audio = torch.full((3, 60_000), 0.1) * torch.arange(1, 4)[:, None]
    frames = encoder(audio, audio_lengths)
    assert frames.lengths.tolist() == encoder.output_lengths(audio_lengths).tolist()
    for row, length in enumerate(frames.lengths.tolist()):
        times = torch.arange(length) / encoder.frame_rate
        for rate, stream in zip(rates, frames.values[row, :length].split(2, dim=1), strict=True):
            last = (torch.ceil(audio_lengths[row] * rate / SAMPLE_RATE) - 1) / rate
            torch.testing.assert_close(stream[:, 0], times.clamp(max=float(last)), rtol=0, atol=1e-4)
            torch.testing.assert_close(stream[:, 1], audio[row, 0].expand(length))
        assert abs(length / encoder.frame_rate - float(audio_lengths[row]) / SAMPLE_RATE) <= 1 / min(
            *rates, encoder.frame_rate
        )


def test_equal_rates_are_left_as_they_are():
    values = torch.randn(2, 5, 3)
    frames = Frames(values, torch.tensor([5, 2]))
    assert resample_frames(frames, Fraction(1)) is frames


def test_limits_are_those_of_both(clocks):
    encoder = clocks({"limit_s": None, "shortest": 400}, {"limit_s": 20.0, "shortest": 1})
    assert (encoder.min_samples, encoder.max_duration_s) == (400, 20.0)
    assert clocks({}, {}).max_duration_s is None
    with pytest.raises(UserError, match="Utterance 'b' has 399 samples; this encoder needs at least 400"):
        encoder.check_durations(torch.tensor([400, 399]), ["a", "b"])
    with pytest.raises(UserError, match=r"Utterance 'b' lasts 21\.00 s; the encoder takes at most 20 s"):
        encoder.check_durations(torch.tensor([400, 21 * SAMPLE_RATE]), ["a", "b"])


def test_streams_of_different_lengths_are_cut_and_counted(clocks):
    """Two frames more come of rounding; three are a sign of something wrong, said once and counted always."""
    audio, audio_lengths = torch.ones(2, 16_000), torch.tensor([16_000, 8_000])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder = clocks({}, {"extra": 2})
        assert encoder(audio, audio_lengths).lengths.tolist() == [50, 25]
        assert encoder.uneven_utterances == 0
        # One frame of 6.25 Hz lasts eight of 50 Hz.
        assert clocks({}, {"rate": 6.25, "extra": 1})(audio, audio_lengths).lengths.tolist() == [50, 25]
    encoder = clocks({}, {"extra": 3})
    with pytest.warns(UserWarning, match="differ by 3 frames at 50 Hz") as caught:
        encoder(audio, audio_lengths)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frames = encoder(audio, audio_lengths)
    assert encoder.uneven_utterances == 4
    assert frames.lengths.tolist() == [50, 25]
    assert torch.equal(frames.values[..., :2], frames.values[..., 2:])


def test_each_encoder_is_tuned_its_own_way_and_the_fusion_always_learns():
    encoder = tiny_encoder("parallel", encoders=[FIRST, {**SECOND, "tuning": "full"}])
    encoder.train()
    assert [part.training for part in (encoder.first, encoder.second, encoder.fusion)] == [False, True, True]
    assert not encoder.frozen
    encoder(noise(8000)[0][None], torch.tensor([8000])).values.square().sum().backward()
    reached = {key for key, p in encoder.named_parameters() if p.grad is not None}
    assert {key.split(".")[0] for key in reached} == {"second", "fusion"}
    assert {key for key, p in encoder.named_parameters() if p.requires_grad} == reached


@pytest.mark.parametrize("dtypes", [("bfloat16", "float32"), ("bfloat16", "bfloat16")])
@pytest.mark.parametrize("fusion", [{"name": "concat"}, {"name": "gated_bicross_cat", "heads": 2}])
def test_number_formats_of_the_encoders(dtypes, fusion):
    """Encoders may be stored in bfloat16 beside a fusion of float32; the frames are those of float32, rounded."""
    clip, length = noise(8000)[0][None], torch.tensor([8000])
    specs = [{**spec, "dtype": dtype} for spec, dtype in zip((FIRST, SECOND), dtypes, strict=True)]
    encoder = tiny_encoder("parallel", encoders=specs, fusion=fusion)
    reference = tiny_encoder("parallel", fusion=fusion)
    reference.load_state_dict(encoder.state_dict())
    expected = reference(clip, length).values
    for result in (encoder(clip, length).values, encoder.bfloat16()(clip, length).values):
        assert (result.float() - expected).norm() < 0.05 * expected.norm()
    assert result.dtype == torch.bfloat16


NOWHERE = {"name": "whisper", "pretrained": "/no/such/folder"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoders": [NOWHERE]}, r"needs a list of two encoder specs"),
        ({"encoders": NOWHERE}, r"needs a list of two encoder specs"),
        ({"encoders": [NOWHERE, {"name": "wisper"}]}, "Unknown encoder 'wisper'. Did you mean 'whisper'"),
        ({"encoders": [NOWHERE, {**NOWHERE, "tunning": "full"}]}, "does not take 'tunning'. Did you mean 'tuning'"),
        ({"encoders": [NOWHERE, {"name": "parallel", **ParallelEncoder.tiny}]}, "cannot hold another 'parallel'"),
        ({"encoders": [NOWHERE, NOWHERE], "fusion": {"name": "gated"}}, "Unknown fusion 'gated'"),
        ({"encoders": [NOWHERE, NOWHERE], "fusion": {"name": "concat", "heads": 2}}, "'concat' does not take 'heads'"),
        ({"encoders": [NOWHERE, NOWHERE], "frame_rate": 0}, "cannot meet at `frame_rate: 0`. Choose 1 to 50"),
    ],
)
def test_wrong_options_are_found_before_weights_are_loaded(options, message):
    with pytest.raises(UserError, match=message):
        tiny_encoder("parallel", **options)


@pytest.mark.parametrize(
    ("second", "golden"), [("hubert", [1, 2, 49, 49, 99, 499, 1499]), ("seamless", [2, 3, 50, 51, 101, 500, 1500])]
)
def test_whisper_beside_another_encoder(second, golden):
    """Spec §2.1 and §11.1: the shorter of the streams at 50 Hz, and roundings of each are no mismatch."""
    specs = [FIRST, {"name": second, **ENCODERS.get(second).tiny}]
    encoder = tiny_encoder("parallel", encoders=specs)
    assert encoder.frame_rate == 50
    lengths = torch.tensor([560, 720, 16_000, 16_079, 32_077, 160_000, 480_000])
    assert encoder.output_lengths(lengths).tolist() == golden
    clips = noise(*range(encoder.min_samples, 20_000, 1_237))
    batch = make_batch(clips, padding=777, garbage=1e4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        together = encoder(batch.audio, batch.audio_lengths)
    assert together.lengths.tolist() == encoder.output_lengths(batch.audio_lengths).tolist()
    for row in (0, 3, 7):
        alone = encoder(clips[row][None], torch.tensor([len(clips[row])])).values[0]
        torch.testing.assert_close(together.values[row, : len(alone)], alone, rtol=0, atol=2e-4)
