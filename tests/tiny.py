"""Tiny random-weight parts and batches of noise that the tests share."""

import torch

import speechllm.fusions  # noqa: F401
from speechllm.batch import SAMPLE_RATE, Batch
from speechllm.registry import ADAPTERS, DECODERS, ENCODERS

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
LLM_FAMILIES = {
    "llama": {"num_key_value_heads": 1},
    "mistral": {"num_key_value_heads": 1, "sliding_window": 16},
    "gemma": {"num_key_value_heads": 1, "head_dim": 8},
    "gemma2": {"num_key_value_heads": 1, "head_dim": 8, "sliding_window": 16, "query_pre_attn_scalar": 8},
    "qwen2": {"num_key_value_heads": 1},
    "gpt_neox": {},
}
"""Configurations of every LLM family of the papers; windows are shorter than the sequences, so that they matter."""


def tiny_encoder(name="whisper", **options):
    """Build a registered encoder at its own tiny size, in evaluation mode."""
    return ENCODERS.build({"name": name, **ENCODERS.get(name).tiny, **options}).eval()


def tiny_pairs():
    """Return the names of every encoder and adapter that work together."""
    return [
        (encoder, adapter) for encoder in ENCODERS.names() for adapter in ADAPTERS.names() if fits(encoder, adapter)
    ]


def fits(encoder, adapter):
    """Return whether an encoder gives what an adapter needs."""
    return "ctc_head" in ENCODERS.options(encoder) or not reads_ctc_logits(adapter)


def reads_ctc_logits(adapter):
    return getattr(ADAPTERS.get(adapter), "needs_ctc_logits", False)


def tiny_encoder_for(adapter, name):
    """Build an encoder with what an adapter needs of it."""
    return tiny_encoder(name, **({"ctc_head": True} if reads_ctc_logits(adapter) else {}))


def tiny_adapter(name, in_dim, out_dim, **options):
    """Build a registered adapter at its own tiny size, in evaluation mode."""
    spec = {"name": name, **ADAPTERS.get(name).tiny, **options}
    return ADAPTERS.build(spec, in_dim=in_dim, out_dim=out_dim, vocab_size=262, frame_rate=50.0).eval()


def tiny_decoder(family="llama", **options):
    """Build a causal LM of a family with random weights, in evaluation mode."""
    config = {"model_type": family, **SIZES, **LLM_FAMILIES[family]}
    return DECODERS.build({"name": "causal_lm", "config": config, **options}).eval()


def noise(*lengths, seed=0):
    """Return one clip of noise (n,) a length, the same whatever is asked for beside it."""
    return [torch.randn(n, generator=torch.Generator().manual_seed(seed + n)) * 0.1 for n in lengths]


def make_batch(clips, order=None, padding=0, garbage=0.0):
    """Return a batch of the clips in the given order, with ``garbage`` in ``padding`` and more samples behind each."""
    order = list(range(len(clips))) if order is None else order
    audio = torch.full((len(order), max(len(clips[i]) for i in order) + padding), garbage)
    for row, i in enumerate(order):
        audio[row, : len(clips[i])] = clips[i]
    return Batch(
        audio=audio,
        audio_lengths=torch.tensor([len(clips[i]) for i in order]),
        ids=[f"u{i}" for i in order],
        tasks=[("asr", "st", "asr+st")[i % 3] for i in order],
        source_languages=["en"] * len(order),
        target_languages=["de"] * len(order),
        transcripts=[f"hello {i} " + "you " * i for i in order],
        translations=[f"hällo {i} " + "du " * (5 - i) for i in order],
        corpora=["noise"] * len(order),
        rows=order,
    )


def seconds(*durations_s):
    """Return durations in samples."""
    return [round(duration_s * SAMPLE_RATE) for duration_s in durations_s]
