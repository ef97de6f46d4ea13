"""The picture says what the adapter did: boundaries and labels where the spans are, whatever the time scale."""

import itertools
import sys

import matplotlib
import numpy as np
import pytest
import soundfile
import torch

from speechllm.batch import Spans
from speechllm.errors import UserError
from speechllm.models import SpeechLLM
from speechllm.models.inspection import Inspection, inspect_audio, log_mel
from speechllm.models.picture import PLOT, POINTS, lanes_of
from speechllm.models.picture_labels import label_places, label_width, place, words_of
from speechllm.registry import DECODERS, ENCODERS
from tests.tiny import noise

RATE = 50.0


def spans(*bounds, labels=None, weights=None):
    starts, ends = zip(*bounds, strict=True)
    weights = None if weights is None else torch.tensor(weights)
    return Spans(torch.tensor(starts).float(), torch.tensor(ends).float(), labels, weights)


def inspection(found, frames=100, texts=(("transcript", "Hello."),), name="a.wav", offset_s=0.0):
    duration_s = frames / RATE
    picture = torch.linspace(-0.5, 1.5, 80 * 2 * frames).view(80, -1)
    return Inspection(name, offset_s, duration_s, picture, frames, RATE, found, ("whisper", "ctc"), list(texts))


def axes_of(figure):
    return {axes.get_label(): axes for axes in figure.axes}


def lines(axes, label="boundaries"):
    (collection,) = [item for item in axes.collections if item.get_label() == label]
    return [tuple(segment[0]) for segment in collection.get_segments()]


def line_times(axes, label="boundaries"):
    return pytest.approx([x for x, _ in lines(axes, label)], abs=1e-5)


def written(axes):
    return [(round(text.get_position()[0], 4), text.get_text()) for text in axes.texts]


def blocks(axes):
    (collection,) = axes.collections
    return [(path.vertices[:4, 0].min(), path.vertices[:4, 0].max()) for path in collection.get_paths()]


def test_boundaries_stand_at_the_ends_of_the_spans_in_seconds():
    axes = axes_of(inspection(spans((0, 25), (25, 50), (60, 100))).figure())
    assert set(axes) == {"spectrogram", "positions"}
    assert line_times(axes["spectrogram"]) == [0.0, 0.5, 1.0, 1.2, 2.0]
    assert np.allclose(blocks(axes["positions"]), [(0, 0.5), (0.5, 1.0), (1.2, 2.0)])
    assert axes["spectrogram"].get_xlim() == (0, 2.0)
    assert axes["spectrogram"].images[0].get_extent() == [0, 2.0, 0, 80]
    assert axes["positions"].get_xlim() == axes["spectrogram"].get_xlim()


def test_labels_stand_over_the_middle_of_their_runs_and_blanks_have_none():
    found = spans((0, 10), (10, 40), (40, 50), (50, 100), labels=["T", "", " ", "$x$"])
    axes = axes_of(inspection(found).figure())
    assert written(axes["positions"]) == [(0.1, "T"), (0.9, "␣"), (1.5, "$x$")]
    assert not axes["positions"].texts[2].get_parse_math()
    (collection,) = axes["positions"].collections
    colors = [tuple(color) for color in collection.get_facecolors()]
    assert len(set(colors)) == 3
    assert colors.count(colors[1]) == 1  # the blank's own


def test_weights_are_a_curve_and_fires_are_lines():
    weights = [0.1] * 20 + [0.9] * 30 + [0.5] * 50
    axes = axes_of(inspection(spans((0, 21.1), (21.1, 33.5), (33.5, 99.0), weights=weights)).figure())
    (outline,) = [patch for patch in axes["weights"].patches if patch.get_label() == "weights"]
    values, edges, _ = outline.get_data()
    assert np.allclose(values, weights)
    assert np.allclose(edges, np.arange(101) / RATE)
    assert line_times(axes["weights"], "fires") == [0.422, 0.67, 1.98]
    assert line_times(axes["spectrogram"]) == [0.0, 0.422, 0.67, 1.98]


def test_equal_shares_need_no_curve():
    """A curve of 1/n would say what the boundaries say."""
    assert "weights" not in axes_of(inspection(spans((0, 2), (2, 4), weights=[0.5] * 4 + [0.0] * 96)).figure())


def test_overlapping_windows_get_lanes_and_one_line_each():
    found = spans((0, 10), (4, 14), (8, 18), (12, 22))
    assert lanes_of(found) == [0, 1, 2, 0]
    axes = axes_of(inspection(found).figure())
    assert line_times(axes["spectrogram"]) == [0.0, 0.08, 0.16, 0.24, 0.44]
    assert lanes_of(spans((0, 16), (0, 16), (16, 32), (16, 32))) == [0, 1, 0, 1]


def test_dense_boundaries_become_ticks_that_leave_the_spectrogram_to_be_seen():
    for frames, highest in ((50, 80), (750, 6.4)):
        axes = axes_of(inspection(spans(*[(k, k + 1) for k in range(frames)]), frames).figure())
        (collection,) = [item for item in axes["spectrogram"].collections if item.get_label() == "boundaries"]
        assert {segment[1][1] for segment in collection.get_segments()} == {highest}


@pytest.mark.parametrize("frames", [50, 200, 750, 1500])
@pytest.mark.parametrize("label", ["e", "straße", " and"])
def test_labels_never_overlap(frames, label):
    found = spans(*[(k, k + 1) for k in range(0, frames, 3)], labels=[label] * len(range(0, frames, 3)))
    points_per_frame = PLOT * POINTS / frames
    labels = label_places(found, points_per_frame, PLOT * POINTS)
    assert labels.placed
    for row in range(labels.rows):
        widths = [
            (middle * points_per_frame, label_width(text, labels.size))
            for middle, text, at in labels.placed
            if at == row
        ]
        ends = [(middle - width / 2, middle + width / 2) for middle, width in widths]
        assert all(left > right for (_, right), (left, _) in itertools.pairwise(ends))
        assert ends[-1][1] < (PLOT + 0.25) * POINTS


def test_labels_that_do_not_fit_are_joined_to_words_and_then_left_out():
    text = "The cat sat on the mat in the hall of my aunt "
    found = spans(*[(4 * k, 4 * k + 1) for k in range(len(text))], labels=list(text))
    wide, joined, few = (label_places(found, width, PLOT * POINTS) for width in (4.5, 0.8, 0.2))
    assert [label for _, label, _ in wide.placed] == list(text)
    assert wide.note == ""
    assert [label for _, label, _ in joined.placed] == text.split()
    assert joined.placed[1][0] == pytest.approx((16 + 25) / 2, abs=0.5)  # "cat" is frames 16 to 25
    assert joined.note == "labels joined to words"
    assert 0 < len(few.placed) < 12
    assert few.note == f"{12 - len(few.placed)} of 12 labels left out"
    figure = inspection(found, 1000).figure()
    assert any("words" in text for _, text in written(axes_of(figure)["positions"]))


def test_words_of_pieces_with_their_own_spaces():
    found = spans((0, 2), (2, 4), (4, 6), (6, 8), (8, 10), labels=["The", " ca", "", "t", " sat."])
    assert words_of(found) == [(1.0, "The"), (5.0, "cat"), (9.0, "sat.")]


def test_a_label_goes_to_the_first_row_with_room():
    assert place([0.0, 5.0, 20.0, 21.0, 22.0], [8.0] * 5, rows=2, gap=1.0) == [0, 1, 0, 1, None]


def test_caption_counts():
    first, second = inspection(spans((0, 25), (25, 50), (60, 100)), offset_s=3.5).caption()
    assert first == "a.wav, 3.50 to 5.50 s  (2.00 s)"
    assert second == "whisper: 100 frames, 50 per second  →  ctc: 3 positions, 1.5 per second  (33.3 : 1)"
    figure = inspection(spans((0, 100))).figure()
    assert [text.get_text() for text in figure.texts][:2] == list(inspection(spans((0, 100))).caption())


def test_long_and_odd_texts():
    texts = [("transcript", "word " * 400), ("translation (de)", ""), ("translation", "a\nb\x07 $1 and $2")]
    figure = inspection(spans((0, 100)), texts=texts).figure()
    kind, *shown = [text.get_text() for text in figure.texts][2:]
    assert kind == "transcript"
    assert shown[3].endswith("word …")
    assert shown[4:] == ["translation (de)", "(nothing)", "translation", "a b� $1 and $2"]
    assert max(len(line) for line in shown[:4]) <= 105


def test_frames_beyond_the_audio_are_shown():
    """Whisper padded to 30 s gives positions for silence."""
    found = Inspection(
        "a.wav", 0.0, 1.0, torch.zeros(80, 100), 1500, RATE, spans((0, 750), (750, 1500)), ("whisper", "conv"), []
    )
    axes = axes_of(found.figure())
    assert axes["spectrogram"].get_xlim() == (0, 30.0)
    assert line_times(axes["spectrogram"]) == [0.0, 15.0, 30.0]


def test_a_notebook_shows_the_picture_and_keeps_its_own_settings():
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 30}):
        before = dict(matplotlib.rcParams)
        found = inspection(spans((0, 100)))
        assert found._repr_png_().startswith(b"\x89PNG")
        assert found.figure().axes[0].get_facecolor() == (1, 1, 1, 1)
        assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not matplotlib.pyplot.get_fignums()


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_pictures_are_saved(tmp_path, suffix):
    inspection(spans((0, 100))).save(tmp_path / f"a{suffix}")
    assert (tmp_path / f"a{suffix}").stat().st_size > 1000


def test_pictures_that_cannot_be_saved(tmp_path):
    with pytest.raises(UserError, match=r"ends in one of \.png, \.pdf, \.svg, but this is 'a\.bmp'"):
        inspection(spans((0, 100))).save("a.bmp")
    with pytest.raises(UserError, match="there is no folder"):
        inspection(spans((0, 100))).save(tmp_path / "none" / "a.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        inspection(spans((0, 100))).save(tmp_path / "folder.png")


@pytest.fixture
def model():
    specs = {
        "encoder": {"name": "whisper", **ENCODERS.get("whisper").tiny},
        "adapter": {"name": "conv", "dim": 16, "heads": 2, "layers": 0},
        "decoder": {"name": "causal_lm", **DECODERS.get("causal_lm").tiny},
    }
    model = SpeechLLM(**specs, max_new_tokens=4)
    model.configure_model()
    model.trained_on = {("asr", "en", "en"), ("st", "en", "de")}
    return model


def test_a_stretch_of_a_file_and_the_same_samples_give_the_same(model, tmp_path):
    (samples,) = noise(32_000)
    soundfile.write(tmp_path / "talk.wav", samples.numpy(), 16_000, subtype="FLOAT")
    found = inspect_audio(model, tmp_path / "talk.wav", offset_s=0.5, duration_s=0.96)
    assert found.frames == 48
    assert found.positions == 12
    assert found.spans.starts.tolist() == [4 * k for k in range(12)]
    assert found.compression_ratio == 4.0
    assert found.positions_per_second == pytest.approx(12.5)
    assert found.name == "talk.wav"
    assert found.log_mel.shape == (80, 96)
    again = inspect_audio(model, samples[8000:23_360])
    assert torch.equal(again.log_mel, found.log_mel)
    assert again.texts == found.texts == [("transcript", model.transcribe(samples[8000:23_360])[0])]
    assert inspect_audio(model, samples[8000:23_360], "de").texts == [
        ("translation (de)", model.translate(samples[8000:23_360], "de")[0])
    ]
    assert line_times(axes_of(found.figure())["spectrogram"]) == [0.08 * k for k in range(13)]


def test_the_adapter_is_asked_as_it_decodes(model):
    """Dropout, for instance, is off, and the mode of the model is what it was."""
    seen = []
    model.adapter.spans = lambda frames: seen.append(model.adapter.training) or [spans((0, 50))]
    model.train()
    inspect_audio(model, noise(16_000)[0])
    assert seen == [False]
    assert model.adapter.training


def test_a_tone_is_a_line_at_its_frequency():
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(16_000) / 16_000)
    found = log_mel(tone)
    assert found.shape == (80, 100)
    assert set(found[:, 10:90].argmax(dim=0).tolist()) == {26}  # Slaney's filters are 37.6 Hz apart below 1 kHz


def test_audio_that_cannot_be_shown(model, tmp_path):
    with pytest.raises(UserError, match=r"none\.wav' does not exist"):
        inspect_audio(model, tmp_path / "none.wav")
    soundfile.write(tmp_path / "long.wav", np.zeros(16_000 * 31), 16_000)
    with pytest.raises(UserError, match=r"'long\.wav' lasts 31\.00 s.*at most 30 s.*`duration_s`"):
        inspect_audio(model, tmp_path / "long.wav")
    assert inspect_audio(model, tmp_path / "long.wav", offset_s=30.0).duration_s == pytest.approx(1.0)
    with pytest.raises(UserError, match=r"31\.000 s long, and a segment of it begins at 40\.000 s"):
        inspect_audio(model, tmp_path / "long.wav", offset_s=40.0)
    with pytest.raises(UserError, match="are for files"):
        inspect_audio(model, torch.zeros(16_000), offset_s=1.0)
    with pytest.raises(UserError, match="Unknown language 'dee'"):
        inspect_audio(model, torch.zeros(16_000), target="dee")


def test_labels_in_the_llms_own_tokens_are_spelled_out():
    """CTC compression of paper A writes in the LLM's tokens, whose text only the decoder knows."""
    model = SpeechLLM(
        encoder={"name": "whisper", **ENCODERS.get("whisper").tiny},
        adapter={"name": "ctc", "dim": 16, "heads": 2, "layers": 0},
        decoder={"name": "causal_lm", **DECODERS.get("causal_lm").tiny},
        max_new_tokens=4,
    )
    model.configure_model()
    model.trained_on = {("asr", "en", "en")}
    (token,) = model.decoder.tokenizer("k", add_special_tokens=False)["input_ids"]
    torch.nn.init.zeros_(model.adapter.head.weight)
    for label, text in ((token, "k"), (model.adapter.blank, "")):
        torch.nn.init.zeros_(model.adapter.head.bias)
        model.adapter.head.bias.data[label] = 1
        assert inspect_audio(model, noise(16_000)[0]).spans.labels == [text]
