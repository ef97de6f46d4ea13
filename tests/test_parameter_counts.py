"""Figures at the papers' sizes, and docs/fidelity.md, whose figures of ours must be these (spec §18.2, §19.2)."""

import re
from decimal import Decimal
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml

import speechllm.adapters
import speechllm.decoders
import speechllm.encoders
import speechllm.fusions
import speechllm.metrics  # noqa: F401
from speechllm.metrics.base import Sample
from speechllm.models import SpeechLLM
from speechllm.registry import ADAPTERS, DECODERS, ENCODERS, FUSIONS, METRICS

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")

PARAMETERS = {
    "base": 28_351_488,
    "conv, convolutions": 3_543_552,
    "ctc, head": 25_199_361,
    "cif, length adapter": 28_151_554,
    "wlq": 33_091_328,
    "in_proj from Whisper": 985_344,
    "in_proj from SeamlessM4T": 788_736,
    "out_proj": 3_158_016,
    "conv2d, convolution": 26,
    "bridge_conv, 768 to 2,816": 6_885_632,
    "gated_bicross_cat, 1,280 and 768": 10_631_168,
    "projector, 4,096 to 3,584": 333_482_496,
    "Q-Former of paper D, 2,048 to 3,584": 18_914_560,
}
PAPER_D_QFORMER = {"window_frames": 17, "layers": 2, "cross_attention_frequency": 1, "drop_remainder": True}
FRAME_RATES = {"SeamlessM4T": 6.25, "Whisper": 50.0, "HuBERT": 50.0, "Whisper and mHuBERT": 50.0}
FRAMES_OF_30_S = {"SeamlessM4T": 188, "Whisper": 1500, "HuBERT": 1499, "Whisper and mHuBERT": 1499}

TABLE_III = """
SM base 84.94 84.75 86.65 84.71 85.42 85.29 6.48 6.56 9.69 7.80 8.36 7.78
SM cif  84.31 84.33 86.31 84.32 85.07 84.87 7.10 6.92 10.23 8.60 9.38 8.45
SM conv 84.33 84.15 86.20 84.11 84.98 84.75 7.53 7.83 11.38 10.07 11.44 9.65
SM ctc  82.95 82.48 85.20 82.85 83.57 83.41 7.94 7.90 12.51 10.31 12.29 10.19
SM wlq  84.67 84.71 86.60 84.59 85.29 85.17 6.38 6.80 9.83 8.05 8.48 7.91
SL base 85.12 84.15 86.17 84.08 84.78 84.86 7.15 7.46 10.67 9.20 9.96 8.89
SL cif  84.65 83.87 85.98 83.86 84.65 84.60 7.66 7.47 12.36 10.18 10.50 9.63
SL conv 85.42 84.42 86.43 84.31 85.17 85.15 7.16 7.08 10.79 8.99 9.83 8.77
SL ctc  83.78 82.49 85.21 82.83 83.60 83.58 7.95 8.04 12.17 9.94 11.22 9.90
SL wlq  85.65 84.84 86.66 84.68 85.39 85.44 6.62 6.69 9.96 7.97 8.71 7.99
WM base 78.98 81.38 84.79 81.63 82.69 81.89 11.37 7.57 12.81 10.14 10.88 10.55
WM cif  77.79 80.35 84.11 80.79 81.83 80.99 12.57 8.45 14.24 12.32 13.09 12.13
WM conv 78.73 81.26 84.72 81.52 82.58 81.76 11.78 7.60 13.23 10.67 11.52 10.96
WM ctc  75.56 76.53 81.75 78.33 78.55 78.14 14.69 10.63 17.15 15.09 16.50 14.81
WM wlq  79.07 81.44 84.92 81.68 82.92 82.00 11.82 8.21 13.60 15.77 12.55 12.39
WL base 80.43 82.15 85.21 82.33 83.06 82.64 9.90 6.33 11.27 8.52 9.09 9.02
WL cif  78.32 78.94 82.51 80.09 80.27 80.02 12.82 8.53 14.31 12.80 13.53 12.40
WL conv 80.84 82.57 85.49 82.60 83.51 83.00 9.90 6.46 11.49 8.75 9.00 9.12
WL ctc  76.47 73.80 80.16 77.19 76.59 76.84 14.02 10.98 17.55 16.29 17.21 15.21
WL wlq  79.95 81.56 84.88 81.56 82.89 82.17 11.98 7.90 14.52 11.10 12.84 11.67
"""
"""Paper A: encoder and LLM by initials, adapter, COMET of five directions and its mean, WER of five and its mean."""


@cache
def adapter(name, in_dim=1280, out_dim=4096, vocab_size=32_768, frame_rate=50.0):
    """Build an adapter at full size, without memory for its weights."""
    spec = PAPER_D_QFORMER | {"name": "wlq"} if name == "Q-Former of paper D" else {"name": name}
    with torch.device("meta"):
        return ADAPTERS.build(spec, in_dim=in_dim, out_dim=out_dim, vocab_size=vocab_size, frame_rate=frame_rate)


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def fusion(name):
    with torch.device("meta"):
        return FUSIONS.build({"name": name}, in_dims=(1280, 768))


def tables():
    """Return the page's tables by heading, each a list of rows, each a dict by column; without backticks."""
    found, heading = {}, ""
    for line in PAGE.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("|") and not line.startswith("|---"):
            cells = [cell.strip().replace("`", "") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            found.setdefault(heading, []).append(cells)
    return {heading: [dict(zip(rows[0], row, strict=True)) for row in rows[1:]] for heading, rows in found.items()}


def recipes_of(paper):
    """Return the recipes whose header names a paper."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "recipes").rglob("*.yaml"))]
    found = [yaml.safe_load(text) for text in texts if f"arXiv {paper}" in text]
    assert found, f"no recipe names {paper}"
    return found


def test_parameters():
    base = adapter("base").core_parameters()
    counted = {
        "base": base,
        "conv, convolutions": adapter("conv").core_parameters() - base,
        "ctc, head": adapter("ctc").core_parameters() - base,
        "cif, length adapter": adapter("cif").core_parameters() - base,
        "wlq": adapter("wlq").core_parameters(),
        "in_proj from Whisper": parameters(adapter("base").in_proj),
        "in_proj from SeamlessM4T": parameters(adapter("base", in_dim=1024).in_proj),
        "out_proj": parameters(adapter("base").out_proj),
        "conv2d, convolution": parameters(adapter("conv2d").conv),
        "bridge_conv, 768 to 2,816": parameters(adapter("bridge_conv", in_dim=768, out_dim=2816)),
        "gated_bicross_cat, 1,280 and 768": parameters(fusion("gated_bicross_cat")),
        "projector, 4,096 to 3,584": parameters(adapter("projector", in_dim=4096, out_dim=3584)),
        "Q-Former of paper D, 2,048 to 3,584": adapter("Q-Former of paper D", 2048, 3584).core_parameters(),
    }
    assert counted == PARAMETERS


def test_parameters_on_the_page():
    rows = tables()["Parameters"]
    assert {row["part"]: row["ours"] for row in rows} == {part: f"{count:,}" for part, count in PARAMETERS.items()}
    for row in rows:
        if row["published"].endswith(" M") and not row["the difference"].startswith("a misprint"):
            assert f"{PARAMETERS[row['part']] / 1e6:.2f} M" == row["published"], row["part"]


def test_wlq_depends_on_the_encoder_by_its_projection_alone():
    """33.09 M fits both encoders only with frames projected to 768 before the cross-attention (spec §7.1)."""
    seamless = adapter("wlq", in_dim=1024, frame_rate=6.25)
    assert seamless.core_parameters() == PARAMETERS["wlq"]
    assert parameters(seamless) == PARAMETERS["wlq"] + (1024 * 768 + 768) + (768 * 4096 + 4096)
    assert (seamless.window, adapter("wlq").window) == (2, 16)


def test_published_figures_without_the_blank():
    """The paper's rounded figures do not tell whether the blank is a class of its own (spec §6.5, §5.1)."""
    blank = 768 + 1
    assert PARAMETERS["ctc, head"] - blank == 25_198_592 == 768 * 32_768 + 32_768
    assert PARAMETERS["cif, length adapter"] - blank - 2 * 768 == 28_149_249
    cif = adapter("cif")
    assert parameters(cif.conv) + parameters(cif.weight_proj) == 2_949_888 + 769
    llama = adapter("ctc", vocab_size=128_256)
    assert parameters(llama.head) == 98_629_633
    for figure in ("25,198,592", "28,149,249", "98,629,633"):
        assert figure in PAGE
    with_kernel_3 = 25_198_592 + (768 * 768 * 3 + 768) + 769
    assert f"{with_kernel_3 / 1e6:.2f} M" == "26.97 M"


def test_rates_and_lengths_on_the_page():
    rows = tables()["Rates and lengths"]
    assert len(rows) == 9
    for row in rows:
        frame_rate = FRAME_RATES[row["encoder"]]
        part = adapter(row["adapter"], frame_rate=frame_rate)
        longer, shorter = part.output_lengths(torch.tensor([48_000, 24_000])).tolist()
        ratio = 24_000 / (longer - shorter)
        assert float(row["frames a second"]) == frame_rate
        assert (row["ratio"], row["ours"]) == (f"{ratio:g}", f"{frame_rate / ratio:g}")
        assert abs(Decimal(row["ours"]) - Decimal(row["published"])) <= Decimal("0.005")
        positions = part.output_lengths(torch.tensor([FRAMES_OF_30_S[row["encoder"]]]))
        assert int(row["positions of 30 s"]) == int(positions)


def test_frames_of_30_s_are_those_of_the_encoders():
    samples = torch.tensor([480_000])
    frames = {
        encoder: int(ENCODERS.build({"name": name, **ENCODERS.get(name).tiny}).output_lengths(samples))
        for encoder, name in (("Whisper", "whisper"), ("SeamlessM4T", "seamless"), ("HuBERT", "hubert"))
    }
    frames["Whisper and mHuBERT"] = min(frames["Whisper"], frames["HuBERT"])
    assert frames == FRAMES_OF_30_S


def test_losses_on_the_page():
    stated = {}
    for row in tables()["Losses"]:
        weights = {loss: float(weight) for weight, loss in re.findall(r"([\d.]+) (\w+)", row["ours"])}
        assert weights or row["ours"] == "none"
        stated |= dict.fromkeys(row["adapter"].split(", "), weights)
    assert stated == {name: ADAPTERS.get(name).loss_weights for name in stated}
    assert {name for name in ADAPTERS.names() if ADAPTERS.get(name).loss_weights} <= set(stated)


@pytest.mark.parametrize(("paper", "column"), [("2409.17044", "A: ours"), ("2510.10329", "B: ours")])
def test_settings_on_the_page(paper, column):
    stated = {row["setting"]: row[column] for row in tables()["Training settings"]}
    for recipe in recipes_of(paper):
        model = SpeechLLM(**recipe["model"]["init_args"])
        data, trainer = recipe["data"]["init_args"], recipe["trainer"]
        utterances = data["max_utterances"] * trainer["devices"] * trainer.get("accumulate_grad_batches", 1)
        found = {
            "peak learning rate": f"{model.lr:g}",
            "weight decay": f"{model.weight_decay:g}",
            "warm-up steps": str(model.warmup_steps),
            "utterances a step, at most": str(utterances),
            "gradient clipping": f"{trainer['gradient_clip_val']:g}" if "gradient_clip_val" in trainer else "none",
            "beams": str(model.num_beams),
        }
        assert found == {setting: stated[setting] for setting in found}
        assert f"{trainer['max_steps']:,}" in stated["steps"].split(" or ")
        assert stated.keys() - found.keys() == {"steps"}


def test_options_that_the_page_names_exist():
    named = re.findall(r"`(\w+)\.(\w+)`", PAGE)
    assert len(named) >= 6
    kinds = (ENCODERS, FUSIONS, ADAPTERS, DECODERS, METRICS)
    options = {(name, option) for kind in kinds for name in kind.names() for option in kind.options(name)}
    assert set(named) <= options


def test_error_rates_on_the_page():
    """Pooled 40, by utterance 62.5 (spec §17.3)."""
    samples = [Sample("a b c", "a b c d"), Sample("y", "x")]
    assert METRICS.build({"name": "wer"}, language="en").score(samples) == {"wer": 40.0, "wer_macro": 62.5}
    assert re.search(r"the first is 62.5 and the\s+second 40\b", PAGE)


def test_two_published_averages_do_not_follow_from_their_rows():
    """Spec §17.7; the page names the two."""
    wrong = {}
    rows = [line.split() for line in TABLE_III.strip().splitlines()]
    assert len(rows) == 20
    for system, name, *cells in rows:
        for kind, (*figures, printed) in (("COMET", cells[:6]), ("WER", cells[6:])):
            mean = sum(map(Decimal, figures)) / 5
            if abs(mean - Decimal(printed)) > Decimal("0.01"):
                wrong[system, name, kind] = (printed, f"{mean:.3f}")
    assert wrong == {("SL", "ctc", "WER"): ("9.90", "9.864"), ("WM", "cif", "COMET"): ("80.99", "80.974")}
    for printed, mean in wrong.values():
        assert re.search(rf"printed\s+{printed}, rows\s+{mean}", PAGE)
