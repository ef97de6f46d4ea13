"""The figures of ``speechllm bench``: one recipe on one device."""

from typing import TYPE_CHECKING, Any

from speechllm.commands.planned_recipe import PlannedRecipe, workload
from speechllm.costs.flops import model_flop_utilization
from speechllm.costs.gpus import detect_gpu
from speechllm.errors import UserError

if TYPE_CHECKING:
    from speechllm.models.sizing.benchmarking import Measured

TINY_LLM = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
TINY_ENCODER = {"layers": 4, "width": 96, "heads": 4, "inner": 384}
TINY_VOCABULARY = 1000


def measure(
    recipe: PlannedRecipe,
    steps: int,
    warmup: int,
    scale: str | None,
    layers: int | None,
    device: str | None,
    new_tokens: int,
    search: bool,
    cpu_parameters: int,
) -> dict[str, Any]:
    """Measure a recipe and return its figures, as plain data; arguments are those of the command."""
    import torch

    from speechllm.models.sizing.benchmarking import Bench, endless
    from speechllm.models.sizing.planning import ModelPlan
    from speechllm.models.sizing.random_twin import random_twin
    from speechllm.models.sizing.synthetic_load import Noise, draw_batches, log_normal_durations

    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if place.type == "cuda" and not torch.cuda.is_available():
        msg = "`--device cuda`: there is no GPU that torch can use. Leave it out to measure on the CPU."
        raise UserError(msg)
    work, source = workload(recipe)
    precision = str(recipe.trainer.get("precision", "32-true"))
    plan = ModelPlan(recipe.model, precision)
    if scale is None:
        large = sum(all_ for all_, _ in plan.parameters().values()) > cpu_parameters
        scale = "tiny" if place.type == "cpu" and large and layers is None else "full"
    twin = random_twin(tiny_model(recipe.model) if scale == "tiny" else recipe.model, layers)
    if place.type == "cpu":
        _to_float32(twin)
    bench = Bench(twin, place, precision, plan.compression, work.accumulated)
    durations = list(work.durations_s)
    if work.hours is None:
        durations = log_normal_durations(2000, work.longest_s)
        source = f"log-normal, mean {sum(durations) / len(durations):.1f} s, 1 to {work.longest_s:g} s"
    noise = Noise(work.longest_s, _task(recipe.data))
    drawn = draw_batches(durations, steps + warmup, work.batch_seconds, work.max_utterances, 30)
    found = bench.steps(endless(noise.batch, drawn), steps, warmup)
    decoded = noise.batch(drawn[-1])
    decode_s, tokens = bench.decode(decoded, new_tokens)
    largest = None
    if search and place.type == "cuda":
        largest = bench.largest_batch_seconds(work.batch_seconds, work.longest_s, work.max_utterances, noise)
    return {
        "recipe": recipe.name,
        "scale": scale if layers is None else f"{scale}, at most {layers} layers",
        "device": torch.cuda.get_device_name(place) if place.type == "cuda" else "CPU",
        "precision": precision if place.type == "cuda" else "float32",
        "parameters": sum(p.numel() for p in bench.model.parameters()),
        "trained": sum(p.numel() for p in bench.trained),
        "durations": source,
        "steps": steps,
        "batch_seconds": work.batch_seconds,
        **_rates(found, torch.cuda.get_device_name(place) if place.type == "cuda" else ""),
        "decode_tokens_per_s": tokens / decode_s,
        "decode_real_time_factor": decode_s / sum(decoded.durations_s),
        "decode_utterances": len(decoded),
        "largest_batch_seconds": largest,
    }


def _rates(found: "Measured", device_name: str) -> dict[str, Any]:
    """Return what follows of a window of steps."""
    gpu = detect_gpu(device_name)
    return {
        "utterances": found.utterances,
        "samples_per_s": found.utterances / found.time_s,
        "audio_s_per_s": found.audio_s / found.time_s,
        "llm_positions_per_s": found.llm_positions / found.time_s,
        "speech_positions_per_s_of_audio": found.speech_positions / found.audio_s,
        "gflop_per_sample": found.flop / found.utterances / 1e9,
        "tflop_per_s": found.flop / found.time_s / 1e12,
        "mfu": None if gpu is None else model_flop_utilization(found.flop, found.time_s, gpu.bf16_tflops),
        "ceiling_samples_per_s": None if gpu is None else gpu.ceiling_tflops * 1e12 * found.utterances / found.flop,
        "peak_gib": found.peak_gib,
        "shares": found.shares,
    }


def tiny_model(model: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe's model at sizes that a CPU can train, with the same parts, tunings and options otherwise."""
    from speechllm.registry import ADAPTERS

    adapter = {**model["adapter"], **ADAPTERS.get(model["adapter"]["name"]).tiny}
    for key, value in (("dim", 64), ("heads", 4), ("layers", 4), ("hidden_dim", 128)):
        if key in adapter:
            adapter[key] = value
    decoder = {key: value for key, value in model["decoder"].items() if key not in ("pretrained", "revision")}
    decoder |= {"config": _tiny_llm(model["decoder"])}
    return {**model, "encoder": _tiny_encoder(model["encoder"]), "adapter": adapter, "decoder": decoder}


def _tiny_encoder(spec: dict[str, Any]) -> dict[str, Any]:
    if "encoders" in spec:
        return {**spec, "encoders": [_tiny_encoder(inner) for inner in spec["encoders"]]}
    from speechllm.registry import ENCODERS

    sizes = {
        "whisper": ("d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim"),
        "seamless": (
            "hidden_size",
            "speech_encoder_layers",
            "speech_encoder_attention_heads",
            "speech_encoder_intermediate_size",
        ),
        "hubert": ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    }.get(spec["name"], ())
    config = dict(ENCODERS.get(spec["name"]).tiny.get("config", {}))
    values = (TINY_ENCODER["width"], TINY_ENCODER["layers"], TINY_ENCODER["heads"], TINY_ENCODER["inner"])
    config |= dict(zip(sizes, values, strict=False))
    kept = {key: value for key, value in spec.items() if key not in ("pretrained", "revision", "cache", "config")}
    return {**kept, "config": config}


def _tiny_llm(spec: dict[str, Any]) -> dict[str, Any]:
    from speechllm.known_checkpoints import LLMS

    given = LLMS.get(spec.get("pretrained") or "", spec.get("config") or {"model_type": "llama"})
    config: dict[str, Any] = {"model_type": given.get("model_type", "llama"), **TINY_LLM}
    if config["model_type"] == "gpt_neox":
        del config["num_key_value_heads"], config["head_dim"]
    elif config["model_type"] == "qwen2":
        del config["head_dim"]
    return {**config, "vocab_size": TINY_VOCABULARY}


def _to_float32(twin: dict[str, Any]) -> None:
    """Let everything compute in float32, as CPUs do best."""
    for spec in (twin["encoder"], *twin["encoder"].get("encoders", []), twin["decoder"]):
        spec.pop("dtype", None)


def _task(data: dict[str, Any]) -> str:
    """Return the first task that the data names."""
    options = data.get("init_args", {})
    for part in (options, *(part.get("init_args", {}) for part in options.get("parts", []))):
        if part.get("tasks"):
            return str(part["tasks"][0])
    return "asr"
