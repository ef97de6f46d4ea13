"""The command line: one door for shell, notebook and tests."""

import importlib
import inspect
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, get_origin

from speechllm import __version__
from speechllm.errors import UserError, did_you_mean

TRAINER_COMMANDS = {
    "fit": "train a recipe, or resume a run with --ckpt_path last",
    "validate": "score a trained model on the validation set",
    "test": "decode the test sets of a recipe, score them, write predictions",
    "predict": "decode the test sets without scoring",
}
OTHER_COMMANDS = {
    "prepare": "turn a corpus on disk into manifests, or write the synthetic one",
    "cache": "compute the frames of a recipe's frozen encoders once, for every run that reads them",
    "transcribe": "transcribe or translate audio files with a trained model",
    "score": "score hypotheses from files, or a run by other metrics",
    "compare": "set systems side by side: a table with significance, pictures, a page of utterances",
    "export": "write a trained model as safetensors with a model card, or push it to the hub",
    "merge": "merge the LoRA of a trained model's LLM into its weights",
    "comet-env": "make the environment in which the metric comet runs unbabel-comet",
    "plan": "say what a recipe takes: memory, operations, time on GPUs, before anything is loaded",
    "bench": "measure a recipe's steps with random weights: samples/s, memory, where the time goes",
    "inspect": "draw what the adapter of a trained model does with an utterance",
    "zoo": "list encoders, fusions, adapters, decoders, metrics, prompts and recipes, or describe one",
}
COMMANDS = TRAINER_COMMANDS | OTHER_COMMANDS
QUIET_LOGGERS = ("lightning.pytorch.utilities.rank_zero", "bitsandbytes.backends.cpu.ops")
"""Loggers of libraries that recommend packages at every start."""


def main(args: Sequence[str] | None = None) -> None:
    """Run a command.

    A :class:`~speechllm.errors.UserError` is printed alone, with exit status 2; set ``SPEECHLLM_TRACEBACK=1`` to see
    where it came from.

    Args:
        args: Arguments as on the command line; ``sys.argv[1:]`` where not given.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return
    if arguments[0] == "--version":
        print(f"speechllm {__version__}")
        return
    command, rest = arguments[0], arguments[1:]
    try:
        _run(command, rest)
    except BrokenPipeError:  # `speechllm … | head` has read what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None  # as the shell counts it
    except KeyboardInterrupt as stop:
        print(f"speechllm {command}: {stop or 'interrupted'}", file=sys.stderr)
        raise SystemExit(130) from None
    except ValueError as error:
        cause = _user_error(error)
        if cause is None or os.environ.get("SPEECHLLM_TRACEBACK"):
            raise
        # torch puts the traceback of a data worker before the message of its error
        message = str(cause).rstrip().rpartition("UserError: ")[2]
        print(f"speechllm {command}: error: {message}", file=sys.stderr)
        raise SystemExit(2) from None


def _user_error(error: BaseException | None) -> UserError | None:
    """Return the user's error behind ``error``: jsonargparse wraps what the constructor of a model or corpus raises."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__
    return error


def _run(command: str, arguments: list[str]) -> None:
    # Before torch is loaded: GNU's OpenMP lets idle threads spin for long, which makes a training step on a CPU five
    # times slower as soon as a data worker or another program wants the same core.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if command in TRAINER_COMMANDS:
        from speechllm.lightning_cli import run

        with _plain_warnings():
            run(command, arguments)
    elif command in OTHER_COMMANDS:
        module = importlib.import_module(f"speechllm.commands.{command.replace('-', '_')}")
        with _plain_warnings():
            if hasattr(module, "run"):  # a command whose options depend on its arguments
                module.run(arguments)
            else:
                _call(getattr(module, command), command, arguments)
    else:
        msg = f"Unknown command.{did_you_mean(command, COMMANDS)} Commands: {', '.join(COMMANDS)}."
        raise UserError(msg)


def _is_news(record: logging.LogRecord) -> bool:
    """Return whether a line of a library's log is more than an advertisement for another package."""
    return not re.search(r"try installing \[lit|Failed to load CPU gemm", str(record.msg))


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show what is to be told to users as a sentence, without the line of the program that told it."""
    before = warnings.formatwarning
    for name in QUIET_LOGGERS:
        logging.getLogger(name).addFilter(_is_news)

    def form(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> str:
        return f"Warning: {message}\n" if category is UserWarning else before(message, category, *where, **more)

    warnings.formatwarning = form
    try:
        yield
    finally:
        warnings.formatwarning = before


def _call(function: Callable[..., None], command: str, arguments: list[str]) -> None:
    """Parse a function's arguments and call it: its first parameter by position, all others as options.

    A first parameter with a default may be left out.
    """
    from docstring_parser import parse
    from jsonargparse import ArgumentParser

    from speechllm.command_help import HelpFormatter

    documentation = parse(function.__doc__ or "")
    first, parameter = next(iter(inspect.signature(function).parameters.items()))
    required = parameter.default is inspect.Parameter.empty
    several = get_origin(parameter.annotation) is list
    text = next(entry.description for entry in documentation.params if entry.arg_name == first)
    description = documentation.description
    parser = ArgumentParser(prog=f"speechllm {command}", description=description, formatter_class=HelpFormatter)
    parser.add_argument(first, nargs="+" if several else None if required else "?", help=text)
    parser.add_function_arguments(function, skip={first}, as_group=False)
    options = parser.parse_args(_with_values(arguments, function)).as_dict()
    function(options.pop(first), **options)


def _with_values(arguments: Sequence[str], function: Callable[..., None]) -> list[str]:
    """Return arguments in which a switch without a value, such as ``--merge``, has the value ``true``."""
    parameters = inspect.signature(function).parameters.values()
    switches = {f"--{parameter.name}" for parameter in parameters if parameter.annotation is bool}
    completed = []
    for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
        completed.append(argument)
        if argument in switches and following.lower() not in ("true", "false", "yes", "no"):
            completed.append("true")
    return completed


def _help() -> str:
    lines = [
        "usage: speechllm COMMAND [options]",
        "",
        "Speech encoders joined to large language models by adapters, for speech recognition and translation.",
        "",
        "commands:",
        *(f"  {name:<12}{text}" for name, text in COMMANDS.items()),
        "",
        "options:",
        "  --help      this text; `speechllm COMMAND --help` for a command's own",
        "  --version   the version",
        "",
        "examples:",
        "  speechllm fit --config recipes/quickstart.yaml",
        "  speechllm test --config recipes/quickstart.yaml",
        "  speechllm transcribe talk.wav --model runs/quickstart --translate_to de",
    ]
    return "\n".join(lines)
