"""The loss in chunks: losses, gradients and memory against the loss of whole logits, for every kind of output layer."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from speechllm.batch import AdapterOutput
from speechllm.decoders.causal_lm import CausalLM
from speechllm.decoders.loss import token_losses
from tests.tiny import LLM_FAMILIES, SIZES, make_batch, noise, tiny_decoder

CPU = torch.device("cpu")
TARGETS = torch.tensor([3, 0, 9, 9, 5, 1, 7])
WEIGHTS = torch.tensor([1.0, 0.5, 2.0, 0.0, 1.0, 3.0, 1.0])
ROW = 4 * 11  # bytes of one position's logits


class Output(nn.Module):
    """A linear layer, its logits scaled and soft-capped."""

    def __init__(self, scale, cap, dtype):
        super().__init__()
        self.linear = nn.Linear(4, 11, dtype=dtype)
        self.scale, self.cap = scale, cap

    def forward(self, hidden):
        logits = self.linear(hidden) * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


class LargestTensor(TorchDispatchMode):
    """Notes the elements of the largest tensor that an operation gives."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def losses_and_gradients(losses, parameters):
    (losses * WEIGHTS.to(losses.dtype)).sum().backward()
    gradients = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    return [losses.detach(), *gradients]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("chunk_bytes", [1, 3 * ROW, 100 * ROW])
@pytest.mark.parametrize(("scale", "cap"), [(1.0, None), (0.0625, None), (1.0, 2.0), (3.0, 0.5)])
@pytest.mark.parametrize("trained", [False, True])
def test_losses_and_gradients(trained, scale, cap, chunk_bytes, dtype):
    torch.manual_seed(0)
    output = Output(scale, cap, dtype).requires_grad_(trained)
    hidden = (5 * torch.randn(7, 4, dtype=dtype)).requires_grad_()
    parameters = [hidden, *output.parameters()] if trained else [hidden]
    plain = nn.functional.cross_entropy(output(hidden), TARGETS, reduction="none")
    expected = losses_and_gradients(plain, parameters)
    got = losses_and_gradients(token_losses(hidden, TARGETS, output, 11, trained, chunk_bytes), parameters)
    for left, right in zip(got, expected, strict=True):
        assert left.dtype == dtype
        torch.testing.assert_close(left, right)


def test_half_precision_is_summed_in_float32():
    torch.manual_seed(0)
    output = Output(1.0, None, torch.bfloat16).requires_grad_(False)
    hidden = torch.randn(7, 4, dtype=torch.bfloat16, requires_grad=True)
    losses = token_losses(hidden, TARGETS, output, 11, False, 3 * ROW)
    expected = nn.functional.cross_entropy(output(hidden).float(), TARGETS, reduction="none")
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, expected)
    losses.sum().backward()
    assert hidden.grad.dtype == torch.bfloat16


def test_autocast_gives_the_gradients_of_autocast():
    torch.manual_seed(0)
    for trained in (False, True):
        output = Output(1.0, None, torch.float32).requires_grad_(trained)
        hidden = torch.randn(7, 4, requires_grad=True)
        parameters = [hidden, *output.parameters()] if trained else [hidden]
        with torch.autocast("cpu", torch.bfloat16):
            plain = nn.functional.cross_entropy(output(hidden).float(), TARGETS, reduction="none")
            chunked = token_losses(hidden, TARGETS, output, 11, trained, 3 * ROW)
        expected, got = (losses_and_gradients(losses, parameters) for losses in (plain, chunked))
        for left, right in zip(got, expected, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-2, atol=1e-2)


def test_dropout_before_the_output_layer_is_the_same_in_both_passes():
    """As LoRA on the output layer has it: were it drawn anew, gradients would be of another loss."""
    torch.manual_seed(0)
    dropout, linear = nn.Dropout(0.5), nn.Linear(4, 11)
    hidden = torch.randn(7, 4, requires_grad=True)
    losses = token_losses(hidden, TARGETS, lambda h: linear(dropout(h)), 11, True, ROW)
    losses.sum().backward()
    kept = (hidden.grad != 0).float()  # what the backward pass saw of each position
    assert 0 < kept.sum() < kept.numel()
    expected = nn.functional.cross_entropy(linear(hidden * kept * 2), TARGETS, reduction="none")
    torch.testing.assert_close(losses, expected)


@pytest.mark.parametrize("trained", [False, True])
def test_logits_never_exist_as_a_whole(trained):
    """Forward and backward: no tensor is larger than a chunk's logits or the output layer's weight."""
    positions, vocabulary, chunk = 512, 4096, 16
    head = nn.Linear(8, vocabulary, bias=False).requires_grad_(trained)
    hidden = torch.randn(positions, 8, requires_grad=True)
    targets = torch.randint(vocabulary, (positions,))
    with LargestTensor() as largest:
        token_losses(hidden, targets, head, vocabulary, trained, chunk * vocabulary * 4).sum().backward()
    assert largest.elements == chunk * vocabulary
    with LargestTensor() as largest:
        nn.functional.cross_entropy(head(hidden), targets, reduction="none").sum().backward()
    assert largest.elements == positions * vocabulary


def test_a_large_vocabulary_in_a_decoder():
    """The decoder counts its output layer's rows itself."""
    decoder = tiny_decoder()
    seen = []
    decoder.llm.get_output_embeddings().register_forward_hook(lambda *call: seen.append(len(call[2])))
    texts = make_batch(noise(8000, 16_000))
    joined = _joined(decoder, texts)
    whole = decoder.token_losses(joined, decoder.kernel(CPU))
    chunked = decoder.token_losses(joined, decoder.kernel(CPU), chunk_bytes=5 * 4 * 262)
    assert seen[0] == len(whole)
    assert set(seen[1:-1]) == {5}
    torch.testing.assert_close(chunked, whole)


OUTPUTS = {
    "llama": ("llama", {}),
    "tied": ("llama", {"tie_word_embeddings": True}),
    "gemma2": ("gemma2", {}),
    "cohere": ("cohere", {"logit_scale": 0.25}),
    "granite": ("granite", {"logits_scaling": 4.0}),
    "gpt_neox": ("gpt_neox", {}),
}


@pytest.mark.parametrize("tuning", ["frozen", "full", "lora", "head_lora", "qlora"])
@pytest.mark.parametrize("name", OUTPUTS)
def test_every_family_and_tuning(name, tuning):
    """Against whole logits of the same hidden states: every loss and the gradient of every trained weight."""
    decoder = _decoder(name, tuning)
    texts = make_batch(noise(8000, 16_000, 4000))
    results = []
    for whole in (False, True):
        joined = _joined(decoder, texts, requires_grad=True)
        kernel = decoder.kernel(CPU)
        if whole:
            hidden = decoder.hidden(joined, kernel).flatten(0, 1)[joined.target_places]
            logits = decoder.output_logits(hidden).float()
            losses = nn.functional.cross_entropy(logits, joined.targets, reduction="none")
        else:
            losses = decoder.token_losses(joined, kernel, chunk_bytes=4 * 262 * 7)
        (losses * torch.linspace(0.1, 2, len(losses))).sum().backward()
        trained = {key: p.grad for key, p in decoder.named_parameters() if p.grad is not None}
        assert bool(trained) == (tuning != "frozen")
        results.append({"losses": losses.detach(), "speech": decoder.given.grad, **trained})
        decoder.zero_grad()
    assert set(results[0]) == set(results[1])
    for key, expected in results[1].items():
        atol = 1e-5 * float(expected.abs().max())
        torch.testing.assert_close(results[0][key], expected, rtol=1e-4, atol=atol, msg=key)


def _decoder(name, tuning):
    family, options = OUTPUTS[name]
    sizes = {**SIZES, **LLM_FAMILIES.get(family, {"num_key_value_heads": 1}), "initializer_range": 0.3}
    lora = {"head_lora": {"r": 2, "targets": ["lm_head"], "dropout": 0.0}}
    return CausalLM(
        config={"model_type": family, **sizes, **options},
        tuning="lora" if tuning == "head_lora" else tuning,
        lora=lora.get(tuning, {"r": 2, "dropout": 0.0} if "lora" in tuning else None),
    )


def _joined(decoder, texts, requires_grad=False):
    torch.manual_seed(0)
    lengths = [4, 7, 2][: len(texts)]
    decoder.given = torch.randn(len(texts), max(lengths), 16, requires_grad=requires_grad)
    answers = [
        decoder.prompt.answer(*row) for row in zip(texts.tasks, texts.transcripts, texts.translations, strict=True)
    ]
    speech = AdapterOutput(decoder.given, torch.tensor(lengths))
    return decoder._join(decoder._around(texts), speech, answers, "right")
