"""Tiny checkpoints of COMET with random weights, in the layout of the released ones."""

from itertools import pairwise
from pathlib import Path

import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import XLMRobertaConfig, XLMRobertaModel

WIDTH, LAYERS, POSITIONS = 16, 3, 40
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
SETTINGS = {
    "activations": "Tanh",
    "class_identifier": "regression_metric",
    "dropout": 0.1,
    "encoder_model": "XLM-RoBERTa",
    "final_activation": None,
    "hidden_sizes": [12, 4],
    "layer": "mix",
    "layer_norm": False,
    "layer_transformation": "sparsemax",
    "loss": "mse",
    "nr_frozen_epochs": 0.3,
    "pool": "avg",
    "pretrained_model": "xlmr",
    "train_data": [],
    "validation_data": [],
}
SCALARS = [0.3, -2.0, 0.1, 0.2]
"""Parameters of the layers' weights; sparsemax gives the second of them none."""


def write_encoder(folder: Path) -> Path:
    """Write the configuration and the tokenizer of a tiny XLM-RoBERTa: one token a character."""
    characters = "▁abcdefghijklmnopqrstuvwxyzäöüßABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?'-"
    pieces = [(piece, 0.0) for piece in SPECIAL] + [(piece, -1.0) for piece in characters] + [("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens([*SPECIAL, "<mask>"])
    config = XLMRobertaConfig(
        vocab_size=len(pieces),
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=POSITIONS,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    config.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def state_of(encoder: Path, hidden_sizes: tuple[int, ...], seed: int = 0) -> dict[str, torch.Tensor]:
    """Return random tensors of a checkpoint under the names that COMET gives them."""
    generator = torch.Generator().manual_seed(seed)
    xlmr = XLMRobertaModel(XLMRobertaConfig.from_pretrained(encoder), add_pooling_layer=False)
    state = {f"encoder.model.{name}": tensor.clone() for name, tensor in xlmr.state_dict().items()}
    sizes = [6 * WIDTH, *hidden_sizes, 1]
    for place, (before, after) in enumerate(pairwise(sizes)):
        layer = nn.Linear(before, after)
        state |= {f"estimator.ff.{3 * place}.{name}": tensor for name, tensor in layer.state_dict().items()}
    for name, tensor in state.items():
        around = 1.0 if name.endswith("LayerNorm.weight") else 0.0
        spread = 0.1 if "LayerNorm" in name else 0.5
        state[name] = around + spread * torch.randn(tensor.shape, generator=generator)
    state["layerwise_attention.gamma"] = torch.tensor([1.3])
    state |= {f"layerwise_attention.scalar_parameters.{n}": torch.tensor([value]) for n, value in enumerate(SCALARS)}
    state["layerwise_attention.dropout_mask"] = torch.zeros(LAYERS + 1)
    state["layerwise_attention.dropout_fill"] = torch.full((LAYERS + 1,), -1e20)
    return state


def write_comet(folder: Path, change=None, stored=True, **settings) -> Path:
    """Write a checkpoint, its encoder beside it, and return its folder.

    Args:
        folder: Where the folders of both go.
        change: Function that changes the tensors, by name, before they are written.
        stored: Whether the file of the weights holds the settings as well, as Lightning's do.
        settings: Settings that differ.
    """
    encoder = write_encoder(folder / "xlmr")
    changed = SETTINGS | settings
    state = state_of(encoder, tuple(changed["hidden_sizes"]))
    if change is not None:
        change(state)
    checkpoint = folder / "tiny-comet"
    (checkpoint / "checkpoints").mkdir(parents=True)
    content = {"state_dict": state, "pytorch-lightning_version": "2.6.6"}
    content |= {"hparams_name": "kwargs", "hyper_parameters": changed} if stored else {}
    torch.save(content, checkpoint / "checkpoints" / "model.ckpt")
    (checkpoint / "hparams.yaml").write_text(yaml.safe_dump(changed), encoding="utf-8")
    return checkpoint


def score_distance(state: dict[str, torch.Tensor]) -> None:
    """Let a checkpoint's score be minus the distance of the hypothesis' vector to the reference's, through a tanh."""
    for name, tensor in state.items():
        if name.startswith("estimator."):
            tensor.zero_()
    state["estimator.ff.0.weight"][0, 3 * WIDTH : 4 * WIDTH] = -0.05
    last = max(name for name in state if name.startswith("estimator.") and name.endswith("weight"))
    for name in ("estimator.ff.3.weight", last):
        state[name][0, 0] = 1.0
