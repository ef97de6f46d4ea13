"""``speechllm export``: a trained model as a folder that moves, and that others load."""

import re
import shutil
from pathlib import Path
from typing import Any

from speechllm.errors import UserError


def export(
    run: str,
    to: Path,
    merge: bool = False,
    push: str | None = None,
    private: bool = False,
    license: str | None = None,
    tolerance: float | None = None,
    device: str | None = None,
) -> None:
    """Write a trained model as safetensors with a model card, and compare its logits before and after.

    TO holds model.safetensors (what was trained; all weights of a model that began from random ones), speechllm.json
    (the parts and their options, and which checkpoints its frozen parts are), the tokenizer, the recipe config.yaml,
    and README.md: a model card with the figures of the run's test. `SpeechLLM.load` and `speechllm transcribe --model`
    take the folder. Nothing is left in TO if the logits differ.

    Args:
        run: Run folder (the best checkpoint by validation, else the last one) or checkpoint file.
        to: New folder.
        merge: Merge the LoRA of the LLM into its weights and write the LLM as a Hugging Face folder, TO/llm, which
            other programs load. Four-bit weights are written in the format that the decoder's `dtype` names.
        push: OWNER/NAME on the Hugging Face hub to push TO to.
        private: Make a new repository there a private one.
        license: Licence of the model card, as the hub names it (apache-2.0, cc-by-4.0, …); none is stated if not given.
        tolerance: Largest difference of logits that merging may make, in parts of the largest logit; by the weights'
            number format if not given.
        device: Where to compare: ``cpu``, ``cuda``, …; a GPU where there is one.

    Raises:
        UserError: If there is no trained model, TO holds something, the logits differ, or nothing can be pushed.
    """
    _check_target(to)
    if push is not None:
        _check_push(push)
    from speechllm.models.checkpoint import find_checkpoint, read_checkpoint
    from speechllm.models.publishing.exporting import is_export

    if is_export(run):
        msg = f"'{run}' is an exported model already. Name the run that it came from, or copy the folder."
        raise UserError(msg)
    path = find_checkpoint(run)
    checkpoint = read_checkpoint(path)
    if merge and checkpoint["hyper_parameters"]["decoder"].get("tuning", "frozen") == "frozen":
        msg = f"The LLM of '{run}' was frozen in training: there is nothing to merge. Leave out `--merge`."
        raise UserError(msg)
    partial = to.absolute().with_name(f".{to.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        description, check = _write(path, checkpoint, partial, merge, tolerance, device)
        # A checkpoint that lies alone has neither recipe nor test beside it.
        run_folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
        _write_card(run_folder, description, check, to, partial, merge, license, push)
        if to.exists():
            to.rmdir()
        partial.rename(to.absolute())
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    size_mb = sum(file.stat().st_size for file in to.rglob("*") if file.is_file()) / 1e6
    print(f"{check}\nModel: {to} ({size_mb:.1f} MB)")
    if push is not None:
        _push(to, push, private)


def _check_target(to: Path) -> None:
    if to.exists() and (to.is_file() or any(to.iterdir())):
        msg = f"'{to}' exists already. Name a new folder with `--to`."
        raise UserError(msg)


def _check_push(name: str) -> None:
    """Check name and token before anything is computed."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        msg = f"`--push` takes OWNER/NAME, but is '{name}'."
        raise UserError(msg)
    import huggingface_hub

    if huggingface_hub.get_token() is None:
        msg = "There is no token of the Hugging Face hub to push with. Run `hf auth login`, or set HF_TOKEN."
        raise UserError(msg)


def _write(
    path: Path, checkpoint: dict[str, Any], folder: Path, merge: bool, tolerance: float | None, device: str | None
) -> tuple[dict[str, Any], str]:
    """Write the model, load it from there, and compare the two; return its description and what was found."""
    from speechllm.models import SpeechLLM
    from speechllm.models.publishing.export_check import answers, compare
    from speechllm.models.publishing.exporting import LLM_FOLDER, merge_llm, write_export

    model = SpeechLLM.load(path, device)
    before = answers(model)
    dtype = model.decoder.llm.dtype if merge else None
    folder.mkdir(parents=True)
    if merge:
        merge_llm(model.decoder, folder / LLM_FOLDER)
    description = write_export(checkpoint, model.decoder, folder, merge)
    del model  # two large models would not fit side by side
    difference = compare(before, answers(SpeechLLM.load(folder, device)), dtype, tolerance)
    if not difference.passes:
        way = "`--tolerance` allows more, if you know why. " if merge else ""
        msg = f"The exported model does not answer as the run does. {difference} {way}Nothing was written."
        raise UserError(msg)
    return description, str(difference)


def _write_card(
    run_folder: Path,
    description: dict[str, Any],
    check: str,
    to: Path,
    folder: Path,
    merged: bool,
    license: str | None,
    repository: str | None,
) -> None:
    import yaml

    from speechllm.models.publishing.exporting import RECIPE_FILE
    from speechllm.models.publishing.model_card import Origin, model_card, read_test

    recipe = None
    if (run_folder / RECIPE_FILE).is_file():
        shutil.copyfile(run_folder / RECIPE_FILE, folder / RECIPE_FILE)
        recipe = yaml.safe_load((folder / RECIPE_FILE).read_text(encoding="utf-8"))
    record, found = read_test(run_folder, description["step"])
    name = repository.partition("/")[2] if repository else to.absolute().name
    origin = Origin(name, description, recipe, record, merged, check, license, repository)
    (folder / "README.md").write_text(model_card(origin), encoding="utf-8")
    print(found)


def _push(folder: Path, name: str, private: bool) -> None:
    import huggingface_hub

    api = huggingface_hub.HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Export by speechllm")
    except Exception as error:  # of the hub or of the network
        msg = f"'{folder}' could not be pushed to '{name}': {str(error).splitlines()[0]} The folder itself is whole."
        raise UserError(msg) from error
    print(f"Pushed to https://huggingface.co/{name}. Load it as hf://{name}.")
