"""Paper A's adapters: parameter counts, golden lengths, parity with Hugging Face's BERT, masked convolutions."""

import pytest
import torch
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLayer

from speechllm.adapters.conv import ConvAdapter
from speechllm.adapters.mlp import MLPAdapter
from speechllm.adapters.transformer import BaseAdapter
from speechllm.adapters.two_stage import ModalityLayers
from speechllm.batch import Frames
from speechllm.errors import UserError
from tests.tiny import tiny_adapter


def test_parameters_of_table_ii():
    """Spec §3, §4: projections do not count; the convolutions are ours, not the misprinted 25.20 M."""
    with torch.device("meta"):
        base = BaseAdapter(in_dim=1280, out_dim=4096)
        conv = ConvAdapter(in_dim=1280, out_dim=4096)
    assert base.core_parameters() == 28_351_488
    assert conv.core_parameters() == 28_351_488 + 3_543_552
    assert sum(p.numel() for p in base.in_proj.parameters()) == 985_344
    assert sum(p.numel() for p in base.out_proj.parameters()) == 3_158_016
    assert (len(conv.before.encoder.layer), len(conv.after.encoder.layer)) == (2, 2)


@pytest.mark.parametrize(
    ("frames", "positions"),
    [(1, 1), (4, 1), (5, 2), (8, 2), (9, 3), (50, 13), (63, 16), (500, 125), (1500, 375)],
)
def test_golden_lengths_of_conv(frames, positions):
    """Spec §4."""
    adapter = tiny_adapter("conv", in_dim=4, out_dim=4)
    output = adapter(Frames(torch.randn(1, frames, 4), torch.tensor([frames])))
    assert output.lengths.tolist() == [positions]
    assert output.values.shape[1] == positions


def test_layers_equal_hugging_face_bert():
    layers = ModalityLayers(2, dim=24, heads=3, dropout=0.1).eval()
    config = BertConfig(hidden_size=24, num_attention_heads=3, intermediate_size=96, attn_implementation="eager")
    values = torch.randn(2, 11, 24)
    hidden = values
    for layer in layers.encoder.layer:
        reference = BertLayer(config).eval()
        reference.load_state_dict(layer.state_dict())
        hidden = reference(hidden)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    torch.testing.assert_close(layers(values, torch.tensor([11, 11])), hidden, rtol=0, atol=1e-6)


def test_bert_initialisation():
    layers = ModalityLayers(1, dim=64, heads=4, dropout=0.1)
    weight = layers.encoder.layer[0].intermediate.dense.weight
    assert abs(float(weight.detach().std()) - 0.02) < 0.001
    assert layers.encoder.layer[0].intermediate.dense.bias.abs().sum() == 0


def test_conv_by_hand():
    """Kernels that pick the middle frame: output 0 is frame 0, output 1 is frame 4, after norm, ReLU and norm."""
    adapter = ConvAdapter(in_dim=2, out_dim=2, layers=0, dim=2, heads=1)
    for conv in adapter.convs:
        torch.nn.init.zeros_(conv.weight)
        torch.nn.init.zeros_(conv.bias)
        conv.weight.data[:, :, 1] = torch.eye(2)
    values = torch.tensor([[[3.0, 1.0], [9.0, 9.0], [9.0, 9.0], [9.0, 9.0], [0.0, 4.0]]])
    output = adapter.adapt_length(values, torch.tensor([5]), None)
    # LayerNorm of two values gives +1 and -1, ReLU 1 and 0, LayerNorm again +1 and -1.
    assert output.lengths.tolist() == [2]
    torch.testing.assert_close(output.values[0], torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), rtol=0, atol=1e-4)


def test_mlp_by_hand():
    adapter = MLPAdapter(in_dim=2, out_dim=1, hidden_dim=2)
    for layer in (adapter.layers[0], adapter.layers[2]):
        torch.nn.init.ones_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    output = adapter(Frames(torch.tensor([[[1.0, 1.0], [5.0, 5.0]]]), torch.tensor([1])))
    gelu_of_2 = 2 * 0.9772498680518208
    torch.testing.assert_close(output.values, torch.tensor([[[2 * gelu_of_2], [0.0]]]))
    single = MLPAdapter(in_dim=2, out_dim=3, hidden_layers=0)
    assert [type(layer).__name__ for layer in single.layers] == ["Linear"]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BaseAdapter(4, 4, dim=10, heads=3), "`dim` must be a multiple of `heads`, but 10"),
        (lambda: BaseAdapter(4, 4, layers=-1), "`layers` must be 0 or more"),
        (lambda: ConvAdapter(4, 4, kernel_size=4), "`kernel_size` must be odd"),
        (lambda: MLPAdapter(4, 4, hidden_layers=-1), "`hidden_layers` must be 0 or more"),
    ],
)
def test_wrong_options(build, message):
    with pytest.raises(UserError, match=message):
        build()
