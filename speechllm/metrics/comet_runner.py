"""Runs unbabel-comet in an environment of its own: ``python comet_runner.py versions | load | score REQUEST ANSWER``.

This file is run by the Python of that environment, which has no speechllm; here it is only imported.

``score`` reads a JSON object with the arguments of :func:`score`, and writes one with ``scores``. ``versions`` prints
those of the packages as JSON; ``load`` imports the package before.
"""

import json
import logging
import sys
import tempfile
import warnings
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("unbabel-comet", "transformers", "torch")


def main(arguments: list[str]) -> None:
    """Do what the arguments say."""
    if arguments[0] == "score":
        request = json.loads(Path(arguments[1]).read_text(encoding="utf-8"))
        Path(arguments[2]).write_text(json.dumps({"scores": score(**request)}), encoding="utf-8")
        return
    if arguments[0] == "load":
        import_module("comet")
    print(json.dumps({package: version(package) for package in PACKAGES}))


def score(segments: str, checkpoint: str, encoder: str, batch_size: int, gpus: int | None) -> list[float]:
    """Return the scores that unbabel-comet gives.

    Args:
        segments: File of the segments, JSON lines with ``src``, ``mt`` and ``ref``.
        checkpoint: Folder of the checkpoint.
        encoder: Folder of the pretrained encoder's configuration and tokenizer.
        batch_size: Segments that are scored at once.
        gpus: Number of GPUs; None takes one if there is one.
    """
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch = import_module("torch")
    rows = [json.loads(line) for line in Path(segments).read_text(encoding="utf-8").split("\n") if line]
    with tempfile.TemporaryDirectory() as folder:
        model = load(Path(checkpoint), encoder, Path(folder))
    gpus = min(1, torch.cuda.device_count()) if gpus is None else gpus
    scores: list[float] = model.predict(rows, batch_size=batch_size, gpus=gpus, progress_bar=len(rows) > 255).scores
    return scores


def load(checkpoint: Path, encoder: str, folder: Path) -> Any:
    """Return the model of a checkpoint, whose every parameter is in it.

    unbabel-comet looks for the encoder's files under the name that was used in training. It is given a copy of the
    settings with the path of the files that are here, in a folder with a link to the weights.
    """
    torch, yaml, comet = import_module("torch"), import_module("yaml"), import_module("comet")
    content = torch.load(checkpoint / "checkpoints" / "model.ckpt", map_location="cpu", weights_only=True, mmap=True)
    written = yaml.load((checkpoint / "hparams.yaml").read_text(encoding="utf-8"), Loader=yaml.FullLoader)
    settings = {**(content.get("hyper_parameters") or written), "pretrained_model": encoder}
    settings["class_identifier"] = written["class_identifier"]
    if written.get("layer_transformation") == "sparsemax_patch":
        settings["layer_transformation"] = "sparsemax_patch"
    (folder / "hparams.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    (folder / "checkpoints").symlink_to((checkpoint / "checkpoints").resolve())
    weights = folder / "checkpoints" / "model.ckpt"
    model = comet.load_from_checkpoint(str(weights), reload_hparams=True, local_files_only=True)
    missing = sorted({name for name, _ in model.named_parameters()} - set(content["state_dict"]))
    if missing:
        msg = f"The COMET checkpoint {checkpoint} lacks {missing[0]} and {len(missing) - 1} more parameters."
        raise SystemExit(msg)
    return model


if __name__ == "__main__":
    main(sys.argv[1:])
