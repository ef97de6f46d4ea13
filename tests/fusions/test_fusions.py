"""Fusions: the parameter counts of paper D, their formulae against attention written out, invariance, learning."""

import math

import pytest
import torch
from torch import nn

import speechllm.fusions.cross_attention as cross_attention
from speechllm.batch import lengths_to_mask
from speechllm.errors import UserError
from speechllm.fusions.cross_attention import CrossAttention, GatedCrossAttention
from speechllm.registry import FUSIONS

TABLE = {
    "concat": (2048, 0),
    "cross": (1280, 5_250_560),
    "bicross": (2048, 8_400_896),
    "gated_cross": (1280, 6_890_240),
    "gated_bicross": (2048, 10_631_168),
    "concat_cross": (3328, 5_248_000),
    "concat_bi": (4096, 8_396_800),
    "gated_bicross_cat": (4096, 10_631_168),
}
"""Width and parameters of each fusion of streams 1280 and 768 wide (spec §11.2)."""
NAMES = FUSIONS.names()
ATTENDING = [name for name in NAMES if name != "concat"]
WIDTHS = ((12, 8), (8, 8))  # of equal width, the attention keeps its weights in one matrix
LENGTHS = (1, 2, 3, 7, 16, 17, 50, 63, 151)
TOLERANCE = 1e-5


def tiny_fusion(name, in_dims=(12, 8), **options):
    """Build a fusion at its tiny size, every weight random so that no bias or gate hides behind a zero."""
    fusion = FUSIONS.build({"name": name, **FUSIONS.get(name).tiny, **options}, in_dims=in_dims).eval()
    for parameter in fusion.parameters():
        nn.init.normal_(parameter, std=0.5)
    return fusion


def streams(lengths=LENGTHS, in_dims=(12, 8), garbage=1e4):
    """Return two streams of noise with garbage behind each length, and the lengths."""
    lengths = torch.tensor(lengths)
    values = [torch.randn(len(lengths), int(lengths.max()) + 9, dim) for dim in in_dims]
    mask = lengths_to_mask(lengths, values[0].shape[1])[..., None]
    return tuple(value.where(mask, torch.tensor(garbage)) for value in values), lengths


def test_all_of_the_table_are_registered():
    assert set(NAMES) == set(TABLE)


@pytest.mark.parametrize("name", NAMES)
def test_width_and_parameters_of_the_table(name):
    with torch.device("meta"):
        fusion = FUSIONS.build({"name": name}, in_dims=(1280, 768))
    assert (fusion.dim, sum(p.numel() for p in fusion.parameters())) == TABLE[name]


def attend(cross, q, c):
    """A(q ← c) of one utterance, (F, E1) and (F, E2), head by head from the weights."""
    attention = cross.attention
    if attention.in_proj_weight is None:
        weights = attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight
    else:
        weights = attention.in_proj_weight.chunk(3)
    projected = [
        x @ weight.T + bias for x, weight, bias in zip((q, c, c), weights, attention.in_proj_bias.chunk(3), strict=True)
    ]
    heads = []
    for query, key, value in zip(*(x.chunk(attention.num_heads, dim=1) for x in projected), strict=True):
        shares = (query @ key.T / math.sqrt(query.shape[1])).softmax(dim=1)
        heads.append(shares @ value)
    return torch.cat(heads, dim=1) @ attention.out_proj.weight.T + attention.out_proj.bias


def layer_norm(x, norm):
    centred = x - x.mean(dim=1, keepdim=True)
    return centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias


def enrich(side, q, c):
    """LN(q + A(q ← c)), or LN(q + g · a) where there is a gate."""
    a = attend(side.cross, q, c)
    if hasattr(side, "gate"):
        a = a / (1 + (-(a @ side.gate.weight.T + side.gate.bias)).exp())
    return layer_norm(q + a, side.norm)


FORMULAE = {
    "concat": lambda f, w, m: [w, m],
    "cross": lambda f, w, m: [enrich(f.first, w, m)],
    "bicross": lambda f, w, m: [enrich(f.first, w, m), enrich(f.second, m, w)],
    "gated_cross": lambda f, w, m: [enrich(f.first, w, m)],
    "gated_bicross": lambda f, w, m: [enrich(f.first, w, m), enrich(f.second, m, w)],
    "concat_cross": lambda f, w, m: [w, m, attend(f.first, w, m)],
    "concat_bi": lambda f, w, m: [w, m, attend(f.first, w, m), attend(f.second, m, w)],
    "gated_bicross_cat": lambda f, w, m: [w, m, enrich(f.first, w, m), enrich(f.second, m, w)],
}


@pytest.mark.parametrize("in_dims", WIDTHS)
@pytest.mark.parametrize("name", NAMES)
def test_formula(name, in_dims):
    fusion = tiny_fusion(name, in_dims)
    (w, m), lengths = streams((9, 4), in_dims)
    fused = fusion((w, m), lengths)
    assert fused.shape[2] == fusion.dim
    for row, length in enumerate(lengths.tolist()):
        expected = torch.cat(FORMULAE[name](fusion, w[row, :length], m[row, :length]), dim=1)
        torch.testing.assert_close(fused[row, :length], expected, rtol=0, atol=TOLERANCE)


def test_there_are_gates_exactly_where_the_names_say_so():
    """The formulae above take a gate where they find one; this says where one must be."""
    gates = {name: sum("gate.weight" in key for key in tiny_fusion(name).state_dict()) for name in NAMES}
    assert gates == dict.fromkeys(NAMES, 0) | {"gated_cross": 1, "gated_bicross": 2, "gated_bicross_cat": 2}


def test_golden_gate():
    """Spec §11.7: a gate of zero weights is half open, and a silent context with unbiased values gives one bias."""
    gated = GatedCrossAttention(8, 4, heads=2, dropout=0.0)
    nn.init.zeros_(gated.gate.weight)
    nn.init.zeros_(gated.gate.bias)
    attention = gated.cross.attention
    nn.init.zeros_(attention.in_proj_bias)
    nn.init.normal_(attention.out_proj.bias)
    stream, lengths = torch.randn(2, 5, 8), torch.tensor([5, 3])
    gathered = gated.cross(stream, torch.zeros(2, 5, 4), lengths)
    torch.testing.assert_close(gathered, attention.out_proj.bias.expand(2, 5, 8), rtol=0, atol=1e-6)
    expected = gated.norm(stream + 0.5 * attention.out_proj.bias)
    torch.testing.assert_close(gated(stream, torch.zeros(2, 5, 4), lengths), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("in_dims", WIDTHS)
@pytest.mark.parametrize("name", NAMES)
def test_an_utterance_does_not_depend_on_its_batch(name, in_dims):
    fusion = tiny_fusion(name, in_dims)
    (first, second), lengths = streams(in_dims=in_dims)
    order = torch.randperm(len(LENGTHS))
    together = fusion((first[order], second[order]), lengths[order])
    for row, i in enumerate(order.tolist()):
        length = LENGTHS[i]
        alone = fusion((first[i : i + 1, :length], second[i : i + 1, :length]), lengths[i : i + 1])
        torch.testing.assert_close(together[row, :length], alone[0], rtol=0, atol=TOLERANCE)
        assert together[row, length:].abs().sum() == 0


@pytest.mark.parametrize("name", ATTENDING)
def test_the_check_sees_a_fusion_that_forgets_its_mask(name, monkeypatch):
    monkeypatch.setattr(cross_attention, "has_padding", lambda lengths, size: False)
    fusion = tiny_fusion(name)
    pair, lengths = streams((5, 20), garbage=0.0)
    together = fusion(pair, lengths)
    alone = fusion(tuple(stream[:1, :5] for stream in pair), lengths[:1])
    assert (together[0, :5] - alone[0]).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_and_both_streams_get_a_gradient(name):
    fusion = tiny_fusion(name)
    pair, lengths = streams((6, 9))
    pair = tuple(stream.requires_grad_() for stream in pair)
    fusion(pair, lengths).square().sum().backward()
    assert [key for key, p in fusion.named_parameters() if p.grad is None or not p.grad.any()] == []
    for stream in pair:
        assert torch.equal((stream.grad != 0).any(dim=2), lengths_to_mask(lengths, stream.shape[1]))


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16(name):
    """With bfloat16 weights and under autocast the result is that of float32, rounded."""
    fusion = tiny_fusion(name)
    pair, lengths = streams(garbage=0.0)
    expected = fusion(pair, lengths)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = fusion(pair, lengths)
    rounded = fusion.bfloat16()(tuple(stream.bfloat16() for stream in pair), lengths)
    assert rounded.dtype == torch.bfloat16
    for result in (inside, rounded):
        assert (result.float() - expected).norm() < 0.03 * expected.norm()


def test_dropout_of_attention_in_training_alone():
    fusion = tiny_fusion("cross", dropout=0.5)
    pair, lengths = streams((9,))
    assert torch.equal(fusion(pair, lengths), fusion(pair, lengths))
    fusion.train()
    assert not torch.equal(fusion(pair, lengths), fusion(pair, lengths))


@pytest.mark.parametrize(
    ("name", "in_dims", "refused"),
    [("cross", (750, 768), 750), ("bicross", (1280, 750), 750), ("concat_bi", (6, 8), 6)],
)
def test_heads_must_divide_each_stream_that_attends(name, in_dims, refused):
    with (
        torch.device("meta"),
        pytest.raises(UserError, match=rf"`heads` must divide .* 8 heads do not divide {refused}"),
    ):
        FUSIONS.build({"name": name}, in_dims=in_dims)


def test_heads_need_not_divide_a_stream_that_is_only_attended_to():
    assert tiny_fusion("cross", (12, 7), heads=4)(*streams(in_dims=(12, 7))).shape[2] == 12
    with pytest.raises(UserError, match="0 heads"):
        CrossAttention(8, 4, heads=0, dropout=0.0)


# Learning: each utterance has one of five classes, and one of its streams says which; the other is noise.
CLASSES, WRONG_LABELS = 5, 0.2
STEPS, BATCH = 150, 32


def labelled(prototypes, informative, size):
    """Return two streams, their lengths and labels; a share of the labels is wrong, so that no loss is near zero."""
    lengths = torch.randint(3, 8, (size,))
    pair = [torch.randn(size, 7, 16), torch.randn(size, 7, 16)]
    classes = torch.randint(CLASSES, (size,))
    pair[informative] = 0.3 * pair[informative] + prototypes[classes][:, None]
    wrong = torch.rand(size) < WRONG_LABELS
    labels = torch.where(wrong, torch.randint(CLASSES, (size,)), classes)
    return pair, lengths, labels


@pytest.mark.parametrize(
    ("name", "informative"),
    [("gated_bicross_cat", 0), ("gated_bicross_cat", 1), ("gated_bicross", 1), ("gated_cross", 1)],
)
def test_gated_fusion_uses_the_informative_stream(name, informative):
    """Spec §18.5 (d): zeroing the other stream hardly changes the loss; zeroing the informative one ruins it."""
    fusion = FUSIONS.build({"name": name}, in_dims=(16, 16))
    head = nn.Linear(fusion.dim, CLASSES)
    prototypes = torch.randn(CLASSES, 16)
    optimizer = torch.optim.AdamW([*fusion.parameters(), *head.parameters()], lr=1e-2)

    def loss(pair, lengths, labels):
        mean = fusion(tuple(pair), lengths).sum(dim=1) / lengths[:, None]
        return nn.functional.cross_entropy(head(mean), labels)

    for _ in range(STEPS):
        optimizer.zero_grad()
        loss(*labelled(prototypes, informative, BATCH)).backward()
        optimizer.step()
    with torch.no_grad():
        pair, lengths, labels = labelled(prototypes, informative, 2000)
        trained = loss(pair, lengths, labels)
        zeroed = [
            loss([stream * (i != silent) for i, stream in enumerate(pair)], lengths, labels) for silent in range(2)
        ]
    assert trained < 0.8 < math.log(CLASSES)
    assert abs(zeroed[1 - informative] / trained - 1) < 0.05
    assert zeroed[informative] > math.log(CLASSES) * 0.9
