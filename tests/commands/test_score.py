"""``speechllm score``: figures of files and runs, as their reference implementations have them."""

import json
import random
import subprocess
import sys
from pathlib import Path

import jiwer
import pytest
from sacrebleu.metrics import BLEU, CHRF

from speechllm.cli import main
from speechllm.predictions import read_predictions, write_predictions
from tests.evaluation.predicted import predicted, translated

WORDS = "the a cat dog house tree runs sleeps eats red blue big small and or not isn't over under".split()


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def texts(workplace):
    """Write 60 sentences and their references, and return both."""
    generator = random.Random(0)
    references = [" ".join(generator.choices(WORDS, k=generator.randint(4, 12))) for _ in range(60)]
    hypotheses = [" ".join(word for word in line.split() if generator.random() > 0.1) for line in references]
    Path("hyp.txt").write_text("\n".join(hypotheses) + "\n", encoding="utf-8")
    Path("ref.txt").write_text("\n".join(references) + "\n", encoding="utf-8")
    return hypotheses, references


def figures(folder="out"):
    return {score["figure"]: score for score in json.loads(Path(folder, "run.json").read_text())["scores"]}


def fails(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["score", *arguments])
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_transcripts(texts, capsys):
    hypotheses, references = texts
    main(["score", "hyp.txt", "--references", "ref.txt", "--language", "en", "--out", "out"])
    printed = capsys.readouterr().out
    found = figures()
    assert found["wer"]["value"] == pytest.approx(100 * jiwer.wer(references, hypotheses), abs=1e-9)
    assert found["cer"]["value"] == pytest.approx(100 * jiwer.cer(references, hypotheses), abs=1e-9)
    assert found["wer"]["low"] < found["wer"]["value"] < found["wer"]["high"]
    assert found["wer"]["sums"]["deletions"] == jiwer.process_words(references, hypotheses).deletions
    assert found["wer_whisper"]["value"] != found["wer"]["value"]
    assert found["empty_rate"]["value"] == 0
    for name in ("wer", "wer_whisper", "cer"):
        assert f"{found[name]['value']:.2f}" in printed
        assert found[name]["signature"] in printed
    assert [p.hypothesis_transcript for p in read_predictions("out/predictions.jsonl")] == hypotheses
    assert Path("out/report.txt").read_text().strip() in printed


def test_translations(texts):
    hypotheses, references = texts
    languages = ["--language", "de", "--source_language", "en"]
    main(["score", "hyp.txt", "--references", "ref.txt", *languages, "--name", "tst", "--out", "out"])
    found = figures()
    assert found["bleu"]["value"] == pytest.approx(BLEU().corpus_score(hypotheses, [references]).score)
    assert found["chrf"]["value"] == pytest.approx(CHRF().corpus_score(hypotheses, [references]).score)
    assert (found["bleu"]["corpus"], found["bleu"]["source_language"], found["bleu"]["target_language"]) == (
        "tst",
        "en",
        "de",
    )
    assert "wer" not in found


def test_a_run_is_scored_again_by_further_metrics_and_keeps_what_it_was(workplace, capsys):
    write_predictions("runs/x/test/predictions.jsonl", [predicted(0), predicted(1), translated(2)])
    run = {"recipe": {"seed_everything": 7}, "hardware": {"cpu": "theirs"}, "metrics": [{"name": "wer"}], "scores": []}
    Path("runs/x/test/run.json").write_text(json.dumps(run))
    main(["score", "runs/x", "--metrics", "[bleu, wer]", "--out", "runs/x/test", "--samples", "0"])
    found = json.loads(Path("runs/x/test/run.json").read_text())
    assert found["metrics"] == [{"name": "wer"}, {"name": "bleu"}]
    assert (found["recipe"], found["hardware"]) == (run["recipe"], run["hardware"])
    assert {score["figure"]: score["low"] for score in found["scores"]} == {
        "wer": None,
        "wer_macro": None,
        "bleu": None,
    }
    assert found["scored_again"]["command"].startswith("speechllm")
    assert "wer" in read_predictions("runs/x/test/predictions.jsonl")[0].statistics


def test_a_metric_takes_the_place_of_another_of_its_figure(workplace):
    write_predictions("runs/x/test/predictions.jsonl", [predicted(0, reference_transcript="One two three four")])
    run = {"metrics": ["cer", {"name": "wer", "normalizer": "none"}], "scores": []}
    Path("runs/x/test/run.json").write_text(json.dumps(run))
    main(["score", "runs/x", "--metrics", "[wer]", "--out", "runs/x/test", "--samples", "0"])
    found = json.loads(Path("runs/x/test/run.json").read_text())
    assert found["metrics"] == [{"name": "cer"}, {"name": "wer"}]
    assert [score["figure"] for score in found["scores"]] == ["cer", "cer_macro", "wer", "wer_macro"]


def test_intervals_over_speakers_are_wider_where_speakers_differ(workplace):
    rows = ["id\thypothesis\treference\tspeaker"]
    for speaker in range(6):
        good = "a b c d" if speaker % 2 else "x x x d"
        rows += [f"{speaker}-{number}\t{good}\ta b c d\ts{speaker}" for number in range(30)]
    Path("all.tsv").write_text("\n".join(rows) + "\n")
    widths = {}
    for unit in ("utterance", "speaker"):
        main(["score", "all.tsv", "--language", "en", "--metrics", "[wer]", "--resample_by", unit, "--out", unit])
        wer = figures(unit)["wer"]
        assert wer["value"] == 37.5
        widths[unit] = wer["high"] - wer["low"]
    assert widths["speaker"] > 3 * widths["utterance"]


def test_talks_are_aligned_with_their_references(workplace):
    untold = {"reference_transcript": "", "reference_translation": "", "recording": "t.wav"}
    said = ["der Hund bellt", "laut und schläft dann"]
    segments = [translated(row, hypothesis_translation=text, offset_s=row, **untold) for row, text in enumerate(said)]
    write_predictions("segments.jsonl", segments)
    lines = [
        {"talk": "t", "segment": str(number), "target": "de", "transcript": "", "translation": text}
        for number, text in enumerate(["der Hund bellt laut", "und schläft dann"])
    ]
    Path("t.references.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    main(["score", "segments.jsonl", "--talk_references", "t.references.jsonl", "--metrics", "[chrf]", "--out", "out"])
    assert figures()["chrf"]["value"] == pytest.approx(100)
    assert [p.hypothesis_translation for p in read_predictions("out/predictions.jsonl")] == [
        line["translation"] for line in lines
    ]
    assert [p.hypothesis_translation for p in read_predictions("out/segments.jsonl")] == said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.txt", "--language", "en"], "'none.txt' does not exist."),
        (["hyp.txt", "--references", "ref.txt"], "Say which language the texts are in"),
        (["hyp.txt", "--language", "en"], "row 1: no reference"),
        (["hyp.txt", "--references", "short.txt", "--language", "en"], "has 60, short.txt has 1. Nothing was scored"),
        (["hyp.txt", "--references", "ref.txt", "--language", "english"], "Unknown language 'english'"),
        (["hyp.txt", "--references", "ref.txt", "--language", "en", "--metrics", "[were]"], "Did you mean 'wer'"),
        (
            ["hyp.txt", "--references", "ref.txt", "--language", "en", "--metrics", "bleu"],
            "Nothing can be scored: no bleu: it scores translations, and there are transcripts only.",
        ),
        (["hyp.tx", "--references", "ref.txt", "--language", "en"], "'hyp.tx' does not exist. Did you mean 'hyp.txt'?"),
        (["runs/y"], "'runs/y' does not exist. Did you mean 'runs/x'?"),
        (
            ["hyp.txt", "--references", "ref.txt", "--sources", "ref.txt", "--language", "de"],
            "Say in which language they are, such as `--source_language en`",
        ),
        (["hyp.txt", "--references", "ref.txt", "--language", "en", "--out", "hyp.txt"], "but 'hyp.txt' is a file"),
        (
            ["hyp.txt", "--references", "ref.txt", "--language", "en", "--resample_by", "speech"],
            "Did you mean 'speaker'",
        ),
        (["hyp.txt", "--references", "ref.txt", "--language", "en", "--resample_by", "speaker"], "has no speaker"),
        (["hyp.txt", "--references", "ref.txt", "--language", "en", "--samples", "-1"], "`samples` must be at least 0"),
        (["empty.txt", "--references", "ref.txt", "--language", "en"], "empty.txt: the file is empty"),
        (["runs/x", "--language", "en"], "has its own references and languages; leave out --language"),
    ],
)
def test_wrong_input(texts, capsys, arguments, message):
    Path("short.txt").write_text("one\n")
    Path("empty.txt").write_text("")
    write_predictions("runs/x/test/predictions.jsonl", [predicted(0)])
    assert message in fails(arguments, capsys)


def test_metrics_by_name(texts, capsys):
    """A metric that was asked for and scores another kind of text is not passed over in silence."""
    main(["score", "hyp.txt", "--references", "ref.txt", "--language", "en", "--metrics", "cer,bleu", "--out", "out"])
    assert set(figures()) == {"cer", "cer_macro"}
    assert capsys.readouterr().err == "No bleu: it scores translations, and there are transcripts only.\n"


def test_a_language_without_word_spaces(workplace, recwarn):
    """Nothing is said of word error rates that nobody asked for."""
    Path("hyp.txt").write_text("今日はいい天気\n", encoding="utf-8")
    Path("ref.txt").write_text("今日は良い天気\n", encoding="utf-8")
    main(["score", "hyp.txt", "--references", "ref.txt", "--language", "ja", "--out", "out"])
    found = figures()
    assert found["cer"]["value"] == pytest.approx(100 / 7)
    assert "wer" not in found
    assert not [warning for warning in recwarn if "wer" in str(warning.message)]


def test_warnings_are_sentences(workplace):
    """Nobody who scores files wants to read the line of the program that warns."""
    Path("hyp.txt").write_text("今日はいい天気\n", encoding="utf-8")
    command = [*(sys.executable, "-m", "speechllm", "score", "hyp.txt", "--references", "hyp.txt"), "--language", "ja"]
    found = subprocess.run([*command, "--metrics", "wer,cer"], check=True, capture_output=True, text=True, timeout=60)
    assert found.stderr.startswith("Warning: files test, ja: no wer: 'ja' is written without spaces between words.")
    assert found.stderr.count("\n") == 1


def test_a_run_keeps_what_is_known_of_its_pace(workplace, capsys):
    write_predictions("runs/x/test/predictions.jsonl", [predicted(0)])
    Path("runs/x/test/run.json").write_text('{"metrics": ["wer"], "wall_s": 2.0, "processes": 2}')
    main(["score", "runs/x", "--metrics", "cer", "--out", "runs/x/test"])
    assert "1 utterances decoded in 2.0 s by 2 processes" in capsys.readouterr().out
    record = json.loads(Path("runs/x/test/run.json").read_text())
    assert (record["wall_s"], record["processes"]) == (2.0, 2)


def test_help_and_scores_need_no_torch(texts):
    """Whoever scores files waits for no framework."""
    code = (
        "import sys; from speechllm.cli import main\n"
        "main(['score', 'hyp.txt', '--references', 'ref.txt', '--language', 'de', '--source_language', 'en'])\n"
        "assert not {'torch', 'lightning', 'transformers', 'lhotse'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
