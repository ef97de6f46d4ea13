"""The operations that are counted from sizes are those that torch counts while it computes."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from speechllm.batch import Frames
from speechllm.costs.flops import inference_flop, training_flop
from speechllm.models import SpeechLLM
from speechllm.models.sizing.shapes import _encoder_works, shape_of, step_size
from speechllm.registry import ADAPTERS, ENCODERS
from tests.tiny import LLM_FAMILIES, fits, make_batch, noise, reads_ctc_logits, seconds

WIDER = {"hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4}
"""Wide enough that what is left out (rotary angles, pooling) does not show."""


class CountFlop(TorchDispatchMode):
    """torch's counter without its look-out for modules, which does not stand a gradient within a forward."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            found = flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
            if func._overloadpacket is torch.ops.aten.convolution_backward and args[10][1]:
                # It takes the gradient of a grouped convolution's weight for that of an ungrouped one.
                groups, weight = args[9], args[2]
                found -= 2 * weight.numel() * (groups - 1) * args[0].shape[0] * args[0].shape[2]
            self.total += found
        return out


def counted(model, batch):
    """Return what torch counts in a training step, and what the step's sizes are."""
    sizes = {}
    adapter, llm = model.adapter.forward, model.decoder.llm.base_model.forward

    def adapt(*args, **kwargs):
        speech = adapter(*args, **kwargs)
        sizes["speech"] = speech.lengths.tolist()
        return speech

    def run(*args, **kwargs):
        sizes["llm"] = [kwargs["inputs_embeds"].shape[1]]
        return llm(*args, **kwargs)

    model.adapter.forward, model.decoder.llm.base_model.forward = adapt, run
    with sdpa_kernel(SDPBackend.MATH), CountFlop() as counter:
        losses = model.losses(batch)
        (losses.llm.sum() + sum(values.sum() for values in losses.auxiliary.values())).backward()
    size = step_size(model, batch, sizes["speech"], sizes["llm"], losses.target_lengths.tolist())
    return counter.total, size


@pytest.fixture
def any_vocabulary(monkeypatch):
    """Let adapters learn bytes from encoders of few frames; a recipe would be refused."""
    monkeypatch.setattr("speechllm.models.speech_llm.check_parts", lambda *_: None)


def build(encoder, adapter, family="llama", encoder_options=None, decoder_options=None, **options):
    config = {"model_type": family, **WIDER, **LLM_FAMILIES[family]}
    ctc = {"ctc_head": True} if reads_ctc_logits(adapter) else {}
    model = SpeechLLM(
        encoder={"name": encoder, **ENCODERS.get(encoder).tiny, **ctc, **(encoder_options or {})},
        adapter={"name": adapter, **ADAPTERS.get(adapter).tiny},
        decoder={"name": "causal_lm", "config": config, **(decoder_options or {})},
        **options,
    )
    torch.manual_seed(0)
    model.configure_model()
    return model.train()


def check(model, tolerance=0.03):
    flop, size = counted(model, make_batch(noise(*seconds(6.4))))
    found = training_flop(shape_of(model), size)
    assert found.total == pytest.approx(flop, rel=tolerance)
    return found


PAIRS = [(e, a) for e in ("whisper", "seamless", "hubert", "parallel") for a in ADAPTERS.names() if fits(e, a)]


@pytest.mark.parametrize(("encoder", "adapter"), PAIRS)
@pytest.mark.usefixtures("any_vocabulary")
def test_every_encoder_and_adapter(encoder, adapter):
    """Both frozen: the encoder goes forward, the adapter learns, the LLM passes gradients on."""
    check(build(encoder, adapter))


@pytest.mark.parametrize("family", LLM_FAMILIES)
@pytest.mark.parametrize("tuning", ["frozen", "lora", "qlora", "full"])
def test_every_llm_and_tuning(family, tuning):
    check(build("whisper", "conv", family, decoder_options={"tuning": tuning}))


@pytest.mark.parametrize("encoder", ["whisper", "seamless", "hubert"])
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_trained_encoders(encoder, tuning):
    check(build(encoder, "conv", encoder_options={"tuning": tuning}))


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_nothing_trained_before_the_llm(tuning):
    """Its first layer passes nothing on; the layers beside each other in it are taken one after the other."""
    model = build("whisper", "conv", decoder_options={"tuning": tuning}, freeze=["adapter"])
    check(model, tolerance=0.05)


@pytest.mark.parametrize("options", [{"pad_to_30s": True}, {"pad_to_30s": True, "trim_to_speech": True}])
def test_encoders_that_pad(options):
    found = check(build("whisper", "conv", encoder_options=options))
    assert found.encoder > 4 * check(build("whisper", "conv")).encoder


@pytest.mark.parametrize(("given", "share"), [("none", 0), ("all", 1), (2, 0.5), (3, 0.5)])
def test_what_is_computed_again(given, share):
    model = build("whisper", "mlp", decoder_options={"checkpoint_layers": given})
    flop, size = counted(model, make_batch(noise(*seconds(6.4))))
    found = training_flop(shape_of(model), size)
    assert found.computed == pytest.approx(flop, rel=0.03)
    assert found.recomputed == pytest.approx(share * inference_flop(shape_of(model), size).llm)


def test_parts_add_up_on_a_batch_without_padding_and_audio_counts_once():
    model = build("whisper", "conv")
    batch = make_batch(noise(*seconds(4.0, 2.0)))
    both = step_size(model, batch, [50, 25], [90, 80], [20, 30])
    alone = [
        step_size(model, batch.select([row]), *([v[row]] for v in ([50, 25], [90, 80], [20, 30]))) for row in (0, 1)
    ]
    shape = shape_of(model)
    assert training_flop(shape, both).total == pytest.approx(sum(training_flop(shape, size).total for size in alone))
    batch.audio_of = [0, 0]
    assert step_size(model, batch, [50, 25], [90, 80], [20, 30]).encoder_frames == [200]
    batch.features = {"key": Frames(torch.zeros(2, 200, 16), torch.tensor([200, 100]))}
    cached = step_size(model, batch, [50, 25], [90, 80], [20, 30], cached=True)
    assert (cached.encoder_frames, cached.adapter_frames) == ([], [200, 100])
    assert training_flop(shape, cached).encoder == 0
    assert training_flop(shape, cached).adapter == training_flop(shape, both).adapter


def test_shapes_of_models_without_memory():
    with torch.device("meta"):
        on_meta = shape_of(build("whisper", "conv"))
    assert on_meta == shape_of(build("whisper", "conv"))


def test_cached_encoders_compute_nothing_and_are_not_loaded(tmp_path):
    spec = {"name": "whisper", "pretrained": "not/there", "cache": str(tmp_path)}
    read = SimpleNamespace(key="of a cache that fits")
    assert _encoder_works(read, spec) == ((), False)
    whisper = build("whisper", "mlp").encoder
    computed = SimpleNamespace(key=None, inner=whisper)
    assert _encoder_works(computed, spec) == _encoder_works(whisper, {"name": "whisper", "cache": None})
