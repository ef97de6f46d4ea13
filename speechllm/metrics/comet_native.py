"""COMET in this process: regression checkpoints of COMET on transformers' XLM-RoBERTa, without the package.

A segment's score is that of Rei et al. (EMNLP 2020, arXiv 2009.09025; WMT 2022): each of source, hypothesis and
reference is encoded by itself; the encoder's layers are mixed and averaged over tokens into one vector a text; a
feed-forward network scores the vectors of the three, their products and their differences.

Shapes: ``N`` texts, ``T`` tokens, ``L`` layers of the encoder and its embeddings, ``H`` its width.
"""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from speechllm.errors import UserError
from speechllm.metrics.comet_checkpoint import CometCheckpoint
from speechllm.metrics.comet_weights import RegressionSettings, check_settings, read_weights

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

SEGMENTS_AT_ONCE = 2048
"""Segments whose vectors are in memory together."""

SHOW_PROGRESS_FROM = 256
"""Segments from which on a bar shows the progress."""

Segment = tuple[str, str, str]


class NativeComet:
    """Scores segments with a checkpoint of the class ``regression_metric``.

    The weights are loaded by the first call of :meth:`score`, once for all objects of one checkpoint and device.

    Args:
        checkpoint: The checkpoint.
        batch_size: Texts that go through the encoder at once.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        UserError: If the class or a setting of the checkpoint is not known here, or there is no such device.
    """

    def __init__(self, checkpoint: CometCheckpoint, batch_size: int, device: str) -> None:
        check_settings(checkpoint.settings, str(checkpoint.folder))
        check_device(device)
        self.checkpoint, self.batch_size, self.device = checkpoint, batch_size, device

    def versions(self) -> Mapping[str, str]:
        """Return the versions of transformers and torch."""
        return {name: version(name) for name in ("transformers", "torch")}

    def score(self, segments: Sequence[Segment]) -> list[float]:
        """Return the score of each segment, which is a source text, a hypothesis and a reference.

        A score depends on the other segments by rounding alone, below 1e-6.

        Raises:
            UserError: If the checkpoint cannot be loaded completely, or the GPU's memory is full.
        """
        import torch

        model = load_model(self.checkpoint, choose_device(self.device))
        try:
            return model.score(segments, self.batch_size)
        except torch.OutOfMemoryError as error:
            msg = (
                f"The GPU has no memory left for COMET: give it a `batch_size` below {self.batch_size}, or a `device`."
            )
            raise UserError(msg) from error


def check_device(device: str) -> None:
    """Check that a device can be asked for, and, if it is a GPU by name, that it is there.

    Raises:
        UserError: If it cannot, or is not.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        msg = f"`device` of COMET must be auto, cpu, cuda or cuda with a number such as cuda:1, but is '{device}'."
        raise UserError(msg)
    if device.startswith("cuda"):
        import torch

        if int(device.partition(":")[2] or 0) >= (count := torch.cuda.device_count()):
            msg = f"`device` of COMET is '{device}', but this machine has {count} GPUs. `auto` takes what there is."
            raise UserError(msg)


def choose_device(device: str) -> str:
    """Return the device that ``auto`` stands for, or the one given."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


@functools.lru_cache(maxsize=1)
def load_model(checkpoint: CometCheckpoint, device: str) -> "RegressionModel":
    """Return a checkpoint's model; that of the last call stays in memory.

    Raises:
        UserError: If a tensor of the model is not in the checkpoint, or one of the checkpoint not in the model.
    """
    import torch
    from tokenizers import Tokenizer
    from transformers import XLMRobertaConfig, XLMRobertaModel

    config = XLMRobertaConfig.from_pretrained(checkpoint.encoder)
    weights = read_weights(checkpoint, config.num_hidden_layers + 1)
    encoder = XLMRobertaModel(config, add_pooling_layer=False)
    head = _build_head(weights.settings, config.hidden_size)
    for module, name in ((encoder, "encoder.model"), (head, "estimator.ff")):
        weights.load(module, name)
    weights.refuse_leftovers()
    tokenizer = Tokenizer.from_file(str(checkpoint.encoder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(config.max_position_embeddings - 4)  # COMET's limit; the encoder takes two more
    mix = weights.layers.softmax(dim=0) if weights.settings.mix == "softmax" else sparsemax(weights.layers)
    model = RegressionModel(
        tokenizer, encoder, head, (weights.gamma * mix).to(device), weights.settings.layer_norm, config.pad_token_id
    )
    for module in (encoder, head):
        module.to(device=device, dtype=torch.float32).eval().requires_grad_(False)
    return model


def _build_head(settings: RegressionSettings, width: int) -> "torch.nn.Sequential":
    """Return the feed-forward network, laid out as COMET numbers its layers: two more follow each hidden one."""
    from torch import nn

    layers: list[nn.Module] = []
    sizes = [6 * width, *settings.hidden_sizes]
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), getattr(nn, settings.activation)(), nn.Identity()]
    layers.append(nn.Linear(sizes[-1], 1))
    if settings.final_activation is not None:
        layers.append(getattr(nn, settings.final_activation)())
    return nn.Sequential(*layers)


class RegressionModel:
    """The parts of a regression checkpoint, ready to score.

    Args:
        tokenizer: Tokenizer that cuts off texts at COMET's limit.
        encoder: XLM-RoBERTa without pooling layer.
        head: Network from six vectors of width H to a score.
        mix: (L,) float32, weight of each layer.
        layer_norm: Whether layers are normalized before they are mixed.
        padding: Id of the padding token.
    """

    def __init__(
        self, tokenizer: "Tokenizer", encoder: Any, head: Any, mix: "torch.Tensor", layer_norm: bool, padding: int
    ) -> None:
        self.tokenizer, self.encoder, self.head = tokenizer, encoder, head
        self.mix, self.layer_norm, self.padding = mix, layer_norm, padding

    def score(self, segments: Sequence[Segment], batch_size: int) -> list[float]:
        """Return the score of each segment; ``batch_size`` texts go through the encoder at once."""
        from tqdm import tqdm

        scores = [0.0] * len(segments)
        order = sorted(range(len(segments)), key=lambda place: max(map(len, segments[place])))
        hidden = len(segments) < SHOW_PROGRESS_FROM
        with (
            _exact_float32(self.mix.device.type),
            tqdm(total=len(segments), desc="COMET", unit=" segments", disable=hidden) as bar,
        ):
            for start in range(0, len(order), SEGMENTS_AT_ONCE):
                places = order[start : start + SEGMENTS_AT_ONCE]
                found = self._score_some([segments[place] for place in places], batch_size, bar)
                for place, score in zip(places, found, strict=True):
                    scores[place] = score
        return scores

    def _score_some(self, segments: list[Segment], batch_size: int, bar: Any) -> list[float]:
        import torch

        texts = {text: place for place, text in enumerate(dict.fromkeys(text for item in segments for text in item))}
        vectors = self._embed(list(texts), batch_size, len(segments), bar)
        source, hypothesis, reference = (vectors[[texts[item[part]] for item in segments]] for part in range(3))
        features = [hypothesis, reference, hypothesis * reference, (hypothesis - reference).abs()]
        features += [hypothesis * source, (hypothesis - source).abs()]
        scores: list[float] = self.head(torch.cat(features, dim=1)).flatten().tolist()
        return scores

    def _embed(self, texts: list[str], batch_size: int, segments: int, bar: Any) -> "torch.Tensor":
        """Return the vectors of texts, (N, H) float32; the bar goes on by ``segments`` over all of them."""
        import torch

        tokens = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        order = sorted(range(len(texts)), key=lambda place: len(tokens[place]))
        vectors = torch.empty(len(texts), self.encoder.config.hidden_size, device=self.mix.device)
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            vectors[places] = self._encode([tokens[place] for place in places])
            end = start + len(places)
            bar.update(segments * end // len(order) - segments * start // len(order))
        return vectors

    def _encode(self, tokens: list[list[int]]) -> "torch.Tensor":
        """Return the mean over tokens of the mixed layers, (N, H) float32, special tokens included."""
        import torch

        ids = torch.full((len(tokens), max(map(len, tokens))), self.padding)
        for row, text in enumerate(tokens):
            ids[row, : len(text)] = torch.tensor(text)
        ids = ids.to(self.mix.device)
        mask = ids != self.padding
        layers = self.encoder(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states
        if self.layer_norm:
            layers = [normalize_layer(layer, mask) for layer in layers]
        mixed = sum(weight * layer for weight, layer in zip(self.mix, layers, strict=True))
        means: torch.Tensor = (mixed * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        return means


def sparsemax(scores: "torch.Tensor") -> "torch.Tensor":
    """Return the point of the probability simplex that is nearest to ``scores`` (Martins and Astudillo, ICML 2016).

    Args:
        scores: (L,) float32.

    Returns:
        (L,) float32, not negative, with sum 1; low scores give exactly 0.
    """
    import torch

    ordered = scores.sort(descending=True).values
    excess = ordered.cumsum(dim=0) - 1
    counts = torch.arange(1, len(scores) + 1, device=scores.device)
    support = int((counts * ordered > excess).sum())
    return (scores - excess[support - 1] / support).clamp(min=0)


def normalize_layer(layer: "torch.Tensor", mask: "torch.Tensor") -> "torch.Tensor":
    """Return a layer with mean 0 and variance 1 over all numbers of each text's tokens, padding left out.

    Args:
        layer: (N, T, H) float32.
        mask: (N, T) bool, true for tokens.
    """
    weights = mask[..., None].to(layer.dtype)
    count = (weights.sum(dim=(1, 2)) * layer.shape[2])[:, None, None]
    mean = (layer * weights).sum(dim=(1, 2), keepdim=True) / count
    variance = (((layer - mean) * weights) ** 2).sum(dim=(1, 2), keepdim=True) / count
    return (layer - mean) / (variance + 1e-12).sqrt()


@contextmanager
def _exact_float32(device: str) -> Iterator[None]:
    """Compute in full float32, whatever precision training runs in, and without gradients."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.inference_mode(), torch.autocast(device, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
