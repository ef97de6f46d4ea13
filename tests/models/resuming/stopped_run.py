"""Training runs that are killed and go on: run as a program, with the runs as JSON.

Every life of a run is a child of one process that has imported everything, since importing takes ten times as long.
"""

import json
import logging
import os
import random
import select
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path

import numpy as np
import soundfile
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

import speechllm.adapters
import speechllm.decoders
import speechllm.encoders  # noqa: F401
from speechllm.data import TableDataModule
from speechllm.data.augmentation.augment import Augmentation
from speechllm.models import SpeechLLM
from speechllm.models.resuming import checkpoint_files
from speechllm.models.resuming.checkpoint_files import AtomicCheckpointIO
from speechllm.models.resuming.last_checkpoint import LastCheckpoint
from speechllm.models.resuming.last_files import find_last
from speechllm.registry import ADAPTERS, DECODERS, ENCODERS

ROWS = 22
SPECS = {
    "encoder": {
        "name": "whisper",
        **ENCODERS.get("whisper").tiny,
        "tuning": "full",
        "spec_augment": {"time_share": 0.4, "time_width_s": 0.1},
    },
    "adapter": {"name": "conv", **ADAPTERS.get("conv").tiny, "dropout": 0.2},
    "decoder": {"name": "causal_lm", **DECODERS.get("causal_lm").tiny},
}


def write_corpus(folder):
    """Write clips of several durations and a table of them; return the folder."""
    rows = ["audio,transcript"]
    for number in range(ROWS):
        samples = np.random.default_rng(number).uniform(-0.1, 0.1, 3_200 + 640 * (number * 5 % 11))
        soundfile.write(folder / f"{number}.wav", samples, 16_000)
        rows.append(f"{number}.wav,number {number}")
    (folder / "train.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "dev.csv").write_text("\n".join(rows[:4]) + "\n", encoding="utf-8")
    return folder


class Stop(Callback):
    """Tell the parent of every batch, and send this process a signal, or raise, in a hook."""

    def __init__(self, pipe, hook=None, at=0, number=signal.SIGTERM, error=None):
        self.pipe, self.at, self.number, self.error, self.calls = pipe, at, number, error, 0
        if hook:
            setattr(self, hook, self.stop)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        os.write(self.pipe, b".")

    def stop(self, trainer, *_):
        if trainer.sanity_checking:
            return
        self.calls += 1
        if self.calls == self.at:
            if self.error:
                raise RuntimeError(self.error)
            os.kill(os.getpid(), self.number)


class Draws(Callback):
    """Draw from all global random numbers while validating, and note what training draws after each batch."""

    def __init__(self):
        self.seen = []

    def on_validation_batch_start(self, *_):
        torch.rand(3), np.random.rand(2), random.random()

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step % 5 == 0:
            self.seen.append([trainer.global_step, float(torch.rand(())), np.random.rand(), random.random()])


def slow_down(pipe, at):
    """Let the ``at``-th checkpoint of this life stand half written on the disk until the process is killed."""
    opened = []

    def open_slowly(path):
        file = path.open("wb")
        opened.append(path)
        if len(opened) != at:
            return file
        write = file.write

        class Slow:
            written = 0

            def write(self, data):
                size = write(data)
                self.written += size
                if self.written > 50_000:
                    file.flush()
                    os.write(pipe, b"w")
                    time.sleep(20)
                return size

            def __getattr__(self, name):
                return getattr(file, name)

            def __enter__(self):
                return self

            def __exit__(self, *_):
                file.close()

        return Slow()

    checkpoint_files.open_file = open_slowly


def fit(
    folder, name, pipe, last=None, stop=None, write=None, num_workers=0, early=None, trainer=None, environment=None
):
    """Begin a run, or go on with it; note how it ended."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    os.environ |= environment or {}
    torch.set_num_threads(1)
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    run = folder / name
    state = find_last(run)
    if state is not None:
        torch.rand(7)  # nothing may depend on what a resumed process draws before its first batch
    if write:
        slow_down(pipe, write)
    draws = Draws()
    best = ModelCheckpoint(run / "checkpoints", "best", monitor="val_loss", enable_version_counter=False)
    callbacks = [LastCheckpoint(**{"every_minutes": None, "every_steps": 3} | (last or {})), best, draws]
    if early is not None:
        callbacks.append(EarlyStopping("val_loss", patience=early, min_delta=100.0))
    model = SpeechLLM(**SPECS, lr=1e-2, warmup_steps=5, max_new_tokens=2, metrics=["wer"])
    data = TableDataModule(
        folder,
        source="en",
        batch_seconds=1.2,
        max_utterances=3,
        num_buckets=3,
        augment=Augmentation(gain_db=(-6.0, 0.0)),
        num_workers=num_workers,
    )
    options = {"max_steps": 60, "val_check_interval": 7, "check_val_every_n_epoch": None} | (trainer or {})
    lightning = Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=run,
        callbacks=[*callbacks, Stop(pipe, **(stop or {}))],
        plugins=[AtomicCheckpointIO()],
        **options,
    )
    lightning.fit(model, datamodule=data, ckpt_path=state and str(state.path), weights_only=True)
    note = {
        "step": lightning.global_step,
        "logged": lightning.fit_loop.epoch_loop._batches_that_stepped,
        "epoch": lightning.current_epoch,
        "best": float(best.best_model_score or 0),
        "draws": draws.seen,
    }
    (run / "end.json").write_text(json.dumps(note), encoding="utf-8")


def change(run, change):
    """Do to the last checkpoint what a disk or an earlier version does; return of which steps the last ones are."""
    last = run / "checkpoints" / "last.ckpt"
    files = [last, last.with_name("last-1.ckpt")]
    checkpoint, before = (torch.load(path, weights_only=True) for path in files)
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 16
    if change == "earlier version":
        del checkpoint["random_state"]
        torch.save(checkpoint, last)  # without a checksum, too
    else:
        last.write_bytes({"cut off": data[: len(data) // 2], "flipped": data, "empty": b""}[change])
    return [checkpoint["global_step"], before["global_step"]]


def live(folder, name, kill=None, **options):
    """Run one life in a child, and kill it where that is asked for; return how it ended, and what it warned of."""
    read, write = os.pipe()
    log = folder / name / "life.log"
    log.parent.mkdir(exist_ok=True)
    child = os.fork()
    if child == 0:
        os.close(read)
        status = 1
        try:
            with log.open("w", encoding="utf-8") as file, warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
                try:
                    fit(folder, name, write, **options)
                    status = 0
                except SystemExit:
                    status = 143
                except BaseException:
                    traceback.print_exc()
                finally:
                    print(*(f"warning: {warning.message}" for warning in caught), sep="\n", flush=True)
        finally:
            os._exit(status)
    os.close(write)
    batches = 0
    while True:
        ready, _, _ = select.select([read], [], [], 60)
        got = os.read(read, 1) if ready else b""
        batches += got == b"."
        if kill is not None and (got == b"w" or (kill.get("batches") and batches >= kill["batches"])):
            time.sleep(kill.get("delay_s", 0))
            os.kill(child, signal.SIGKILL)
            kill = None
        if not got:
            break
    os.close(read)
    _, status = os.waitpid(child, 0)
    unfinished = sorted(path.name for path in (folder / name).glob("checkpoints/.*"))
    exit_code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    return {"exit": exit_code, "batches": batches, "unfinished": unfinished, "log": log.read_text(encoding="utf-8")}


if __name__ == "__main__":
    folder, runs = Path(sys.argv[1]), json.loads(sys.argv[2])
    for name, lives in runs.items():
        told = [change(folder / name, **life) if "change" in life else live(folder, name, **life) for life in lives]
        (folder / f"{name}.json").write_text(json.dumps(told), encoding="utf-8")
