"""Paper C's CTC bridge: runs without blanks, the fallback under gradient, its loss, and vocabularies of its own."""

import pytest
import torch

from speechllm.adapters.bridge_ctc import CTCBridgeAdapter
from speechllm.batch import Frames
from speechllm.errors import UserError

BLANK = 3
LABELS = [BLANK, 0, 0, 1, BLANK, 1, 1, 1, BLANK]


def adapter_that_reads_the_features(**options):
    """Width 4 and labels 0–2 beside the blank: a frame's largest feature is its label; the projection adds them up."""
    options = {"vocabulary": "characters", "alphabet": "abc", **options}
    adapter = CTCBridgeAdapter(in_dim=4, out_dim=4, vocab_size=99, **options)
    for layer in (adapter.head, adapter.projection):
        torch.nn.init.eye_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    return adapter


def frames_of(*labels, scale=1.0):
    """One utterance with a frame a label; each is a little larger than the one before."""
    heights = scale * torch.arange(1.0, len(labels) + 1)
    values = torch.nn.functional.one_hot(torch.tensor(labels), 4) * heights[:, None]
    return Frames(values[None], torch.tensor([len(labels)]))


def test_runs_are_averaged_and_blanks_removed():
    """A blank between two runs of one label keeps them apart."""
    output = adapter_that_reads_the_features()(frames_of(*LABELS))
    expected = torch.tensor([[2.5, 0, 0, 0], [0, 4, 0, 0], [0, 7, 0, 0]])
    torch.testing.assert_close(output.values[0], expected, rtol=0, atol=1e-6)
    assert output.lengths.tolist() == [3]
    assert float(output.stats["ctc_blank_rate"]) == pytest.approx(3 / 9)
    assert int(output.stats["ctc_fallbacks"]) == 0


def test_an_utterance_of_blanks_is_the_mean_of_its_frames_and_learns():
    """Early in training every utterance is one: its frames must get the LLM's gradient, its head that of the loss."""
    adapter = adapter_that_reads_the_features()
    frames = frames_of(*[BLANK] * 5)
    frames.values.requires_grad_()
    output = adapter(frames, [torch.tensor([0, 1])])
    torch.testing.assert_close(output.values[0], torch.tensor([[0, 0, 0, 3.0]]))
    assert int(output.stats["ctc_fallbacks"]) == 1
    assert float(output.stats["ctc_blank_rate"]) == 1
    output.values.sum().backward(retain_graph=True)
    torch.testing.assert_close(frames.values.grad, torch.full((1, 5, 4), 0.2))
    assert adapter.head.weight.grad is None
    output.losses["ctc"].sum().backward()
    assert adapter.head.weight.grad.isfinite().all()
    assert (adapter.head.bias.grad[:2] < 0).all(), "the loss must raise the labels of the transcript"


def test_loss_alone_teaches_the_head_to_leave_the_blank():
    """From nothing but blanks to the transcript's runs, by the adapter's own loss."""
    torch.manual_seed(0)
    adapter = CTCBridgeAdapter(in_dim=4, out_dim=4, vocab_size=3)
    torch.nn.init.constant_(adapter.head.bias[BLANK:].data, 4)
    frames = Frames(torch.eye(4)[[0, 0, 1, 3, 2, 2]][None], torch.tensor([6]))
    assert int(adapter(frames).stats["ctc_fallbacks"]) == 1
    optimizer = torch.optim.Adam(adapter.parameters(), lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        adapter(frames, [torch.tensor([0, 1, 2])]).losses["ctc"].sum().backward()
        optimizer.step()
    [spans] = adapter.spans(frames)
    assert adapter(frames).lengths.tolist() == [3]
    assert adapter.log_probs(frames.values)[0].argmax(dim=-1).unique().tolist()[:3] == [0, 1, 2]
    assert spans.labels is None, "the LLM's tokens are not the adapter's to spell"


def test_loss_is_ctc_of_the_head_and_weighs_what_recipes_expect():
    adapter = adapter_that_reads_the_features()
    frames = Frames(torch.randn(2, 9, 4), torch.tensor([9, 5]))
    targets = [torch.tensor([0, 2, 1]), torch.tensor([1])]
    losses = adapter(frames, targets).losses["ctc"]
    for row, (length, target) in enumerate(zip((9, 5), targets, strict=True)):
        log_probs = frames.values[row, :length].log_softmax(dim=-1)
        expected = torch.nn.functional.ctc_loss(
            log_probs, target, torch.tensor(length), torch.tensor(len(target)), blank=BLANK, reduction="sum"
        )
        torch.testing.assert_close(losses[row], expected / len(target), rtol=0, atol=1e-5)
    assert adapter.loss_weights == {"ctc": 0.3}


def test_vocabularies():
    own = adapter_that_reads_the_features()
    assert [ids.tolist() for ids in own.encode_targets(["a cab", ""])] == [[0, 2, 0, 1], []]
    llm = CTCBridgeAdapter(in_dim=4, out_dim=4, vocab_size=99)
    assert (llm.blank, llm.head.out_features) == (99, 100)
    assert llm.encode_targets(["a cab"]) is None
    assert CTCBridgeAdapter(in_dim=4, out_dim=4, vocab_size=99, vocabulary="bytes").blank == 256
    with pytest.raises(UserError, match="Unknown CTC vocabulary 'character'"):
        CTCBridgeAdapter(in_dim=4, out_dim=4, vocab_size=99, vocabulary="character")


def test_spans_are_the_runs_and_say_their_labels():
    adapter = adapter_that_reads_the_features()
    frames = frames_of(*LABELS)
    garbage = torch.full((1, 3, 4), 1e4)
    frames = Frames(torch.cat([frames.values, garbage], dim=1), frames.lengths)
    [spans] = adapter.spans(frames)
    assert spans.starts.tolist() == [1, 3, 5]
    assert spans.ends.tolist() == [3, 4, 8]
    assert spans.labels == ["a", "b", "b"]
    [blanks] = adapter.spans(frames_of(BLANK, BLANK))
    assert (blanks.starts.tolist(), blanks.ends.tolist(), blanks.labels) == ([0], [2], [""])
