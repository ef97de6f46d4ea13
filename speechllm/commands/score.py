"""Score hypotheses from files: no model, no GPU, nothing else of the package."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechllm.errors import UserError

if TYPE_CHECKING:
    from speechllm.evaluation.scoring import ScoredSet
    from speechllm.predictions import Prediction

TRANSCRIPT_METRICS = ("wer", {"name": "wer", "normalizer": "whisper"}, "cer", "health")
TRANSLATION_METRICS = ("bleu", "chrf", "health")


def score(
    hypotheses: str,
    references: str | None = None,
    sources: str | None = None,
    language: str | None = None,
    source_language: str | None = None,
    metrics: list[str | dict[str, Any]] | None = None,
    talk_references: str | None = None,
    resample_by: str = "utterance",
    samples: int = 1000,
    out: str | None = None,
) -> None:
    """Score hypotheses from files and print every figure with its 95 % interval and its signature.

    Files hold a text a line. Or they are tables (.csv, .tsv, .jsonl) with the columns id, hypothesis and reference, and
    source, speaker, recording and duration_s where they are known.

      speechllm score hyp.txt --references ref.txt --language en
      speechllm score hyp.de --references ref.de --sources ref.en --language de --source_language en
      speechllm score results.tsv --language en --metrics '[wer, {name: wer, normalizer: whisper}]'
      speechllm score results.tsv --language en --resample_by speaker --out scored/mine

    A run that `speechllm test` wrote is scored again, by other metrics for instance:

      speechllm score runs/x --metrics '[comet]' --out runs/x/test

    Args:
        hypotheses: File of hypotheses, a `predictions.jsonl`, or the folder of a run.
        references: File of references; not needed where a table or a run has them.
        sources: File of what was said, for translation metrics that look at it.
        language: Language of hypotheses and references, such as en.
        source_language: Language that is spoken, where the texts are translations of it.
        metrics: Names of metrics, or specs with options; those that fit transcripts or translations where not given.
        talk_references: References of whole talks, as `speechllm prepare iwslt` writes them to
            `<split>.references.jsonl`; the segments of a run are aligned with them before they are scored.
        resample_by: What intervals resample: utterance, recording (a talk) or speaker.
        samples: Number of bootstrap samples behind the intervals; 0 for none.
        out: Folder for predictions, figures and report, which `speechllm compare` reads.

    Raises:
        UserError: If files are broken or do not belong together, or a metric has nothing to score.
    """
    if samples < 0:
        msg = f"`samples` must be at least 0, but is {samples}."
        raise UserError(msg)
    predictions = _read(hypotheses, references, sources, language, source_language)
    if talk_references is not None:
        from speechllm.evaluation.long_form import realign
        from speechllm.talk_references import read_talk_references

        predictions = realign(predictions, read_talk_references(Path(talk_references)))
    specs = _specs(metrics, predictions)
    from speechllm.evaluation import scoring
    from speechllm.evaluation.significance import resampling_units

    resampling_units(predictions, [], resample_by)  # a wrong name is found before the work
    scored = scoring.score(predictions, specs)
    if not scored:
        names = ", ".join(spec["name"] for spec in specs)
        kind = "translations" if any("st" in p.task for p in predictions) else "transcripts"
        msg = (
            f"None of the metrics {names} scores {kind}. BLEU, chrF and COMET score translations, which "
            "`--source_language` makes of the texts; error rates score transcripts."
        )
        raise UserError(msg)
    text = _report(predictions, scored, resample_by, samples)
    print(text)
    if out is not None:
        _write(Path(out), predictions, text)


def _read(
    hypotheses: str, references: str | None, sources: str | None, language: str | None, source_language: str | None
) -> "list[Prediction]":
    """Return the predictions of a run, or of files."""
    from speechllm.evaluation.paired_files import Languages, read_pairs
    from speechllm.evaluation.systems import holds_predictions, read_system

    path = Path(hypotheses)
    given = {"references": references, "sources": sources, "language": language, "source_language": source_language}
    if path.is_dir() or holds_predictions(path):
        unneeded = [f"--{name}" for name, value in given.items() if value is not None]
        if unneeded:
            msg = f"'{hypotheses}' has its own references and languages; leave out {' and '.join(unneeded)}."
            raise UserError(msg)
        return read_system(hypotheses).predictions
    if language is None:
        msg = "Say which language the texts are in: `--language en`, and `--source_language` for translations."
        raise UserError(msg)
    files = [None if name is None else Path(name) for name in (references, sources)]
    return read_pairs(path, files[0], files[1], Languages(language, source_language))


def _specs(metrics: list[str | dict[str, Any]] | None, predictions: "list[Prediction]") -> list[dict[str, Any]]:
    import speechllm.metrics  # noqa: F401  # registers the metrics
    from speechllm.registry import METRICS

    chosen: list[Any] = list(metrics or [])
    if metrics is None:
        tasks = {task for p in predictions for task in p.task.split("+")}
        chosen += TRANSCRIPT_METRICS if "asr" in tasks else ()
        chosen += [metric for metric in TRANSLATION_METRICS if metric not in chosen] if "st" in tasks else []
    specs = [{"name": metric} if isinstance(metric, str) else dict(metric) for metric in chosen]
    for spec in specs:
        METRICS.check(spec)
    return specs


def _report(predictions: "list[Prediction]", scored: "list[ScoredSet]", resample_by: str, samples: int) -> str:
    from speechllm.evaluation.significance import confidence_intervals, resampling_units
    from speechllm.evaluation.test_sets import short_names
    from speechllm.report import format_table

    names = short_names(item.test_set for item in scored)
    rows = []
    for item in scored:
        scores = item.scores()
        intervals = [""] * len(scores)
        if samples:
            units = (
                None if resample_by == "utterance" else resampling_units(predictions, item.places.tolist(), resample_by)
            )
            found = confidence_intervals(item, units, samples)
            intervals = [f"{low:.2f} to {high:.2f}" if low == low else "" for low, high in found]
        for entry, interval in zip(scores, intervals, strict=True):
            if entry.value == entry.value:
                rows.append((entry.figure, names[item.test_set], f"{entry.value:.2f}", interval, entry.signature))
    columns = ["figure", "test set", "value", "95 % interval", "signature"]
    return format_table(rows, columns)


def _write(folder: Path, predictions: "list[Prediction]", text: str) -> None:
    from speechllm.predictions import write_predictions

    write_predictions(folder / "predictions.jsonl", predictions)
    (folder / "report.txt").write_text(text + "\n", encoding="utf-8")
    print(f"\nPredictions and report: {folder}")
