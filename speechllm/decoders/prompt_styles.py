"""The prompt styles of the papers, as data (spec §10.4, §12.3–12.6)."""

from collections.abc import Mapping
from dataclasses import dataclass

SEPARATOR = "<|translation|>"
"""What stands between transcript and translation where one answer holds both."""
END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class Style:
    """What a prompt is made of.

    Attributes:
        template: Text around ``{speech}``, with ``{instruction}``, ``{source}`` and ``{target}``; None where the
            tokenizer's chat template renders a user's turn of speech, newline and instruction.
        instructions: Instruction of each task that the style knows, with ``{source}`` and ``{target}``.
        options: Options of a recipe's prompt that the style takes.
        adds: Special tokens of the style, added to the vocabulary where it lacks them.
        needs: Pieces of the style that the vocabulary must have.
        bos: Token that begins the sequence; None for the tokenizer's own, where it has one.
        end: Token that ends an answer; None for what the chat template writes behind it, else end-of-sequence.
        before_end: Text between an answer and its end token.
    """

    template: str | None
    instructions: Mapping[str, str]
    options: tuple[str, ...] = ()
    adds: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    bos: str | None = None
    end: str | None = None
    before_end: str = ""


INSTRUCTIONS = {
    "asr": "can you transcribe {source}?",
    "st": "can you translate from {source} to {target}?",
    "asr+st": "can you transcribe {source} and translate it to {target}?",
}
"""Paper A's instructions (spec §12.3); the one for both tasks is ours."""

STYLES = {
    "chat": Style(
        template=None, instructions=INSTRUCTIONS, options=("instructions", "system", "separator", "add_separator")
    ),
    "plain": Style(
        template="{speech}\n{instruction}\n",
        instructions=INSTRUCTIONS,
        options=("template", "instructions", "separator", "add_separator"),
    ),
    # Paper B teaches transcript and translation in one sequence, and nothing in its prompt names a task.
    "joint": Style(
        template="<|audio|>{speech}<|transcript|>",
        instructions={"asr+st": ""},
        adds=("<|audio|>", "<|transcript|>", SEPARATOR),
        before_end=" ",
    ),
    # Paper C transcribes Japanese; nothing in its prompt names a task either.
    "nue": Style(template="{speech}[SEP]", instructions={"asr": ""}, needs=("[SEP]",)),
    # Paper D; the two instructions with a translation are ours.
    "parallel": Style(
        template="{instruction}{speech}",
        instructions={
            "asr": "Please transcribe the following audio in {source}:\n",
            "st": "Please translate the following audio from {source} to {target}:\n",
            "asr+st": "Please transcribe the following audio in {source} and translate it to {target}:\n",
        },
        options=("instructions", "separator", "add_separator"),
        needs=(END_OF_TEXT,),
        bos=END_OF_TEXT,
        end=END_OF_TEXT,
    ),
}
"""Styles by the name that a recipe gives; ``auto`` chooses between ``chat`` and ``plain``."""
