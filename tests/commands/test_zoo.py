"""`speechllm zoo`: everything is listed, figures are the papers' own, and copies never overwrite."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from speechllm.cli import main
from speechllm.commands.zoo import catalogue, part_options, registries
from speechllm.commands.zoo_figures import figures
from speechllm.known_checkpoints import ENCODERS, LLMS
from speechllm.recipe_files import recipes

ROOT = Path(__file__).resolve().parents[2]


def printed(capsys, *args):
    capsys.readouterr()
    main(["zoo", *args])
    return capsys.readouterr().out


def refused(capsys, *args):
    """Give a command that cannot work; return its message."""
    with pytest.raises(SystemExit) as exit_:
        main(["zoo", *args])
    assert exit_.value.code == 2
    return capsys.readouterr().err


def test_lists_every_part_prompt_and_recipe_once(capsys):
    lines = printed(capsys).splitlines()
    names = [line.split()[0] for line in lines if line.startswith("  ")]
    expected = [name for registry in registries().values() for name in registry.names()]
    expected += ["chat", "plain", "joint", "nue", "parallel", *recipes()]
    assert names == expected
    assert all(len(line.split()) > 1 for line in lines if line.startswith("  ")), "each says what it is"


def test_lists_one_kind(capsys):
    text = printed(capsys, "fusions")
    assert text.startswith("fusions\n  bicross ")
    assert len(text.splitlines()) == 1 + len(registries()["fusions"].names())


def test_answers_within_seconds_without_loading_transformers():
    """A catalogue that takes as long as a model to load is not looked at."""
    code = "import sys; from speechllm.cli import main; main(['zoo']); assert 'transformers' not in sys.modules"
    start_s = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert time.perf_counter() - start_s < 15  # 2 s alone


def test_describes_a_part_with_every_option(capsys):
    text = printed(capsys, "wlq")
    assert text.startswith("adapter wlq: ")
    for option in part_options(registries()["adapters"], "wlq"):
        assert f"\n  {option.name}: " in text
        assert option.meaning
    assert "33,091,328" in text
    assert "`" not in text.split("at the sizes")[0]


def test_describes_a_metric(capsys):
    names = [line.split()[0] for line in printed(capsys, "metrics").splitlines()[1:]]
    assert {"wer", "mer", "bleu", "comet", "health", "speed"} <= set(names)
    text = printed(capsys, "mer")
    assert text.startswith("metric mer: Mixed error rate in percent")
    assert "\n  normalizer: none\n" in text
    assert "language:" not in text, "the program passes it"
    assert "real_time_factor" in printed(capsys, "speed")


def test_a_name_of_two_kinds_describes_both(capsys):
    text = printed(capsys, "parallel")
    assert "encoder parallel: " in text
    assert "prompt style parallel: <|endoftext|>{instruction}{speech}" in text
    assert "required" in text, "its two encoders have no default"


def test_prints_a_recipe(capsys):
    recipe = recipes()["connect/whisper_conv_llama"]
    assert recipe.read_text().strip() in printed(capsys, "whisper_conv_llama")


def row(kind, name, label):
    columns, rows = figures(kind, name)
    (cells,) = [cells for cells in rows if cells[0] == label]
    return dict(zip(columns, cells, strict=True))


MISTRAL = "Mistral-7B-Instruct-v0.3"


@pytest.mark.parametrize(
    ("name", "between", "column", "figure"),
    [
        # Table II of paper A: without projections; the CTC head and the weights of CIF are at Mistral's vocabulary.
        ("base", f"whisper-large-v3 → {MISTRAL}", "without projections", "28,351,488"),
        ("conv", f"whisper-large-v3 → {MISTRAL}", "without projections", f"{28_351_488 + 3_543_552:,}"),
        ("ctc", f"whisper-large-v3 → {MISTRAL}", "without projections", f"{28_351_488 + 25_199_361:,}"),
        ("cif", f"whisper-large-v3 → {MISTRAL}", "without projections", f"{28_351_488 + 28_151_554:,}"),
        ("wlq", f"whisper-large-v3 → {MISTRAL}", "without projections", "33,091,328"),
        ("bridge_conv", "japanese-hubert-base → japanese-gpt-neox-3.6b", "parameters", "6,885,632"),
        ("conv2d", "whisper-large-v3 → Llama-2-7b-hf", "parameters", f"{26 + 1281 * 4096:,}"),
        # Table I of paper A: positions a second.
        ("base", f"whisper-large-v3 → {MISTRAL}", "positions/s", "50.00"),
        ("base", f"seamless-m4t-v2-large → {MISTRAL}", "positions/s", "6.25"),
        ("conv", f"whisper-large-v3 → {MISTRAL}", "positions/s", "12.50"),
        ("conv", f"seamless-m4t-v2-large → {MISTRAL}", "positions/s", "1.56"),
        ("wlq", f"whisper-large-v3 → {MISTRAL}", "positions/s", "3.12"),
        ("wlq", f"seamless-m4t-v2-large → {MISTRAL}", "positions/s", "3.12"),
        ("cif", f"whisper-large-v3 → {MISTRAL}", "positions/s", "by content"),
    ],
)
def test_figures_of_adapters(name, between, column, figure):
    """Spec §3-10 and §19.2."""
    assert row("adapters", name, between)[column] == figure


@pytest.mark.parametrize(
    ("name", "parameters", "width"),
    [
        ("concat", "0", "2048"),
        ("cross", "5,250,560", "1280"),
        ("gated_bicross", "10,631,168", "2048"),
        ("gated_bicross_cat", "10,631,168", "4096"),
    ],
)
def test_figures_of_fusions(name, parameters, width):
    """Spec §11.2."""
    assert row("fusions", name, "whisper-large-v3 + mHuBERT-147") == {
        "between": "whisper-large-v3 + mHuBERT-147",
        "parameters": parameters,
        "width": width,
    }


def test_figures_of_encoders_and_llms():
    """Totals as the model cards give them."""
    assert row("encoders", "whisper", "whisper-large-v3")["parameters"] == "636,968,960"
    assert row("encoders", "hubert", "mHuBERT-147") == {
        "checkpoint": "mHuBERT-147",
        "parameters": "94,370,944",
        "width": "768",
        "frames/s": "50",
    }
    assert row("decoders", "causal_lm", "Llama-3.1-8B-Instruct")["parameters"] == "8,030,261,248"
    assert row("decoders", "causal_lm", "gemma-2-9b")["parameters"] == "9,241,705,984"


def test_a_part_that_no_recipe_names_has_figures_too():
    assert not any("linear_stack" in path.read_text() for path in recipes().values())
    assert row("adapters", "linear_stack", "whisper-large-v3 → Llama-3.1-8B-Instruct")["positions/s"] == "10.00"


def test_the_sizes_of_every_checkpoint_in_a_recipe_are_known():
    named = set()
    for path in recipes().values():
        lines = path.read_text(encoding="utf-8").replace("{", " ").replace(",", " ").replace("}", " ")
        words = lines.split()
        named |= {words[i + 1] for i, word in enumerate(words) if word == "pretrained:"}
    assert named == {*ENCODERS, *LLMS}


def test_unknown_names(capsys):
    assert "The zoo has no 'convv'. Did you mean 'conv'?" in refused(capsys, "convv")
    assert "Did you mean 'adapters'?" in refused(capsys, "adapter")
    assert "Did you mean 'whisper_conv_llama'?" in refused(capsys, "--copy", "whisper_con_llama")
    assert "give `--copy` the name of a recipe" in refused(capsys, "--out", "mine.yaml")


def test_copies_a_recipe_and_never_overwrites(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert printed(capsys, "--copy", "quickstart") == "Wrote quickstart.yaml\n"
    assert Path("quickstart.yaml").read_text() == (ROOT / "recipes/quickstart.yaml").read_text()
    Path("quickstart.yaml").write_text("mine")
    assert "'quickstart.yaml' exists and is not overwritten" in refused(capsys, "--copy", "quickstart")
    assert Path("quickstart.yaml").read_text() == "mine"
    main(["zoo", "--copy", "connect/whisper_conv_llama", "--out", "new/mine.yaml"])
    assert Path("new/mine.yaml").read_text() == recipes()["connect/whisper_conv_llama"].read_text()
    main(["zoo", "--copy", "quickstart", "--out", "new"])
    assert Path("new/quickstart.yaml").is_file()


def test_catalogue_says_what_recipes_are():
    assert catalogue()["recipes"]["quickstart"].startswith("A small speech LLM from random weights")
