"""`speechllm compare`: runs, hypotheses of others, published figures side by side; one line for what is wrong."""

import csv
import json
import random
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechllm.cli import main
from speechllm.commands.zoo_figures import compression
from speechllm.metrics.base import Figure
from speechllm.metrics.chrf import Chrf
from speechllm.predictions import write_predictions
from tests.evaluation.predicted import predicted, translated

WORDS = "der die das und ist nicht ein eine mit auf für von zu im den dem sich auch es an".split()
UTTERANCES = 40
PARTS = {
    "encoder": {"name": "whisper", "pretrained": "openai/whisper-large-v3"},
    "decoder": {"name": "causal_lm", "pretrained": "meta-llama/Llama-3.1-8B-Instruct"},
}
TABLE_III = Path(__file__).parents[1] / "evaluation" / "comparison" / "table_iii.csv"


def answers(wrong, seed, pairs=("en-de", "en-fr"), task="st"):
    """Return predictions in which a share of the words of each utterance is wrong, other ones with another seed."""
    references, errors = random.Random(7), random.Random(seed)
    found = []
    for pair in pairs:
        for number in range(UTTERANCES):
            words = references.choices(WORDS, k=12)
            said = [errors.choice(WORDS) if errors.random() < wrong else word for word in words]
            found.append(
                translated(
                    len(found),
                    id=f"{pair}_{number}",
                    task=task,
                    source_language=pair[:2],
                    target_language=pair[3:],
                    corpus="must_c",
                    split="tst-COMMON",
                    reference_transcript=f"sentence number {number}",
                    reference_translation=" ".join(words),
                    hypothesis_translation=" ".join(said),
                    hypothesis_transcript=f"sentence number {number + (number < 100 * wrong)}" if "asr" in task else "",
                    duration_s=1.0 + number % 9,
                    decode_s=0.2 + wrong,
                    speaker=f"speaker {number % 5}",
                    recording=f"talk {number % 5}.wav",
                )
            )
    return found


def write_run(name, wrong, seed, adapter="conv", metrics=("bleu",), **options):
    folder = Path("runs", name, "test")
    write_predictions(folder / "predictions.jsonl", answers(wrong, seed, **options))
    model = {**PARTS, "adapter": {"name": adapter}, "metrics": list(metrics)}
    run = {"recipe": {"model": {"class_path": "SpeechLLM", "init_args": model}}}
    (folder / "run.json").write_text(json.dumps(run))


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Three runs of two language pairs: one much better than the baseline, one as good; go there."""
    monkeypatch.chdir(tmp_path)
    write_run("base", 0.3, 1, "base")
    write_run("conv", 0.3, 2)
    write_run("wlq", 0.1, 3, "wlq")


def compare(capsys, *args):
    capsys.readouterr()
    main(["compare", *args])
    return capsys.readouterr().out


def refused(capsys, *args):
    """Give a command that cannot work; return its message, which is all that happens."""
    before = sorted(Path.cwd().rglob("*"))
    with pytest.raises(SystemExit) as exit_:
        main(["compare", *args])
    assert exit_.value.code == 2
    assert sorted(Path.cwd().rglob("*")) == before
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error.strip()


def test_runs_are_compared_and_differences_tested(runs, capsys):
    out = compare(capsys, "runs/base", "runs/conv", "runs/wlq/test", "--baseline", "base", "--samples", "300")
    folder = Path("compare")
    names = sorted(path.name for path in folder.iterdir())
    files = ["by_duration_bleu.png", "compare.csv", "compare.html", "compare.md", "compare.tex", "comparison.json"]
    assert names == [*files, "quality_compression.png", "quality_cost.png", "utterances.html"]
    assert folder.joinpath("compare.md").read_text(encoding="utf-8") in out
    assert "(p ≥ 0.05; paired bootstrap, 300 samples of utterances)" in out
    assert "| system |" in out, "no column for groups that there are not"

    with folder.joinpath("compare.csv").open(encoding="utf-8") as file:
        rows = {row["system"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["base", "conv", "wlq"]
    columns = ["BLEU en-de", "BLEU en-fr", "BLEU avg"]
    for row in rows.values():
        values = [float(row[column]) for column in columns]
        assert values[2] == pytest.approx(sum(values[:2]) / 2, abs=0.011)
    assert [rows["wlq"][f"{column} marks"] for column in columns] == ["best", "best", "best"]
    assert [rows["conv"][f"{column} marks"] for column in columns] == ["insignificant", "insignificant", ""]
    assert [rows["base"][f"{column} marks"] for column in columns] == ["", "", ""]

    contents = json.loads(folder.joinpath("comparison.json").read_text(encoding="utf-8"))
    assert contents["resampling"] == {"by": "utterance", "samples": 300, "seed": 12345, "test": "bootstrap"}
    assert [system["compression"] for system in contents["systems"]] == pytest.approx([1.0, 4.0, 16.0], abs=0.01)
    assert [system["baseline"] for system in contents["systems"]] == [None, "base", "base"]
    for system, significant in zip(contents["systems"][1:], (False, True), strict=True):
        for figure in system["figures"][:2]:
            found = figure["against_baseline"]
            assert (
                found["significant"]
                == significant
                == (found["p_bootstrap"] < 0.05)
                == (found["p_randomization"] < 0.05)
            )
            assert (found["low"] > 0) == significant
            assert figure["low"] < figure["value"] < figure["high"]
            assert figure["utterances"] == UTTERANCES
    assert contents["signatures"][0]["signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a")


def test_signatures_say_of_which_languages_they_are(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    texts = [("en", "the cat"), ("de", "die Katze"), ("ja", "猫です")]
    rows = [
        predicted(
            place,
            source_language=language,
            target_language=language,
            reference_transcript=text,
            hypothesis_transcript=text,
        )
        for place, (language, text) in enumerate(texts)
    ]
    write_predictions("a/predictions.jsonl", rows)
    printed = compare(capsys, "a", "--metrics", "cer", "--samples", "9", "--page", "false")
    assert "- CER en, de: `cer|spaces:yes|norm:none|" in printed
    assert "- CER ja: `cer|spaces:no|norm:none|" in printed


def test_the_page_of_the_table_links_the_pictures_and_the_utterances(runs, capsys):
    compare(capsys, "runs/base", "runs/wlq", "--samples", "20", "--out", "results/a b")
    folder = Path("results/a b")
    links = []

    class Links(HTMLParser):
        def handle_starttag(self, tag, attrs):
            links.extend(value for name, value in attrs if name in ("href", "src"))

    Links().feed(folder.joinpath("compare.html").read_text(encoding="utf-8"))
    assert "utterances.html" in links
    assert len(links) == 4
    assert all((folder / link).is_file() for link in links)
    out = compare(capsys, "runs/base", "runs/wlq", "--samples", "20", "--page", "false", "--out", "plain")
    assert "Page:" not in out
    assert not Path("plain/utterances.html").exists()


def test_hypotheses_of_other_systems_take_references_from_the_run(runs, capsys):
    lines = [p.reference_translation for p in answers(0.0, 0)]
    Path("nllb.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = [f"{p.id}\t{p.hypothesis_translation}" for p in reversed(answers(0.3, 1))]
    Path("other.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    out = compare(capsys, "MT/NLLB=nllb.txt", "MT/copy=other.tsv", "Ours/base=runs/base", "--samples", "20")
    cells = {line.split("|")[2].strip(): line.split("|")[3:-1] for line in out.splitlines() if line.startswith("| ")}
    assert [cell.strip() for cell in cells["NLLB"]] == ["**<u>100.00</u>**"] * 3
    assert [cell.strip(" <>u/") for cell in cells["copy"]] == [cell.strip() for cell in cells["base"]]
    assert "Not in the picture of quality against real-time factor, which is not known: MT/NLLB, MT/copy." not in out
    assert "No picture of quality against real-time factor" in out


def test_pairs_that_a_system_lacks_are_dashes_without_average(runs, capsys):
    write_run("german", 0.2, 5, pairs=("en-de",))
    out = compare(capsys, "runs/base", "runs/german", "--samples", "20", "--page", "false")
    row = next(line for line in out.splitlines() if line.startswith("| german"))
    assert [cell.strip() for cell in row.split("|")[3:-1]] == ["–", "–"]
    assert "- german, BLEU: no average, for there is no value for en-fr." in out


def test_metrics_that_recipes_do_not_share_are_named(runs, capsys):
    write_run("joint", 0.1, 4, metrics=("wer", "bleu", "chrf"), task="asr+st")
    write_run("joint2", 0.2, 5, metrics=("bleu", "wer"), task="asr+st")
    out = compare(capsys, "runs/joint", "runs/joint2", "--samples", "20", "--page", "false", "--figures", "bleu,wer")
    assert "Left out: chrf, which only joint was tested with. Name it with --metrics to add it." in out
    assert out.splitlines()[0].split("|")[2].strip() == "BLEU ↑ en-de"
    assert "WER ↓ en (to de)" in out
    out = compare(
        capsys, "runs/base", "runs/conv", "--metrics", "[chrf, {name: bleu, tokenize: char}]", "--samples", "9"
    )
    assert "chrF ↑ en-de" in out
    assert "tok:char" in out


def test_figures_may_have_capitals(runs, capsys, monkeypatch):
    monkeypatch.setattr(Chrf, "figures", (Figure("chrf_XL", "points", True),))
    for name in ("chrf_XL", "chrf_xl"):
        out = compare(
            capsys,
            "runs/base",
            "runs/conv",
            "--metrics",
            "[chrf]",
            "--figures",
            name,
            "--page",
            "false",
            "--samples",
            "9",
        )
        assert "chrF (XL) ↑ en-de" in out


def test_published_figures_stand_beside_runs_and_alone(runs, capsys):
    table = [
        "system,group,figure,languages,value",
        "paper,,BLEU,en-de,99.9",
        "paper,,BLEU,en-fr,1.0",
        "paper,,BLEU,avg,60.0",
    ]
    Path("paper.csv").write_text("\n".join(table) + "\n", encoding="utf-8")
    out = compare(capsys, "runs/base", "--published", "paper.csv", "--samples", "9", "--page", "false")
    row = next(line for line in out.splitlines() if line.startswith("| paper"))
    assert [cell.strip() for cell in row.split("|")[2:-1]] == ["**99.9**", "1.0", "**60.0**†"]
    assert "paper, bleu: the average is printed as 60.0, but the mean of the row is 50.450 (paper.csv, row 4)." in out
    out = compare(capsys, "--published", str(TABLE_III), "--out", "table_iii")
    assert len([line for line in out.splitlines() if line.startswith("| ")]) == 22
    assert Path("table_iii/quality_compression.png").is_file()
    assert not Path("table_iii/utterances.html").exists()
    assert "9.864" in out
    assert "80.974" in out
    out = compare(capsys, "--published", str(TABLE_III), "--figures", "WER")
    assert "COMET" not in out
    assert "80.974" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "No system to compare. Name run folders"),
        (
            ["runs/base", "x/base=runs/conv", "runs/base/test"],
            "Two systems are called 'base': 'runs/base' and 'runs/base/test'. Give them names of their own",
        ),
        (
            ["runs/base", "runs/conv", "--baseline", "bas"],
            "No system is called 'bas', the baseline. Did you mean 'base'?",
        ),
        (["runs/base", "runs/conf"], "'runs/conf' does not exist. Did you mean 'runs/conv'?"),
        (["runs/base", "runs/conv", "--figures", "belu"], "Unknown figure 'belu'. Did you mean 'bleu'?"),
        (["runs/base", "--metrics", "[blue]"], "Unknown metric 'blue'. Did you mean 'bleu'?"),
        (["runs/base", "runs/conv", "--samples", "0"], "`samples` must be at least 1, but is 0."),
        (
            ["runs/base", "runs/short"],
            "must_c en-de (translation): 'base' has 40 utterances and 'short' 39; 1 only in 'base'",
        ),
        (["runs/base", "runs/spanish"], "The systems have no test set in common."),
        (["runs/base", "lines.txt"], "lines.txt: 2 lines for 80 utterances"),
        (["lines.txt"], "lines.txt: hypotheses without references."),
        (["runs/base", "--published", "bad.csv"], "bad.csv, row 2: the value must be a number"),
        (
            ["runs/base", "--published", "other.csv"],
            "The systems have no figure in common. base: BLEU en-de, BLEU en-fr, BLEU avg; x: WER en.",
        ),
        (["runs/base", "runs/nameless", "--resample_by", "speaker"], "has no speaker, so that it cannot be resampled"),
    ],
)
def test_wrong_input_is_one_clear_line(runs, capsys, arguments, message):
    write_predictions("runs/short/test/predictions.jsonl", answers(0.1, 1)[1:])
    write_run("spanish", 0.1, 1, pairs=("en-es",))
    nameless = answers(0.1, 1)
    for prediction in nameless:
        prediction.speaker = ""
    write_predictions("runs/nameless/test/predictions.jsonl", nameless)
    Path("lines.txt").write_text("one\ntwo\n")
    Path("bad.csv").write_text("system,group,figure,languages,value\nx,,WER,en,3 %\n")
    Path("other.csv").write_text("system,group,figure,languages,value\nx,,WER,en,3.0\n")
    assert message in refused(capsys, *arguments)


def test_help_is_fast_and_enough():
    start = time.perf_counter()
    command = [sys.executable, "-m", "speechllm", "compare", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"COLUMNS": "120"})
    seconds = time.perf_counter() - start
    for words in ("GROUP/NAME=PATH", "--published", "compression", "speechllm compare runs/base runs/conv", "asterisk"):
        assert words in done.stdout
    assert seconds < 5, "2 s where the machine is idle"


def test_a_broken_run_is_reported_and_not_taken_for_hypotheses(runs, capsys):
    shutil.copytree("runs/base", "runs/broken")
    Path("runs/broken/test/run.json").write_text("{")
    assert "runs/broken/test/run.json: not valid JSON" in refused(capsys, "runs/base", "runs/broken")


def test_compression_is_known_where_length_alone_decides():
    assert compression({**PARTS, "adapter": {"name": "conv"}}) == pytest.approx(4.0, abs=0.01)
    assert compression({**PARTS, "adapter": {"name": "cif"}}) is None
    elsewhere = {"name": "whisper", "pretrained": "somebody/whisper-tuned"}
    assert compression({**PARTS, "encoder": elsewhere, "adapter": {"name": "conv"}}) is None
    random_weights = {
        "encoder": {"name": "whisper", "pretrained": None, "config": {"d_model": 16, "encoder_attention_heads": 2}},
        "adapter": {"name": "conv", "dim": 16, "heads": 2, "layers": 2},
        "decoder": {"name": "causal_lm", "config": {"model_type": "llama", "hidden_size": 16}},
    }
    assert compression(random_weights) == pytest.approx(4.0, abs=0.01)


def test_a_recipe_of_another_version_has_no_compression_but_says_so(runs, capsys):
    write_run("new", 0.2, 6, adapter="adapter_of_tomorrow")
    out = compare(capsys, "runs/base", "runs/new", "--samples", "9", "--page", "false")
    assert "The compression of 'new' is not known: Unknown adapter 'adapter_of_tomorrow'." in out


def test_clips_are_copied_on_demand(runs, capsys):
    soundfile.write("talk.wav", np.zeros(32_000), 16_000)
    spoken = predicted(0, recording=str(Path("talk.wav").resolve()), duration_s=1.0, offset_s=0.5)
    write_predictions("runs/heard/test/predictions.jsonl", [spoken])
    for out, copies in (("plain", 0), ("to_send", 1)):
        options = ["--metrics", "[wer]", "--samples", "20", "--out", out, "--copy_audio", str(bool(copies)).lower()]
        compare(capsys, "runs/heard", *options)
        assert len(list(Path(out).glob("clips/*.flac"))) == copies
