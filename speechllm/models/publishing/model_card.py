"""The model card of an exported model: what it is, how good it is, and how to use it (``README.md``)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechllm.evaluation.run_record import RUN_FILE, package_versions
from speechllm.languages import language_name

PIPELINES = {"asr": "automatic-speech-recognition", "st": "translation", "asr+st": "automatic-speech-recognition"}
"""Task of the hub for each of ours."""

QUALITY = ("wer", "cer", "mer", "bleu", "chrf", "comet")
"""Figures that the hub knows by these names; ``wer_whisper`` is a ``wer``."""

SHOWN_OPTIONS = 60
"""Characters of a recipe's data option that a card shows."""


@dataclass(frozen=True)
class Origin:
    """What is known of an exported model.

    Attributes:
        name: Name of the model.
        description: Contents of its description file.
        recipe: The recipe; None where the run folder has none.
        record: Contents of the test's ``run.json``; None where the model was not tested.
        merged: Whether the LLM stands in the folder, with its LoRA merged.
        check: What the comparison of logits said.
        license: Licence as the hub names it; None where the user has not said.
        repository: Name on the hub; None where it was not pushed.
    """

    name: str
    description: Mapping[str, Any]
    recipe: Mapping[str, Any] | None
    record: Mapping[str, Any] | None
    merged: bool
    check: str
    license: str | None = None
    repository: str | None = None


def read_test(run_folder: Path, step: int | None) -> tuple[dict[str, Any] | None, str]:
    """Return the record of a run's test, where it is one of this checkpoint, and a sentence about it.

    Args:
        run_folder: The run folder.
        step: Step of the checkpoint that is exported.
    """
    path = run_folder / "test" / RUN_FILE
    if not path.is_file():
        return None, f"There are no test figures at '{path}': the card says that the model was not tested."
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        tested = record["step"]
        scores = list(record["scores"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, f"'{path}' cannot be read ({error}): the card says that the model was not tested."
    if step is not None and tested is not None and tested != step:
        return None, (
            f"The test in '{path}' is of step {tested}, and the exported weights are of step {step}: the card says "
            f"that the model was not tested. Test this checkpoint first, or export the other one."
        )
    return record, f"Figures of {len(scores)} scores from '{path}'."


def model_card(origin: Origin) -> str:
    """Return the text of the card, its front matter first."""
    import yaml

    front = yaml.safe_dump(_front_matter(origin), sort_keys=False, allow_unicode=True, width=120)
    sections = [
        f"# {origin.name}",
        _summary(origin),
        _use(origin),
        _numbers(origin),
        _training(origin),
        _parts(origin),
        _limits(origin),
        _versions(origin),
    ]
    return f"---\n{front}---\n\n" + "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(origin: Origin) -> dict[str, Any]:
    tasks = _tasks(origin)
    bases = [name for name in origin.description["base_models"] if not _is_path(name)]
    languages = dict.fromkeys(code.split("-")[0] for _, source, target in tasks for code in (source, target))
    front: dict[str, Any] = {"library_name": "speechllm"}
    if origin.license is not None:
        front["license"] = origin.license
    if bases:
        front["base_model"] = bases
    if languages:
        front["language"] = list(languages)
    front["pipeline_tag"] = PIPELINES[tasks[0][0]] if tasks else PIPELINES["asr"]
    kinds = {"asr": "speech-recognition", "st": "speech-translation"}
    parts = [f"{origin.description['options'][part]['name']}" for part in ("encoder", "adapter")]
    found = {kinds[kind] for task, _, _ in tasks for kind in task.split("+")}
    front["tags"] = ["speechllm", "speech", *sorted(found), *parts]
    results = _model_index(origin)
    if results:
        front["metrics"] = list(dict.fromkeys(_hub_metric(score["figure"]) for score in _known(origin)))
        front["model-index"] = [{"name": origin.name, "results": results}]
    return front


def _model_index(origin: Origin) -> list[dict[str, Any]]:
    """Return the scores as the hub's model index has them: a result a test set and text."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for score in _known(origin):
        key = tuple(score[name] for name in ("corpus", "split", "task", "source_language", "target_language", "text"))
        groups.setdefault(key, []).append(score)
    return [
        {
            "task": {"type": PIPELINES["st" if text == "translation" else "asr"], "name": task},
            "dataset": {
                "name": f"{corpus} {source}" + (f"-{target}" if text == "translation" else ""),
                "type": corpus or "unnamed",
                "config": source if text == "transcript" else f"{source}-{target}",
                "split": split,
            },
            "metrics": [
                {
                    "type": _hub_metric(score["figure"]),
                    "name": score["figure"],
                    "value": round(score["value"], 4),
                    "args": {"signature": score["signature"], "unit": score["unit"]},
                }
                for score in scores
            ],
        }
        for (corpus, split, task, source, target, text), scores in groups.items()
    ]


def _scores(origin: Origin) -> list[dict[str, Any]]:
    """Return the scores of test sets that have a direction and a value: no lengths, no counts."""
    return [
        score
        for score in (origin.record or {}).get("scores", [])
        if score["kind"] == "test set" and score["value"] is not None and score["higher_is_better"] is not None
    ]


def _known(origin: Origin) -> list[dict[str, Any]]:
    return [score for score in _scores(origin) if _hub_metric(score["figure"]) in QUALITY]


def _tasks(origin: Origin) -> list[tuple[str, str, str]]:
    return [(task, source, target) for task, source, target in origin.description["trained_on"]]


def _summary(origin: Origin) -> str:
    options = origin.description["options"]
    names = " → ".join(f"`{options[part]['name']}`" for part in ("encoder", "adapter", "decoder"))
    done = [
        f"transcribes {language_name(source)}"
        if task == "asr"
        else f"translates {language_name(source)} speech into {language_name(target)}"
        + (", after its transcript" if task == "asr+st" else "")
        for task, source, target in _tasks(origin)
    ]
    what = f" It {'; '.join(done)}." if done else ""
    return f"A speech encoder, an adapter and a language model in a row: {names}.{what}"


def _use(origin: Origin) -> str:
    tasks = _tasks(origin)
    place = f"hf://{origin.repository}" if origin.repository else origin.name
    translated = next((target for task, _, target in tasks if task != "asr"), None)
    call = f'model.translate("talk.wav", target="{translated}")' if translated else 'model.transcribe("talk.wav")'
    several = len({source for _, source, _ in tasks}) > 1
    if several:
        source = next(source for task, source, target in tasks if (task == "asr") == (translated is None))
        call = call[:-1] + f', source="{source}")'
    lines = [
        "## Use",
        "",
        "```python",
        "from speechllm.models import SpeechLLM",
        "",
        f'model = SpeechLLM.load("{place}")  # or the path of these files; `device="cpu"` or "cuda"',
        f"print({call})",
        "```",
        "",
        "```bash",
        f"speechllm transcribe talk.wav --model {place}" + (f" --translate_to {translated}" if translated else ""),
        "```",
    ]
    if origin.merged:
        lines += ["", "`llm` is an ordinary Hugging Face folder of the language model, which other programs load too."]
    return "\n".join(lines)


def _numbers(origin: Origin) -> str:
    scores = _scores(origin)
    if not scores:
        return "## Results\n\nThis model was not tested, or its figures were not at hand when it was exported."
    assert origin.record is not None
    lines = ["## Results", "", "| test set | task | figure | value | 95 % interval | utterances | signature |"]
    lines.append("|---|---|---|---|---|---|---|")
    further: dict[str, list[str]] = {}
    for score in scores:
        spoken = score["text"] == "transcript" or score["task"] == "asr"
        pair = score["source_language"] + ("" if spoken else f"-{score['target_language']}")
        test_set, low, high = f"{score['corpus']} {score['split']} {pair}", score["low"], score["high"]
        value = f"{score['value']:.2f} {score['unit']}".rstrip()
        if _hub_metric(score["figure"]) not in QUALITY:
            further.setdefault(f"{test_set}, {score['task']}", []).append(f"{score['figure']} {value}")
            continue
        interval = "" if low is None or high is None else f"{low:.2f} to {high:.2f}"
        signature = f"`{score['signature']}`".replace("|", "\\|") if score["signature"] else ""
        lines.append(
            f"| {test_set} | {score['task']} | {score['figure']} | {value} | {interval} | {score['utterances']} | "
            f"{signature} |"
        )
    lines += ["", *(f"- {test_set}: {', '.join(figures)}" for test_set, figures in further.items())]
    sets = [
        f"{entry['utterances']} utterances, {entry['audio_s'] / 3600:.2f} h, fingerprint `{entry['fingerprint'][:16]}`"
        for entry in origin.record["test_sets"]
    ]
    lines += ["", f"Test sets: {'; '.join(sets)}.", f"Decoding: {_inline(origin.record['decoding'])}."]
    return "\n".join(lines)


def _training(origin: Origin) -> str:
    recipe = origin.recipe
    if recipe is None:
        return "## Training\n\nThe run folder had no recipe; the options of the parts stand in `speechllm.json`."
    lines = ["## Training", "", f"Recipe: `config.yaml`; {origin.description['step'] or 'unknown'} optimiser steps."]
    lines += ["", "Data:", "", *_data_lines(recipe.get("data") or {})]
    trainer = recipe.get("trainer") or {}
    shown = (
        "max_steps",
        "precision",
        "accumulate_grad_batches",
        "gradient_clip_val",
        "strategy",
        "devices",
        "num_nodes",
    )
    options = {key: trainer[key] for key in shown if trainer.get(key) is not None}
    lines += ["", f"Trainer: {_inline(options)}. Seed: {recipe.get('seed_everything')}."]
    return "\n".join(lines)


def _data_lines(data: Mapping[str, Any]) -> list[str]:
    """Return a line a corpus, with the options that say what of it was used, and no paths."""
    options = data.get("init_args") or {}
    if options.get("parts"):
        return [line for part in options["parts"] for line in _data_lines(part)]
    shown = {
        key: value
        for key, value in options.items()
        if value not in (None, "", [], {})
        and key != "root"
        and "/" not in str(value)
        and len(str(value)) < SHOWN_OPTIONS
    }
    return [f"- `{str(data.get('class_path', 'unknown')).rpartition('.')[2]}`: {_inline(shown)}"]


def _parts(origin: Origin) -> str:
    frozen = origin.description["frozen"]
    lines = ["## What is in these files", "", "`model.safetensors` holds what was trained"]
    if not frozen:
        return "\n".join(
            [*lines[:2], "`model.safetensors` holds all weights; `tokenizer` is the model's own tokenizer."]
        )
    lines[-1] += ", and not the weights that these names bring back:"
    lines += ["", "| part | checkpoint | revision | tuning |", "|---|---|---|---|"]
    for entry in frozen:
        revision = entry["revision"] or "not pinned"
        lines.append(f"| {entry['part']} | `{entry['name']}` | {revision} | {entry['tuning']} |")
    prompt = origin.description["prompt"]
    lines += ["", f"Prompt: {_inline({key: value for key, value in prompt.items() if value})}."]
    return "\n".join(lines)


def _limits(origin: Origin) -> str:
    lines = [
        "## Limits",
        "",
        "- It was trained for the tasks and languages above, and answers others at will.",
        "- It may leave out, repeat or invent text, above all in noise, silence and music.",
    ]
    if any(_is_path(entry["name"]) for entry in origin.description["frozen"]) and not origin.merged:
        lines.append(
            "- A part was loaded from a folder of the machine that trained it; without that folder it cannot load."
        )
    if any(entry["revision"] is None and not _is_path(entry["name"]) for entry in origin.description["frozen"]):
        lines.append("- A checkpoint above is not pinned to a revision; a later one may not fit.")
    if origin.license is None:
        lines.append("- No licence was stated. Those of the checkpoints above hold for what is derived from them.")
    return "\n".join(lines)


def _versions(origin: Origin) -> str:
    versions = (origin.record or {}).get("packages") or package_versions()
    names = ("python", "torch", "transformers", "lightning", "peft", "bitsandbytes")
    shown = ", ".join(f"{name} {versions[name]}" for name in names if name in versions)
    return f"## Versions\n\nspeechllm {origin.description['speechllm']}; {shown}.\n\n{origin.check}"


def _hub_metric(figure: str) -> str:
    """Return the hub's name of a figure: ``wer`` for ``wer_whisper``."""
    return next((name for name in QUALITY if figure == name or figure.startswith(f"{name}_")), figure)


def _is_path(name: str) -> bool:
    return name.startswith(("/", ".", "~")) or name.count("/") > 1 or name == "llm" or Path(name).exists()


def _inline(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} `{value}`" for key, value in options.items()) or "defaults"
