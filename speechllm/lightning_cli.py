"""fit, validate, test and predict by LightningCLI, with run folders."""

import inspect
import os
import re
import shlex
import signal
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from speechllm.data import datamodules
from speechllm.data.augmentation.augment import Augmentation
from speechllm.data.base import SpeechDataModule
from speechllm.errors import UserError, did_you_mean
from speechllm.evaluation.run_record import Run
from speechllm.models.base import SpeechToText
from speechllm.models.checkpoint import find_checkpoint, read_checkpoint
from speechllm.models.initial_weights import find_initial
from speechllm.models.monitors import check_monitors, mode_of
from speechllm.models.resuming.checkpoint_files import AtomicCheckpointIO
from speechllm.models.resuming.last_checkpoint import LastCheckpoint
from speechllm.models.resuming.last_files import find_last, last_files
from speechllm.models.validation import logged_names, metric_specs
from speechllm.models.watching.progress import choose_progress
from speechllm.models.watching.summary import FitSummary
from speechllm.models.watching.watchdog import Watchdog
from speechllm.models.watching.weights_and_biases import log_recipe, logger_options
from speechllm.recipe_files import resolve_recipes

CHECKPOINT_DEFAULTS = {
    "checkpoint.filename": "best",
    "checkpoint.monitor": "val_score",
    "checkpoint.mode": "max",
    "checkpoint.auto_insert_metric_name": False,
    "checkpoint.enable_version_counter": False,
}
EXPECTED_WARNINGS = (
    r"Found \d+ module\(s\) in eval mode",  # frozen parts stay there on purpose
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning 2.6 with torch 2.14
    r"The '\w+_dataloader' does not have many workers",  # tiny corpora need none
    r"It is recommended to use `self.log\('(val|test)_",  # every process logs the figures that the first one computed
    r"LightningCLI's args parameter is intended",  # recipes given by name are resolved before it parses
    r"Checkpoint directory .* exists and is not empty",  # a run goes on there, or `check_run_dir` refuses it
    r"Be aware that when using `ckpt_path`, .* callbacks: \['Timer'\]",  # an earlier start had a `max_time`
)


class RunFinishedError(Exception):
    """A run that is to be resumed has come to its end."""


class SaveRecipe(SaveConfigCallback):
    """Write the resolved recipe to ``config.yaml`` in the run folder when training starts, and show it to the model.

    Args:
        *args: As of Lightning's class.
        command: The command line.
    """

    def __init__(self, *args: Any, command: str) -> None:
        super().__init__(*args)
        self.command = command

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the recipe; testing a run does not touch it."""
        if isinstance(pl_module, SpeechToText):
            pl_module.origin = Run(command=self.command, recipe=yaml.safe_load(self.parser.dump(self.config)))
            log_recipe(trainer.loggers, {"command": self.command, "recipe": pl_module.origin.recipe})
        if stage == "fit" and not trainer.fast_dev_run and trainer.is_global_zero:  # type: ignore[attr-defined]
            folder = Path(trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            self.parser.save(self.config, folder / "config.yaml", overwrite=True, multifile=False)


class CheckTranscripts(Callback):
    """Refuse to train an adapter that learns from transcripts on data without any, before weights are loaded."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Count the training rows that have no transcript; Lightning has set up the data just before.

        Raises:
            UserError: If none has one.
        """
        losses = pl_module.transcript_losses() if isinstance(pl_module, SpeechToText) else []
        data = getattr(trainer, "datamodule", None)
        if stage != "fit" or not losses or not isinstance(data, SpeechDataModule):
            return
        missing, rows = data.untranscribed
        if missing and missing == rows:
            msg = (
                f"None of the {rows} training rows has a transcript, and the adapter learns its loss "
                f"{' and '.join(losses)} from them. Give transcripts, or use an adapter without such a loss, such as "
                f"'conv' or 'wlq'."
            )
            raise UserError(msg)
        if missing:
            rank_zero_warn(f"{missing} of {rows} training rows have no transcript; {', '.join(losses)} skip them.")


class CheckMonitors(Callback):
    """Refuse to choose checkpoints by a figure that will not be logged, before weights are loaded."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look up what validation will log; Lightning has set up the data just before.

        Raises:
            UserError: If a callback looks at something else, or for the worse end of it.
        """
        data = getattr(trainer, "datamodule", None)
        if stage != "fit" or trainer.limit_val_batches == 0:
            return
        if isinstance(data, SpeechDataModule) and isinstance(pl_module, SpeechToText):
            check_monitors(trainer.callbacks, logged_names(pl_module.metric_specs, data.eval_kinds("dev")))  # type: ignore[attr-defined]


class Parser(LightningArgumentParser):
    """A parser whose errors name the option and its near match, without seventy lines of usage before them."""

    def print_usage(self, file: Any = None) -> None:
        """Print nothing; ``--help`` explains every option."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with an error.

        Raises:
            UserError: If an option is unknown.
        """
        unknown = re.search(r"Option '([\w.]+)' is not accepted|unrecognized arguments: --([\w.]+)", message)
        if unknown and self.exit_on_error:
            name = unknown[1] or unknown[2]
            msg = f"Unknown option '{name}'.{did_you_mean(name, _options(self))} `--help` lists the options."
            raise UserError(msg) from ex
        super().error(message, ex)


def _options(parser: LightningArgumentParser) -> set[str]:
    """Return the names of all options: the parser's own, and those of models and datamodules."""
    options = {name.lstrip("-") for action in parser._actions for name in action.option_strings}
    classes = [SpeechToText, SpeechDataModule, Augmentation]
    while classes:
        current = classes.pop()
        options |= set(inspect.signature(current).parameters)
        classes += current.__subclasses__()
    return options


class SpeechCLI(LightningCLI):
    """LightningCLI whose recipe and flags are the truth, and whose results stand in one folder a run."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run folder and the checkpoints' settings."""
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="Folder of checkpoints, logs, predictions and resolved recipe (default: runs/<name of the recipe>)",
        )
        parser.add_argument(
            "--overwrite", type=bool, default=False, help="Let `fit` start anew in a run folder that holds checkpoints"
        )
        parser.add_argument(
            "--resume",
            type=str | None,
            default=None,
            help="`auto`: let `fit` go on from the last checkpoint of the run folder, or begin where there is none",
        )
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_argument(
            "--wandb",
            type=str | None,
            default=None,
            help="Project of Weights & Biases to log to, beside TensorBoard (needs the extra `wandb`)",
        )
        parser.add_lightning_class_args(LastCheckpoint, "last_checkpoint")
        parser.add_lightning_class_args(Watchdog, "watchdog")
        parser.set_defaults(CHECKPOINT_DEFAULTS)

    def _parse_ckpt_path(self) -> None:
        """Leave the recipe and the flags as they are.

        Lightning would put the hyperparameters that a checkpoint stores over them, silently.
        """

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer, whose checkpoints are written whole or not at all, and whose progress fits the output."""
        plugins = self._get(self.config_init, "trainer", default={}).get("plugins") or []
        plugins = list(plugins) if isinstance(plugins, list | tuple) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(AtomicCheckpointIO())
        trainer = self._get(self.config_init, "trainer", default={})
        own = trainer.get("callbacks") or []
        own = own if isinstance(own, list) else [own]
        if trainer.get("enable_progress_bar") is not False and not any(isinstance(each, ProgressBar) for each in own):
            self.trainer_defaults = self.trainer_defaults | {
                "callbacks": [*self.trainer_defaults["callbacks"], choose_progress()]
            }
        return super().instantiate_trainer(**kwargs | {"plugins": plugins})

    def before_instantiate_classes(self) -> None:
        """Resolve the run folder and the checkpoint, and put logs and checkpoints there."""
        config: Namespace = self.config[self.subcommand]
        run_dir = Path(config.run_dir or default_run_dir(config))
        config.run_dir = str(run_dir)
        config.trainer.default_root_dir = str(run_dir)
        config.checkpoint.dirpath = str(run_dir / "checkpoints")
        if config.trainer.logger is None:
            options = Namespace(save_dir=str(run_dir), name="", version="logs", default_hp_metric=False)  # type: ignore[no-untyped-call]
            config.trainer.logger = Namespace(  # type: ignore[no-untyped-call]
                class_path="lightning.pytorch.loggers.TensorBoardLogger", init_args=options
            )
        self.resolve_nulls(config)
        config.ckpt_path = _checkpoint(config, run_dir, trains=self.subcommand == "fit")
        if self.subcommand == "fit":
            check_run_dir(run_dir, resumes=config.ckpt_path is not None, overwrite=config.overwrite)
            init_from = config.model.get("init_args", Namespace()).get("init_from")  # type: ignore[no-untyped-call]
            if init_from is not None and config.ckpt_path is None:
                find_initial(init_from)  # a run that is not there is named before weights are loaded
        else:
            config.ckpt_path = str(find_checkpoint(config.ckpt_path or run_dir))
        if self.subcommand == "fit":
            specs = metric_specs(config.model.get("init_args", Namespace()).get("metrics", ()))  # type: ignore[no-untyped-call]
            config.checkpoint.mode = mode_of(config.checkpoint.monitor, specs) or config.checkpoint.mode
        config.weights_only = True
        if config.ckpt_path is not None:
            read_checkpoint(Path(config.ckpt_path))  # a damaged or foreign file is named now, not by a failure in torch
        if config.wandb is not None:
            goes_on = self.subcommand != "fit" or config.ckpt_path is not None
            add_wandb(config.trainer, logger_options(config.wandb, run_dir, goes_on))
        if self.subcommand == "test":
            config.verbose = False  # the model prints its own table, with signatures

    @staticmethod
    def resolve_nulls(config: Namespace) -> None:
        """Put a null for each ``null`` inside the options of model and data."""
        for part in ("model", "data"):
            if "init_args" in config.get(part, {}):
                config[part].init_args = _with_nulls(config[part].init_args)


def add_wandb(trainer: Namespace, options: dict[str, Any]) -> None:
    """Add a logger to Weights & Biases to those of a trainer's configuration."""
    others = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
    wandb = Namespace(class_path="lightning.pytorch.loggers.WandbLogger", init_args=Namespace(**options))  # type: ignore[no-untyped-call]
    trainer.logger = [*(logger for logger in others if not isinstance(logger, bool)), wandb]


def _with_nulls(value: Any) -> Any:
    """Return options in which a ``null`` inside a spec is one: jsonargparse reads it from a flag as a text."""
    if isinstance(value, Namespace):
        return Namespace({key: _with_nulls(inner) for key, inner in vars(value).items()})  # type: ignore[no-untyped-call]
    if isinstance(value, dict):
        return {key: _with_nulls(inner) for key, inner in value.items()}
    return None if value in ("null", "None") else value


def default_run_dir(config: Namespace) -> Path:
    """Return ``runs/<name of the last recipe given>``, or ``runs/run`` where all came from flags."""
    recipes: list[Any] = config.get("config") or []
    return Path("runs") / (Path(str(recipes[-1])).stem if recipes else "run")


def check_run_dir(run_dir: Path, resumes: bool, overwrite: bool) -> None:
    """Check that training does not write over a run.

    Raises:
        UserError: If the folder holds checkpoints, and the run is neither resumed nor given up.
    """
    if not (resumes or overwrite) and (
        any((run_dir / "checkpoints").glob("*.ckpt")) or last_files(run_dir / "checkpoints")
    ):
        msg = (
            f"The run folder '{run_dir}' already holds checkpoints. Resume with `--ckpt_path last`, name another "
            f"folder with `--run_dir`, or start anew with `--overwrite true`."
        )
        raise UserError(msg)


def _checkpoint(config: Namespace, run_dir: Path, trains: bool) -> str | None:
    """Return the checkpoint to load: the one that is named, or the newest that can be read.

    Raises:
        UserError: If there is no last one, a run is both to go on and to start anew, or `--resume` is unknown.
        RunFinishedError: If there is nothing left to train.
    """
    named: str | None = config.ckpt_path
    requeued = int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0
    automatic = trains and (config.resume == "auto" or requeued)
    if config.resume not in (None, "auto"):
        msg = f"`--resume` takes `auto` alone, but is '{config.resume}'. Name a file to go on from with `--ckpt_path`."
        raise UserError(msg)
    if config.resume == "auto" and config.overwrite:
        msg = "`--resume auto` goes on with a run, and `--overwrite true` starts it anew. Leave out one of them."
        raise UserError(msg)
    if named != "last" and not automatic:
        return named
    state = find_last(run_dir)
    if state is None and named == "last" and not automatic:
        path = run_dir / "checkpoints" / "last.ckpt"
        msg = (
            f"There is no last checkpoint: '{path}' does not exist. Leave out `--ckpt_path last`, train first, or let "
            f"`--resume auto` begin where there is none."
        )
        raise UserError(msg)
    if state is None:
        return None if named == "last" else named
    if trains and (end := state.end(config.trainer.max_steps, config.trainer.max_epochs)):
        msg = f"The run in '{run_dir}' is finished: {end}. Raise the limit to train on, or test it."
        raise RunFinishedError(msg)
    return str(state.path)


def run(command: str, arguments: list[str]) -> None:
    """Run fit, validate, test or predict.

    Args:
        command: Which of them.
        arguments: The rest of the command line.

    Raises:
        SystemExit: With status 143 after a signal to stop, so that nothing goes on with results that are not there.
    """
    datamodules()  # a recipe names their classes, which must be there to be found
    for message in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message)
    try:
        SpeechCLI(
            SpeechToText,
            SpeechDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveRecipe,
            save_config_kwargs={"command": shlex.join(["speechllm", command, *arguments])},
            # Our samplers share the data out between processes themselves.
            trainer_defaults={
                "use_distributed_sampler": False,
                "callbacks": [CheckTranscripts(), CheckMonitors(), FitSummary()],
            },
            auto_configure_optimizers=False,
            parser_class=Parser,
            parser_kwargs={"prog": "speechllm"},
            args=[command, *resolve_recipes(arguments)],
        )
    except RunFinishedError as finished:
        rank_zero_only(print)(finished)
    except SIGTERMException:  # Lightning exits as if all were done
        print(f"speechllm {command}: stopped by SIGTERM before the end", file=sys.stderr)
        raise SystemExit(128 + signal.SIGTERM) from None
