"""Score hypotheses from files: no model, no GPU, nothing else of the package."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechllm.errors import UserError

if TYPE_CHECKING:
    from speechllm.evaluation.systems import System

TRANSCRIPT_METRICS = ("wer", {"name": "wer", "normalizer": "whisper"}, "cer", "health")
TRANSLATION_METRICS = ("bleu", "chrf", "health")


def score(
    hypotheses: str,
    references: str | None = None,
    sources: str | None = None,
    language: str | None = None,
    source_language: str | None = None,
    name: str = "files",
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
        name: Name of the test set that the files hold, in tables and results.
        metrics: Names of metrics, or specs with options; those that fit transcripts or translations where not given.
            A run is scored by those that it was scored by before, too, unless one of the same figure is given.
        talk_references: References of whole talks, as `speechllm prepare iwslt` writes them to
            `<split>.references.jsonl`; the segments of a run are aligned with them before they are scored. What was
            decoded is kept in `segments.jsonl`.
        resample_by: What intervals resample: utterance, recording (a talk) or speaker.
        samples: Number of bootstrap samples behind the intervals; 0 for none.
        out: Folder for predictions, figures and report, which `speechllm compare` reads.

    Raises:
        UserError: If files are broken or do not belong together, or a metric has nothing to score.
    """
    if samples < 0:
        msg = f"`samples` must be at least 0, but is {samples}."
        raise UserError(msg)
    system = _read(hypotheses, references, sources, language, source_language, name)
    decoded = system.predictions
    if talk_references is not None:
        from speechllm.evaluation.long_form import realign
        from speechllm.talk_references import read_talk_references

        system.predictions = realign(decoded, read_talk_references(Path(talk_references)))
    specs = _specs(metrics, system)
    from speechllm.evaluation.run_record import Run
    from speechllm.evaluation.test_folder import SEGMENTS_FILE, Resampling, assess, record_of, write_results
    from speechllm.predictions import write_predictions

    results = assess(system.predictions, specs, Run(), Resampling(resample_by, samples))
    if not results.scored_sets:
        names = ", ".join(spec["name"] for spec in specs)
        kind = "translations" if any("st" in p.task for p in system.predictions) else "transcripts"
        msg = (
            f"None of the metrics {names} scores {kind}. BLEU, chrF and COMET score translations, which "
            "`--source_language` makes of the texts; error rates score transcripts."
        )
        raise UserError(msg)
    print(results.report)
    if out is not None:
        if talk_references is not None:  # the folder may be that of the run, whose predictions give way
            write_predictions(Path(out) / SEGMENTS_FILE, decoded)
        record = record_of(results, specs, Run(command=shlex.join(["speechllm", *sys.argv[1:]])))
        write_results(Path(out), results, _kept(system.run, record))
        print(f"\nResults: {out}")


def _read(
    hypotheses: str,
    references: str | None,
    sources: str | None,
    language: str | None,
    source_language: str | None,
    name: str,
) -> "System":
    """Return what is scored: a run, or files."""
    from speechllm.evaluation.paired_files import Origin, read_pairs
    from speechllm.evaluation.systems import System, holds_predictions, read_system

    path = Path(hypotheses)
    given = {"references": references, "sources": sources, "language": language, "source_language": source_language}
    if path.is_dir() or holds_predictions(path):
        unneeded = [f"--{option}" for option, value in given.items() if value is not None]
        if unneeded:
            msg = f"'{hypotheses}' has its own references and languages; leave out {' and '.join(unneeded)}."
            raise UserError(msg)
        return read_system(hypotheses)
    if language is None:
        msg = "Say which language the texts are in: `--language en`, and `--source_language` for translations."
        raise UserError(msg)
    files = [None if file is None else Path(file) for file in (references, sources)]
    return System(path.stem, read_pairs(path, files[0], files[1], Origin(language, source_language, name)))


def _specs(metrics: list[str | dict[str, Any]] | None, system: "System") -> list[dict[str, Any]]:
    """Return the specs of the metrics: those that a run was scored by and those that are given, or the default ones.

    One that is given takes the place of another of the same figure, such as COMET by another back end.
    """
    import speechllm.metrics  # noqa: F401  # registers the metrics
    from speechllm.registry import METRICS

    given, before = list(metrics or []), list(system.run.get("metrics", []))
    if not given and not before:
        tasks = {task for p in system.predictions for task in p.task.split("+")}
        given += TRANSCRIPT_METRICS if "asr" in tasks else ()
        given += TRANSLATION_METRICS if "st" in tasks else ()
    specs: list[dict[str, Any]] = []
    new = [{"name": metric} if isinstance(metric, str) else dict(metric) for metric in given]
    old = [{"name": metric} if isinstance(metric, str) else dict(metric) for metric in before]
    for spec in [*old, *new]:
        METRICS.check(spec)
    language = system.predictions[0].target_language
    replaced = {_figure(spec, language) for spec in new if spec not in old}
    for spec in [*(spec for spec in old if not replaced or _figure(spec, language) not in replaced), *new]:
        specs += [spec] if spec not in specs else []
    return specs


def _figure(spec: dict[str, Any], language: str) -> str:
    """Return the main figure of a metric; of one that cannot be built here, something that no figure is called."""
    from speechllm.registry import METRICS

    try:
        return str(METRICS.build(spec, language=language).figures[0].name)
    except UserError:
        return repr(spec)


def _kept(run: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """Return a record that says of a run how its predictions came about, and of this scoring what it found."""
    found = ("metrics", "test_sets", "scores", "breakdown")
    if not run:
        return record
    scoring = {name: record[name] for name in ("speechllm", "time", "command", "packages")}
    return run | {name: record[name] for name in found} | {"scored_again": scoring}
