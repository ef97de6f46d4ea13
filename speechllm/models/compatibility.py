"""Which parts cannot work together, found from their specs before any weight is loaded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechllm.errors import UserError, did_you_mean
from speechllm.registry import ADAPTERS, ENCODERS, Spec

CHARACTER_FRAME_RATE = 20.0
"""Frames per second that a CTC loss over characters or bytes needs: fast speech has close to 20 characters a second."""

SENTENCE = "When does the train leave? It leaves at half past seven in the morning."
"""Text that shows whether a tokenizer writes words or characters."""


def check_parts(encoder: Spec, adapter: Spec, decoder: Spec, loss_weights: Mapping[str, float]) -> None:
    """Check that an encoder, an adapter and a decoder fit together.

    Args:
        encoder: Encoder spec, checked by its registry.
        adapter: Adapter spec, checked likewise.
        decoder: Decoder spec, checked likewise.
        loss_weights: Weights of auxiliary losses that the recipe gives.

    Raises:
        UserError: If they do not; the message has the reason and the nearest combination that works.
    """
    _check_losses(adapter, loss_weights)
    _check_ctc_logits(encoder, adapter)
    _check_ctc_rate(encoder, adapter, decoder)


def frame_rate(encoder: Spec) -> float | None:
    """Return the frame rate in Hz of an encoder of this spec; None where it is not known before it is built."""
    if encoder.get("frame_rate"):
        return float(encoder["frame_rate"])
    if "encoders" in encoder:  # parallel streams meet at the higher rate
        rates = [frame_rate(spec) for spec in encoder["encoders"]]
        return max((rate for rate in rates if rate is not None), default=None)
    rate: float | None = getattr(ENCODERS.get(encoder["name"]), "frame_rate", None)
    return rate


def _check_losses(adapter: Spec, loss_weights: Mapping[str, float]) -> None:
    own = ADAPTERS.get(adapter["name"]).loss_weights
    for name in loss_weights:
        if name not in own:
            msg = (
                f"`loss_weights` names '{name}', but the adapter '{adapter['name']}' has no such loss."
                f"{did_you_mean(name, own)} Its losses: {', '.join(own) or 'none'}."
            )
            raise UserError(msg)


def _check_ctc_logits(encoder: Spec, adapter: Spec) -> None:
    if getattr(ADAPTERS.get(adapter["name"]), "needs_ctc_logits", False) and not encoder.get("ctc_head"):
        msg = (
            f"The adapter '{adapter['name']}' reads the CTC head of its encoder, and '{encoder['name']}' gives none. "
            f"Use `encoder: {{name: hubert, ctc_head: true, …}}` with a checkpoint trained by CTC, or the adapter "
            f"'ctc', which trains a head of its own."
        )
        raise UserError(msg)


def _check_ctc_rate(encoder: Spec, adapter: Spec, decoder: Spec) -> None:
    vocabulary = _ctc_vocabulary(adapter, decoder)
    rate = frame_rate(encoder)
    if vocabulary is None or rate is None or rate >= CHARACTER_FRAME_RATE or not _spells(vocabulary):
        return
    msg = (
        f"The CTC loss of the adapter '{adapter['name']}' spells transcripts in {vocabulary}, which takes about "
        f"{CHARACTER_FRAME_RATE:g} frames per second of speech; the encoder '{encoder['name']}' has {rate:g}. Use "
        f"`vocabulary: llm` with an LLM of subword tokens, or an encoder of 50 frames per second."
    )
    raise UserError(msg)


def _spells(vocabulary: str) -> bool:
    """Return whether a vocabulary has about one label a character."""
    if not vocabulary.endswith(".json") or not Path(vocabulary).is_file():
        return vocabulary in ("bytes", "characters")
    from tokenizers import Tokenizer

    labels = Tokenizer.from_file(vocabulary).encode(SENTENCE, add_special_tokens=False).ids
    return len(labels) > len(SENTENCE) / 2


def _ctc_vocabulary(adapter: Spec, decoder: Spec) -> str | None:
    """Return what an adapter's CTC loss spells in; None where it has none."""
    part: Any = ADAPTERS.get(adapter["name"])
    if "ctc" not in part.loss_weights:
        return None
    options = ADAPTERS.options(adapter["name"])
    default = options["vocabulary"].default if "vocabulary" in options else "llm"
    vocabulary = str(adapter.get("vocabulary", default))
    if vocabulary != "llm":
        return vocabulary
    tokenizer = decoder.get("tokenizer") or ("bytes" if decoder.get("pretrained") is None else "llm")
    return str(tokenizer)
