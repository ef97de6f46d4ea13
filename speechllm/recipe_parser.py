"""Recipes for commands that look at a recipe without training it: the model and the data that it describes."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from speechllm.data import datamodules
from speechllm.data.base import SpeechDataModule
from speechllm.lightning_cli import EXPECTED_WARNINGS, Parser, SpeechCLI
from speechllm.models.base import SpeechToText
from speechllm.recipe_files import resolve_recipes

OF_SUBCOMMANDS = ("ckpt_path", "weights_only")
"""Options of `fit` that the recipe in a run folder has, and that mean nothing here."""


@dataclass
class Recipe:
    """What a recipe describes.

    Attributes:
        model: The model, whose specs are checked and whose weights are not loaded.
        data: The datamodule, which has read nothing yet.
        seed: Seed of the run.
        options: The command's own options.
    """

    model: SpeechToText
    data: SpeechDataModule
    seed: int
    options: dict[str, Any]


class RecipeCLI(SpeechCLI):
    """The parser of `fit` without a trainer, with the options of another command.

    Args:
        command: Name of the command.
        options: Function whose arguments are the command's options; its docstring is the help.
        arguments: The rest of the command line.
    """

    def __init__(self, command: str, options: Callable[..., Any], arguments: list[str]) -> None:
        self._options = options
        description = (options.__doc__ or "").partition("\n")[0]
        super().__init__(
            SpeechToText,
            SpeechDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            parser_class=Parser,
            parser_kwargs={"prog": f"speechllm {command}", "description": description},
            args=resolve_recipes(arguments),
            run=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of the command, and those that recipes in run folders have beside."""
        super().add_arguments_to_parser(parser)
        for name in OF_SUBCOMMANDS:
            parser.add_argument(f"--{name}", default=None, help="Not used here")
        self._names = parser.add_function_arguments(self._options, as_group=False, fail_untyped=False)

    def before_instantiate_classes(self) -> None:
        """Take `null` inside specs for what it is; there is no run folder."""
        self.resolve_nulls(self.config)

    def instantiate_classes(self) -> None:
        """Make the model and the datamodule; no trainer, whose devices may not be here."""
        self.config_init = self.parser.instantiate_classes(self.config)
        self.model = self.config_init.model
        self.datamodule = self.config_init.data

    @property
    def recipe(self) -> Recipe:
        """What was parsed."""
        given = {name: self.config_init.get(name) for name in self._names}
        return Recipe(self.model, self.datamodule, int(self.config.seed_everything), given)


def read_recipe(command: str, options: Callable[..., Any], arguments: list[str]) -> Recipe:
    """Parse a command line that gives a recipe, overrides of it, and a command's own options.

    Args:
        command: Name of the command.
        options: Function whose arguments are the command's options.
        arguments: The rest of the command line.

    Raises:
        UserError: If the recipe has a mistake.
    """
    datamodules()  # a recipe names their classes, which must be there to be found
    for message in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message)
    return RecipeCLI(command, options, arguments).recipe
