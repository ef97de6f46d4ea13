"""CTC collapse: golden values of spec §6.9 with the encoder's own logits, blanks alone, projections, spans."""

import pytest
import torch

from speechllm.adapters.ctc_collapse import CTCCollapseAdapter
from speechllm.batch import Frames
from speechllm.errors import UserError

PROBABILITIES = torch.tensor(
    [[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.5, 0.4], [0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [0.8, 0.1, 0.1]]
)
FRAMES = torch.arange(1.0, 7.0)[:, None]


def collapse(logits, blank=0, lengths=(6,)):
    """Return the output with a projection that changes nothing, of frames 1 to 6."""
    adapter = CTCCollapseAdapter(1, 1)
    torch.nn.init.ones_(adapter.projection[0].weight)
    torch.nn.init.zeros_(adapter.projection[0].bias)
    values = FRAMES.expand(len(lengths), -1, -1)
    return adapter(Frames(values, torch.tensor(lengths), logits.expand(len(lengths), -1, -1), blank))


@pytest.mark.parametrize(("blank", "expected"), [(0, [2.5, 5]), (1, [1, 4, 5, 6]), (2, [1, 2.5, 4, 6])])
def test_golden_runs_without_the_encoders_blank(blank, expected):
    output = collapse(PROBABILITIES.log(), blank)
    assert output.values[0, :, 0].tolist() == expected
    assert (output.lengths.tolist(), int(output.stats["ctc_fallbacks"])) == ([len(expected)], 0)


def test_batch_of_blanks_and_cut_runs():
    """Two frames hold one run; one frame, a blank, becomes the mean of what there is; nothing stands behind."""
    output = collapse(PROBABILITIES.log(), lengths=(6, 2, 1))
    assert output.values[..., 0].tolist() == [[2.5, 5], [2, 0], [1, 0]]
    assert output.lengths.tolist() == [2, 1, 1]
    assert int(output.stats["ctc_fallbacks"]) == 1
    assert float(output.stats["ctc_blank_rate"]) == pytest.approx(5 / 9)
    assert output.losses == {}


def test_padding_and_batch_mates_change_nothing():
    values, logits, lengths = torch.randn(4, 40, 6), torch.randn(4, 40, 5), torch.tensor([40, 1, 7, 22])
    padded = lengths[:, None] <= torch.arange(40)
    values[padded], logits[padded] = 1e4, 1e4
    adapter = CTCCollapseAdapter(6, 8, projection_layers=2)
    together = adapter(Frames(values, lengths, logits, 2))
    for row, length in enumerate(lengths.tolist()):
        own = slice(row, row + 1), slice(length)
        alone = adapter(Frames(values[own], lengths[own[0]], logits[own], 2))
        count = int(alone.lengths[0])
        assert int(together.lengths[row]) == count
        torch.testing.assert_close(together.values[row, :count], alone.values[0], rtol=0, atol=1e-5)
        assert together.values[row, count:].abs().sum() == 0


def test_frames_learn_through_the_means_and_logits_do_not():
    values = FRAMES[None].clone().requires_grad_()
    logits = PROBABILITIES.log()[None].requires_grad_()
    adapter = CTCCollapseAdapter(1, 1)
    torch.nn.init.ones_(adapter.projection[0].weight)
    adapter(Frames(values, torch.tensor([6]), logits)).values.sum().backward()
    assert values.grad.flatten().tolist() == [0, 0.5, 0.5, 0, 1, 0]
    assert logits.grad is None


def test_projections():
    """Paper B: one linear layer, with bias; two have GELU between."""
    names = [type(layer).__name__ for layer in CTCCollapseAdapter(3, 4, projection_layers=2).projection]
    assert names == ["Linear", "GELU", "Linear"]
    assert sum(p.numel() for p in CTCCollapseAdapter(1024, 8).parameters()) == 1024 * 8 + 8
    with pytest.raises(UserError, match="`projection_layers` must be 1 or 2, but is 3"):
        CTCCollapseAdapter(3, 4, projection_layers=3)


def test_spans_are_the_runs():
    logits = PROBABILITIES.log().expand(2, -1, -1)
    spans = CTCCollapseAdapter(1, 1).spans(Frames(FRAMES.expand(2, -1, -1), torch.tensor([6, 1]), logits))
    assert [(span.starts.tolist(), span.ends.tolist()) for span in spans] == [([1, 4], [3, 5]), ([0], [1])]


def test_frames_without_logits_say_which_encoder_gives_them():
    assert CTCCollapseAdapter.needs_ctc_logits
    with pytest.raises(UserError, match=r"needs an encoder with a CTC head.*'hubert' with `ctc_head: true`"):
        CTCCollapseAdapter(1, 1)(Frames(FRAMES[None], torch.tensor([6])))
