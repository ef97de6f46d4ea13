"""``speechllm merge``: a trained model whose LLM has its LoRA merged into its weights."""

from pathlib import Path
from typing import Any

from speechllm.errors import UserError

TRAINING_STATE = ("optimizer_states", "lr_schedulers", "loops", "callbacks")
"""What a checkpoint holds for training to go on, which it cannot with other weights."""


def merge(run: str, out: Path) -> None:
    """Merge the LoRA of a trained model's LLM into its weights, and write a run folder that works without LoRA.

    OUT/llm is a Hugging Face folder with the merged LLM and its tokenizer, which other programs load as well; OUT/
    checkpoints holds all else that was trained; OUT/config.yaml is the recipe with that LLM in it, frozen. Four-bit
    weights are written in the format that the decoder's `dtype` names. An LLM that was trained in full is written as it
    is; LoRA of an encoder stays in the checkpoint.

    Args:
        run: Run folder (the best checkpoint by validation, else the last one) or checkpoint file.
        out: New folder.

    Raises:
        UserError: If there is no trained model, its LLM was frozen, or OUT holds something already.
    """
    if out.exists() and (out.is_file() or any(out.iterdir())):
        msg = f"'{out}' exists already. Name a new folder with `--out`."
        raise UserError(msg)
    from speechllm.models import SpeechLLM
    from speechllm.models.checkpoint import find_checkpoint, read_checkpoint
    from speechllm.models.publishing.exporting import merge_llm, merged_spec

    path = find_checkpoint(run)
    checkpoint = read_checkpoint(path)
    spec = checkpoint["hyper_parameters"]["decoder"]
    if spec.get("tuning", "frozen") == "frozen":
        msg = f"The LLM of '{run}' was frozen in training: there is nothing to merge."
        raise UserError(msg)
    folder = out.resolve() / "llm"
    layers = merge_llm(SpeechLLM.load(path, device="cpu").decoder, folder)
    merged = merged_spec(spec, str(folder))
    _write_checkpoint(checkpoint, merged, out)
    _write_recipe(path.parent.parent / "config.yaml", merged, out)
    done = f"Merged LoRA of {layers} layers" if layers else "Wrote the fully trained LLM"
    print(f"{done}. Language model: {folder}\nRun folder: {out}")


def _write_checkpoint(checkpoint: dict[str, Any], decoder: dict[str, Any], out: Path) -> None:
    """Write the checkpoint without the LLM, which stands beside it, and without what only training needs."""
    import torch

    kept = {key: value for key, value in checkpoint.items() if key not in (*TRAINING_STATE, "tokenizer")}
    state = {key: value for key, value in checkpoint["state_dict"].items() if not key.startswith("decoder.")}
    options = {**checkpoint["hyper_parameters"], "decoder": decoder, "init_from": None}
    (out / "checkpoints").mkdir()
    torch.save({**kept, "state_dict": state, "hyper_parameters": options}, out / "checkpoints" / "last.ckpt")


def _write_recipe(path: Path, decoder: dict[str, Any], out: Path) -> None:
    """Write the run's resolved recipe with the merged LLM; a checkpoint that lies alone has none."""
    import yaml

    if not path.is_file():
        return
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    recipe["model"]["init_args"] |= {"decoder": decoder, "init_from": None}
    recipe |= {"run_dir": str(out), "ckpt_path": None}
    (out / "config.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), encoding="utf-8")
