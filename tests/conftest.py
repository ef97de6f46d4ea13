"""Fixtures of the whole suite: no test opens a socket, and every test starts from the same seed."""

import os
import socket
from pathlib import Path

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def forbid_sockets(request, monkeypatch):
    """Let no test reach a network; tests marked ``loopback`` may talk to this machine."""
    connect = socket.socket.connect
    loopback = request.node.get_closest_marker("loopback") is not None

    def guarded(self, address):
        local = self.family == socket.AF_UNIX or (loopback and address[0] in ("127.0.0.1", "::1", "localhost"))
        if not local:
            raise RuntimeError(f"A test tried to connect to {address}.")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def seed():
    """Seed torch before every test; what Lightning notes of a recipe's seed goes to no later test or its processes."""
    torch.manual_seed(0)
    yield
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        os.environ.pop(name, None)


@pytest.fixture
def shared_data():
    """Return the folder of small real corpora, which is beside the repository in CI and absent elsewhere."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the small real corpora are not at {SHARED_DATA}")
    return SHARED_DATA
