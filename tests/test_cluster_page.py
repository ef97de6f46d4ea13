"""The scripts for clusters: they parse, ask for as many processes as they start, and go on after a stop."""

import re
import subprocess

import pytest

from tests.test_docs import DOCS, blocks_of

SCRIPTS = {block.caption: block.text for block in blocks_of(DOCS / "how-to" / "cluster.md") if block.caption}


def test_there_is_one_for_slurm_and_one_for_torchrun():
    assert list(SCRIPTS) == ["jobs/train.sbatch", "jobs/train.sh"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_parse_and_resume(name, tmp_path):
    path = tmp_path / "script.sh"
    path.write_text(SCRIPTS[name], encoding="utf-8")
    checked = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert SCRIPTS[name].startswith("#!/bin/bash\n")
    assert "--resume auto" in SCRIPTS[name]


def test_slurm_starts_a_process_for_each_gpu():
    script = SCRIPTS["jobs/train.sbatch"]
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", script, flags=re.MULTILINE))
    assert asked["ntasks-per-node"] == asked["gpus-per-node"]
    assert asked["signal"].startswith("SIGUSR1@")
    assert '--trainer.devices "$SLURM_NTASKS_PER_NODE"' in script
