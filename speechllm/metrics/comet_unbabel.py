"""COMET by the package unbabel-comet, which runs in an environment of its own."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from speechllm.errors import UserError
from speechllm.metrics.comet_checkpoint import CometCheckpoint
from speechllm.metrics.comet_environment import (
    RUNNER,
    environment_python,
    environment_variables,
    installed_versions,
    tail,
)
from speechllm.metrics.comet_native import check_device


class UnbabelComet:
    """Scores segments with unbabel-comet, in a process that loads the checkpoint for each call.

    Args:
        checkpoint: The checkpoint, of any class of COMET that takes source, hypothesis and reference.
        batch_size: Segments that are scored at once.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        UserError: If there is no environment with unbabel-comet, or no such device.
    """

    def __init__(self, checkpoint: CometCheckpoint, batch_size: int, device: str) -> None:
        check_device(device)
        self.checkpoint, self.batch_size, self.device = checkpoint, batch_size, device
        self.python = environment_python()
        self._versions = installed_versions(self.python)

    def versions(self) -> Mapping[str, str]:
        """Return the versions of unbabel-comet, transformers and torch."""
        return self._versions

    def score(self, segments: Sequence[tuple[str, str, str]]) -> list[float]:
        """Return the score of each segment, which is a source text, a hypothesis and a reference.

        Raises:
            UserError: If the program fails.
        """
        device, _, number = self.device.partition(":")
        variables = environment_variables() | ({"CUDA_VISIBLE_DEVICES": number} if number else {})
        with tempfile.TemporaryDirectory(prefix="speechllm-comet-") as folder:
            request, answer, texts = (Path(folder) / name for name in ("request.json", "answer.json", "segments.jsonl"))
            rows = (dict(zip(("src", "mt", "ref"), segment, strict=True)) for segment in segments)
            texts.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
            options = {
                "segments": str(texts),
                "checkpoint": str(self.checkpoint.folder.resolve()),
                "encoder": str(self.checkpoint.encoder.resolve()),
                "batch_size": self.batch_size,
                "gpus": {"auto": None, "cpu": 0, "cuda": 1}[device],
            }
            request.write_text(json.dumps(options), encoding="utf-8")
            command = [self.python, "-I", str(RUNNER), "score", str(request), str(answer)]
            _run(command, variables)
            return self._read(answer, len(segments))

    def _read(self, answer: Path, expected: int) -> list[float]:
        try:
            scores = [float(score) for score in json.loads(answer.read_text(encoding="utf-8"))["scores"]]
        except (OSError, ValueError, TypeError, KeyError) as error:
            msg = f"unbabel-comet ended without an answer that can be read: {error!r}. It was run by '{self.python}'."
            raise UserError(msg) from error
        if len(scores) != expected:
            msg = f"unbabel-comet gave {len(scores)} scores for {expected} segments. It was run by '{self.python}'."
            raise UserError(msg)
        return scores


def _run(command: list[str], variables: dict[str, str]) -> None:
    """Run a command and show what it writes as it comes.

    Raises:
        UserError: If it fails; the message ends with the last lines that it wrote.
    """
    written = ""
    with subprocess.Popen(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
    ) as process:
        output = process.stdout.fileno() if process.stdout else -1
        while chunk := os.read(output, 65_536):
            text = chunk.decode("utf-8", "replace")
            written = (written + text)[-20_000:]
            print(text, end="", file=sys.stderr, flush=True)
    if process.returncode != 0:
        msg = f"unbabel-comet failed, run by '{command[0]}' (exit status {process.returncode}):\n{tail(written, 12)}"
        raise UserError(msg)
