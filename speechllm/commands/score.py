"""Score hypotheses from files: no model, no GPU, nothing else of the package."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechllm.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from speechllm.evaluation.systems import System

TRANSCRIPT_METRICS = ("wer", {"name": "wer", "normalizer": "whisper"}, "cer", "health")
WORDLESS_METRICS = ("cer", "health")
"""Metrics of transcripts in languages without spaces between words."""

TRANSLATION_METRICS = ("bleu", "chrf", "health")


def score(
    hypotheses: str,
    references: str | None = None,
    sources: str | None = None,
    language: str | None = None,
    source_language: str | None = None,
    name: str = "files",
    metrics: list[str | dict[str, Any]] | str | None = None,
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
        metrics: Names of metrics, or specs with options: wer,cer or '[wer, {name: wer, normalizer: whisper}]'; those
            that fit transcripts or translations where not given. `speechllm zoo metrics` lists them. A run is scored by
            those that it was scored by before, too, unless one of the same figure is given.
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
    if out is not None and Path(out).exists() and not Path(out).is_dir():
        msg = f"`out` names a folder for results, but '{out}' is a file."
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

    told = {} if talk_references else system.run
    pace = {name: told[name] for name in ("processes", "wall_s", "taken_over", "decoded") if told.get(name)}
    results = assess(system.predictions, specs, Run(**pace), Resampling(resample_by, samples))
    absent = _without_text(specs, system)
    if not results.scored_sets:
        msg = f"Nothing can be scored: {'; '.join(absent)}. `--source_language` makes translations of the texts."
        raise UserError(msg)
    for sentence in absent if metrics is not None else []:
        print(f"{sentence[0].upper()}{sentence[1:]}.", file=sys.stderr)
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
    if not path.exists():
        near = [str(other) for other in path.parent.iterdir()] if path.parent.is_dir() else []
        msg = f"'{hypotheses}' does not exist.{did_you_mean(hypotheses, near)}"
        raise UserError(msg)
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
    if sources is not None and source_language is None:
        msg = (
            "`--sources` are what translations were made from. Say in which language they are, such as "
            "`--source_language en`, or leave them out to score transcripts."
        )
        raise UserError(msg)
    files = [None if file is None else Path(file) for file in (references, sources)]
    return System(path.stem, read_pairs(path, files[0], files[1], Origin(language, source_language, name)))


def _specs(metrics: list[str | dict[str, Any]] | str | None, system: "System") -> list[dict[str, Any]]:
    """Return the specs of the metrics: those that a run was scored by and those that are given, or the default ones.

    One that is given takes the place of another of the same figure, such as COMET by another back end.
    """
    from speechllm.evaluation.metric_specs import metric_specs
    from speechllm.metrics.text import has_word_spaces

    new, old = metric_specs(metrics or []), metric_specs(system.run.get("metrics", []))
    if not new and not old:
        tasks = {task for p in system.predictions for task in p.task.split("+")}
        if "asr" in tasks:
            words = any(has_word_spaces(p.source_language) for p in system.predictions)
            new += metric_specs(TRANSCRIPT_METRICS if words else WORDLESS_METRICS)
        new += metric_specs(TRANSLATION_METRICS) if "st" in tasks else []
    specs: list[dict[str, Any]] = []
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


def _without_text(specs: list[dict[str, Any]], system: "System") -> list[str]:
    """Return a clause for each metric of a text that the system did not write."""
    from speechllm.registry import METRICS

    tasks = {task for p in system.predictions for task in p.task.split("+")}
    texts = {"answer", *({"transcript"} if "asr" in tasks else ()), *({"translation"} if "st" in tasks else ())}
    found = dict.fromkeys(spec["name"] for spec in specs if not texts & set(METRICS.get(spec["name"]).scores))
    there = " and ".join(f"{text}s" for text in sorted(texts - {"answer"}))
    return [f"no {name}: it scores {METRICS.get(name).scores[0]}s, and there are {there} only" for name in found]


def _kept(run: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """Return a record that says of a run how its predictions came about, and of this scoring what it found."""
    found = ("metrics", "test_sets", "scores", "breakdown")
    if not run:
        return record
    scoring = {name: record[name] for name in ("speechllm", "time", "command", "packages")}
    return run | {name: record[name] for name in found} | {"scored_again": scoring}
