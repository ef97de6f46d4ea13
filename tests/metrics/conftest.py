"""The reference implementation of BLEU and chrF, run as its users run it."""

import json
import subprocess
import sys

import pytest


@pytest.fixture
def sacrebleu_cli(tmp_path):
    """Return a function that scores texts with ``python -m sacrebleu`` and returns its JSON answer."""

    def run(hypotheses, references, *options):
        for name, lines in (("hypotheses.txt", hypotheses), ("references.txt", references)):
            (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "sacrebleu",
            "references.txt",
            "-i",
            "hypotheses.txt",
            "-f",
            "json",
            "-w",
            "10",
        ]
        answer = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=True)
        return json.loads(answer.stdout)

    return run
