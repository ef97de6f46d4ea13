"""Frozen, LoRA, QLoRA and full: what is trained, what never changes, and what is computed."""

import pytest
import torch
from torch import nn

import speechllm.adapters
import speechllm.decoders
import speechllm.encoders
import speechllm.fusions  # noqa: F401
from speechllm.batch import AdapterOutput
from speechllm.errors import UserError
from speechllm.lora import DEFAULT_TARGETS, LoraOptions, find_targets, inject_lora, merge_lora
from speechllm.quantization import NF4Linear, quantize_linears
from speechllm.registry import ENCODERS
from speechllm.tuning import TUNING_MODES, TunableModule
from tests.tiny import LLM_FAMILIES, make_batch, noise, tiny_decoder, tiny_encoder

# Dettmers et al. 2023, appendix E: the sixteen values of NF4.
NEGATIVE = (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635)
NEAR_ZERO = (-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725)
POSITIVE = (0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0)
NF4 = torch.tensor([*NEGATIVE, *NEAR_ZERO, *POSITIVE])
LLM_LINEARS = [
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
]
LLAMA_LIKE = [f"llm.model.layers.{layer}.{name}" for layer in (0, 1) for name in LLM_LINEARS]
LLM_LAYERS = dict.fromkeys(LLM_FAMILIES, LLAMA_LIKE) | {
    "gpt_neox": [
        f"llm.gpt_neox.layers.{layer}.attention.{name}" for layer in (0, 1) for name in ("query_key_value", "dense")
    ]
}
# The speech encoder of SeamlessM4T ends with layers of its own that shorten, with attention too.
SEAMLESS_LAYERS = ["encoder.encoder.layers.0", "encoder.encoder.layers.1", "encoder.adapter.layers.0"]
ENCODER_LAYERS = {
    "whisper": [f"encoder.layers.{layer}.self_attn.{name}" for layer in (0, 1) for name in ("q_proj", "v_proj")],
    "hubert": [f"hubert.encoder.layers.{layer}.attention.{name}" for layer in (0, 1) for name in ("q_proj", "v_proj")],
    "seamless": [f"{layer}.self_attn.{name}" for layer in SEAMLESS_LAYERS for name in ("linear_q", "linear_v")],
}
NEVER_TRAINED = {"whisper": {"encoder.embed_positions.weight"}}
TUNABLE = [name for name in ENCODERS.names() if "tuning" in ENCODERS.options(name)]


def matrices(layers):
    return {f"{layer}.lora_{matrix}.default.weight" for layer in layers for matrix in "AB"}


def trained(module):
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def step(module, loss, steps=2):
    """Take optimiser steps with weight decay, over every parameter with a gradient; return which tensors changed."""
    before = {key: value.clone() for key, value in module.state_dict().items()}
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    module.train()
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1) if parameters else None
    for _ in range(steps):  # A has no gradient in the first one: B is zero
        module.zero_grad()
        value = loss()
        if optimizer:
            value.backward()
            optimizer.step()
    return {key for key, value in module.state_dict().items() if not torch.equal(value, before[key])}


def encoder_loss(encoder):
    clips = noise(8000, 12_345)
    batch = make_batch(clips)
    return lambda: encoder(batch.audio, batch.audio_lengths).values.square().sum()


def decoder_loss(decoder):
    batch = make_batch(noise(8000, 4000))
    speech = AdapterOutput(torch.randn(2, 5, decoder.dim), torch.tensor([5, 3]))
    return lambda: decoder(speech, batch).losses.sum()


@pytest.mark.parametrize("tuning", TUNING_MODES)
@pytest.mark.parametrize("name", TUNABLE)
def test_what_is_trained_of_an_encoder(name, tuning):
    """LoRA stays within the encoder's layers; a step changes what is trained and no bit of anything else."""
    encoder = tiny_encoder(name, tuning=tuning)
    everything = {key for key, _ in encoder.named_parameters()}
    lora = matrices(ENCODER_LAYERS[name])
    expected = {"frozen": set(), "lora": lora, "qlora": lora, "full": everything - NEVER_TRAINED.get(name, set())}
    assert trained(encoder) == expected[tuning]
    changed = step(encoder, encoder_loss(encoder))
    assert changed <= expected[tuning]
    if tuning != "full":  # some weights of a whole encoder have no gradient
        assert changed == expected[tuning]
    assert encoder.training == (tuning != "frozen")


@pytest.mark.parametrize("tuning", TUNING_MODES)
@pytest.mark.parametrize("family", LLM_FAMILIES)
def test_what_is_trained_of_an_llm(family, tuning):
    decoder = tiny_decoder(family, tuning=tuning)
    lora = matrices(LLM_LAYERS[family])
    everything = {key for key, _ in decoder.named_parameters()}
    expected = {"frozen": set(), "lora": lora, "qlora": lora, "full": everything}
    assert trained(decoder) == expected[tuning]
    changed = step(decoder, decoder_loss(decoder))
    if tuning == "full":
        assert changed >= expected[tuning]  # tied tables have two names
    else:
        assert changed == expected[tuning]
    assert decoder.training == (tuning != "frozen")


@pytest.mark.parametrize("first", ["frozen", "lora", "qlora", "full"])
def test_parallel_encoders_are_tuned_one_by_one(first):
    specs = [dict(spec) for spec in ENCODERS.get("parallel").tiny["encoders"]]
    specs[0]["tuning"] = first
    encoder = tiny_encoder("parallel", encoders=specs)
    own = {f"first.{name}" for name in trained(tiny_encoder(**specs[0]))}
    assert trained(encoder) == own | {f"fusion.{name}" for name, _ in encoder.fusion.named_parameters()}
    assert step(encoder, encoder_loss(encoder)) <= trained(encoder)
    assert (encoder.first.training, encoder.second.training) == (first != "frozen", False)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", LLM_FAMILIES)
def test_lora_leaves_the_output_as_it_is_at_first(family, dtype):
    """Whichever layers are adapted, tied tables included: B is zero (spec §14.2)."""
    ids = torch.arange(12)[None]
    plain = tiny_decoder(family, dtype=dtype)
    torch.manual_seed(0)
    decoder = tiny_decoder(family, dtype=dtype, tuning="lora", lora={"targets": every_target(family)})
    with torch.no_grad():
        assert torch.equal(decoder.llm(ids).logits, plain.llm(ids).logits)
    assert {p.dtype for p in decoder.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.parametrize("name", TUNABLE)
def test_lora_leaves_frames_as_they_are_at_first(name):
    batch = make_batch(noise(8000, 12_345))
    frames = []
    for tuning in ("frozen", "lora"):
        torch.manual_seed(0)
        encoder = tiny_encoder(name, tuning=tuning)
        with torch.no_grad():
            frames.append(encoder(batch.audio, batch.audio_lengths).values)
    assert torch.equal(*frames)


def every_target(family):
    """All linear layers that LoRA has by default, and both tables, as paper B adapts them."""
    if family == "gpt_neox":
        return ["query_key_value", "dense", "embed_in", "lm_head"]
    return [*DEFAULT_TARGETS[0], "embed_tokens", "lm_head"]


def randomize(module):
    """Give LoRA's matrices values of a size that training gives them."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if ".lora_" in name:
                parameter.normal_(std=0.1)


def test_lora_by_hand():
    """W x + (alpha / r) B A x (spec §14.2)."""
    net = nn.Sequential(nn.Linear(4, 3, bias=False))
    weight = net[0].weight.detach().clone()
    inject_lora(net, LoraOptions(r=2, alpha=6, dropout=0.0, targets=["0"]))
    randomize(net)
    a, b = net[0].lora_A["default"].weight, net[0].lora_B["default"].weight
    assert (a.shape, b.shape) == ((2, 4), (3, 2))
    x = torch.randn(5, 4)
    torch.testing.assert_close(net(x), x @ weight.T + 3.0 * x @ a.T @ b.T)


@pytest.mark.parametrize("tuning", ["lora", "qlora"])
@pytest.mark.parametrize("family", LLM_FAMILIES)
def test_merging_keeps_the_logits(family, tuning):
    """Also where input and output embeddings share a table and LoRA has made them differ."""
    decoder = tiny_decoder(family, tuning=tuning, lora={"targets": every_target(family), "r": 2})
    randomize(decoder)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        before = decoder.llm(ids).logits
        assert merge_lora(decoder.llm) == len(LLM_LAYERS[family]) + 2
        after = decoder.llm(ids).logits
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)
    assert not any(isinstance(layer, NF4Linear) or hasattr(layer, "lora_A") for layer in decoder.modules())


@pytest.mark.parametrize("family", LLM_FAMILIES)
def test_qlora_quantizes_linear_layers_alone(family):
    """Never the embedding nor the output layer (spec §14.5)."""
    decoder = tiny_decoder(family, tuning="qlora")
    quantized = {name for name, layer in decoder.named_modules() if isinstance(layer, NF4Linear)}
    plain = tiny_decoder(family)
    linears = {name for name, layer in plain.named_modules() if type(layer) is nn.Linear}
    wrapped = set(LLM_LAYERS[family])
    expected = {f"{name}.base_layer" if name in wrapped else name for name in linears - {"llm.lm_head"}}
    assert quantized == expected


def test_four_bits_hold_the_values_of_nf4_exactly():
    """Each block of 64 times its own largest value; values of the paper's table come back as they were."""
    scales = torch.tensor([0.5, 3.0])
    weight = (NF4.repeat(4)[None] * scales[:, None]).float()
    linear = nn.Linear(64, 2, bias=False)
    linear.weight.data = weight.clone()
    layer = NF4Linear(linear)
    assert torch.equal(layer.weight, weight)
    assert torch.equal(layer.absmax_bits.view(torch.float32), scales)
    assert (layer.quantized.dtype, layer.quantized.numel()) == (torch.uint8, 64)


@pytest.mark.parametrize("width", [16, 32, 64, 96, 128, 160])
def test_four_bits_round_to_the_nearest_value(width):
    """Also where blocks of 64 reach over the ends of rows, as they do in the first layer of SeamlessM4T (160 wide)."""
    linear = nn.Linear(width, 64)
    layer = NF4Linear(linear)
    expected = nearest(linear.weight.detach())
    torch.testing.assert_close(layer.weight, expected, rtol=0, atol=1e-7)
    x = torch.randn(3, width)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, expected, linear.bias), rtol=0, atol=1e-5)


def nearest(weight):
    """Return each weight's nearest value of NF4, scaled by the largest of its block."""
    blocks = weight.reshape(-1, 64)
    scale = blocks.abs().amax(dim=1, keepdim=True)
    return (NF4[((blocks / scale)[..., None] - NF4).abs().argmin(dim=-1)] * scale).reshape(weight.shape)


@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_four_bit_layers_compute_as_linear_layers_do(dtype, width):
    """Output and gradient are those of a linear layer with the same weights, in the format of the input."""
    layer = NF4Linear(nn.Linear(width, 48).to(dtype))
    x = torch.randn(2, 5, width, dtype=dtype, requires_grad=True)
    expected = nn.functional.linear(x, layer.weight, layer.bias)
    (expected_gradient,) = torch.autograd.grad(expected.square().sum(), x)
    got = layer(x)
    (gradient,) = torch.autograd.grad(got.square().sum(), x)
    tolerance = 1e-5 if dtype == torch.float32 else 4e-2
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(gradient, expected_gradient, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("width", [32, 64])
def test_four_bit_layers_follow_autocast(width):
    layer = NF4Linear(nn.Linear(width, 48))
    bias = layer.bias.clone()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(5, width)).dtype == torch.bfloat16
    assert layer(torch.randn(5, width)).dtype == torch.float32
    assert torch.equal(layer.bias, bias)
    assert layer.bias.dtype == torch.float32


def test_a_cast_does_not_round_the_scales_of_four_bits():
    layer = NF4Linear(nn.Linear(64, 48))
    before = layer.weight
    assert torch.equal(layer.to(torch.bfloat16).weight, before)


@pytest.mark.parametrize("kind", ["four bits", "plain"])
def test_four_bits_load_from_their_own_and_from_plain_weights(kind):
    linear, other = nn.Linear(64, 48), NF4Linear(nn.Linear(64, 48))
    source = NF4Linear(linear)
    expected = source.weight
    other.load_state_dict(source.state_dict() if kind == "four bits" else linear.state_dict())
    assert torch.equal(other.weight, expected)
    assert torch.equal(other.bias, linear.bias)


# Configurations as the checkpoints on the hub have them.
LLAMA_2_7B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32003,
}
MISTRAL_7B = LLAMA_2_7B | {"model_type": "mistral", "intermediate_size": 14336, "num_key_value_heads": 8}
GEMMA_7B = {
    "model_type": "gemma",
    "hidden_size": 3072,
    "intermediate_size": 24576,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 256,
    "vocab_size": 256_003,
}
GEMMA_2_9B = GEMMA_7B | {
    "model_type": "gemma2",
    "hidden_size": 3584,
    "intermediate_size": 14336,
    "num_hidden_layers": 42,
    "num_key_value_heads": 8,
}
QWEN_2_5_7B = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152_064,
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize(
    ("config", "r", "linear", "table"),
    [
        (LLAMA_2_7B, 8, 19_988_480, 288_792),
        (MISTRAL_7B, 8, 20_971_520, 288_792),
        (GEMMA_7B, 8, 25_001_984, 2_072_600),
        (GEMMA_2_9B, 8, 27_009_024, 2_076_696),
        (QWEN_2_5_7B, 16, 40_370_176, None),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_trained_parameters_at_real_sizes(config, r, linear, table):
    """Spec §14.3: papers B and D, linear layers by default and the two tables where they are named."""

    def count(targets):
        from transformers import AutoConfig, AutoModelForCausalLM

        options = dict(config)
        with torch.device("meta"):
            llm = AutoModelForCausalLM.from_config(AutoConfig.for_model(options.pop("model_type"), **options))
            inject_lora(llm, LoraOptions(r=r, targets=targets))
        return sum(parameter.numel() for parameter in llm.parameters() if parameter.requires_grad)

    assert count(None) == linear
    if table is not None:
        assert count([*DEFAULT_TARGETS[0], "embed_tokens", "lm_head"]) == linear + 2 * table


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tuning": "qlra"}, r"Unknown tuning 'qlra'\. Did you mean 'qlora'\? Allowed: frozen, lora, qlora, full"),
        ({"tuning": "lora", "lora": {"rank": 8}}, r"`lora` does not take 'rank'.*It takes: r, alpha, dropout, targets"),
        ({"tuning": "lora", "lora": {"alhpa": 8}}, r"does not take 'alhpa'\. Did you mean 'alpha'"),
        ({"tuning": "lora", "lora": [8]}, "`lora` must be a mapping"),
        ({"tuning": "lora", "lora": {"r": 0}}, "`r` must be a whole number of at least 1, but is 0"),
        ({"tuning": "lora", "lora": {"r": 2.5}}, r"`r` must be a whole number of at least 1, but is 2\.5"),
        (
            {"tuning": "qlora", "lora": {"alpha": 0, "dropout": 1}},
            r"`alpha` must .* is 0; `dropout` must be in \[0, 1\)",
        ),
        ({"tuning": "lora", "lora": {"targets": "q_proj"}}, "`targets` must be a list of names"),
        ({"tuning": "full", "lora": {"r": 8}}, "`lora` only means something with `tuning: lora`"),
        ({"lora": {"r": 8}}, "not with `tuning: frozen`"),
    ],
)
def test_wrong_options_of_tuning(options, message):
    with pytest.raises(UserError, match=message):
        tiny_decoder(**options)
    with pytest.raises(UserError, match=message):
        tiny_encoder(**options)


def test_targets_that_match_nothing():
    with pytest.raises(
        UserError, match=r"No layer is called 'q_prj', .*Did you mean 'q_proj'.*There are: .*fc1.*q_proj"
    ):
        tiny_encoder(tuning="lora", lora={"targets": ["v_proj", "q_prj"]})
    with pytest.raises(UserError, match="Conv1d has no linear layers for LoRA to adapt"):
        find_targets(nn.Conv1d(2, 2, 1), None)


def test_a_network_of_no_known_family_is_adapted_in_every_linear_layer():
    net = nn.ModuleDict({"layers": nn.Sequential(nn.Linear(2, 2), nn.GELU(), nn.Linear(2, 2))})
    net["embed"], net["lm_head"] = nn.Embedding(3, 2), nn.Linear(2, 3)
    assert find_targets(net, None) == ["layers.0", "layers.2"]


def test_targets_may_name_the_module_around():
    decoder = tiny_decoder(tuning="lora", lora={"targets": ["layers.1.self_attn.q_proj", "lm_head"]})
    assert trained(decoder) == matrices(["llm.model.layers.1.self_attn.q_proj", "llm.lm_head"])


def test_nothing_to_quantize():
    class Waves(TunableModule):
        has_linear_layers = False

        def __init__(self, tuning):
            super().__init__()
            self.check_tuning(tuning)
            raise AssertionError("weights would be loaded here")

    with pytest.raises(UserError, match=r"Waves has no linear layers, .*Use one of: frozen, lora, full"):
        Waves("qlora")
    with pytest.raises(UserError, match=r"There is nothing to quantise: .*ModuleDict has none"):
        quantize_linears(nn.ModuleDict({"conv": nn.Conv1d(2, 2, 1), "lm_head": nn.Linear(2, 2)}))
