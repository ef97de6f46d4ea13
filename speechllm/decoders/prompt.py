"""What stands around the speech in the LLM's input, and what the LLM is taught to answer (spec §12)."""

import re
from typing import Any

from speechllm.decoders.prompt_styles import SEPARATOR, STYLES, Style
from speechllm.decoders.tokenizer import add_special_tokens
from speechllm.errors import UserError, did_you_mean
from speechllm.languages import language_name

SPEECH = "<<speech>>"
ANSWER = "<<answer>>"
# Llama 3.2 and later put today's date into their prompt unless one is given; a prompt must not change by the day.
DATE = "26 Jul 2024"


class Prompt:
    """Token ids before the speech, after it, and of the answer.

    Special tokens that the style has and the tokenizer lacks are added to the tokenizer.

    Args:
        tokenizer: Hugging Face tokenizer.
        style: ``chat`` (paper A) uses the tokenizer's chat template, ``plain`` the ``template``; ``joint`` (paper B)
            writes ``<|audio|> speech <|transcript|> transcript <|translation|> translation`` and knows the task
            ``asr+st`` alone; ``nue`` (paper C) writes ``speech [SEP] transcript`` and knows ``asr`` alone; ``parallel``
            (paper D) puts its instruction before the speech, between ``<|endoftext|>``. ``auto`` is ``chat`` where the
            tokenizer has a chat template and no ``template`` is given, else ``plain``.
        template: Text of the plain style, with ``{speech}``, ``{instruction}``, ``{source}`` and ``{target}``.
        instructions: Instruction by task, with ``{source}`` and ``{target}`` for the English language names; tasks left
            out keep the style's.
        system: System message of the chat style; None for the template's own.
        separator: What stands between transcript and translation where the task is ``asr+st``; ``<|translation|>``
            where not given.
        add_separator: Whether the separator becomes a special token of its own where the vocabulary lacks it; else it
            is written in the pieces that the vocabulary has.

    Attributes:
        new_ids: Ids of the tokens that were added, one after the other; empty where the tokenizer had them all.
        end_id: The token that ends an answer.

    Raises:
        UserError: If an option is unknown, does not belong to the style, or cannot work with this tokenizer.
    """

    def __init__(
        self,
        tokenizer: Any,
        style: str = "auto",
        template: str | None = None,
        instructions: dict[str, str] | None = None,
        system: str | None = None,
        separator: str | None = None,
        add_separator: bool = False,
    ) -> None:
        name = _choose(style, tokenizer, template)
        given = {
            "template": template,
            "instructions": instructions,
            "system": system,
            "separator": separator,
            "add_separator": add_separator or None,
        }
        self.style = STYLES[name]
        _check(name, self.style, tokenizer, {key: value for key, value in given.items() if value is not None})
        self.name = name
        self.tokenizer = tokenizer
        self.template = self.style.template if template is None else template
        self.instructions = {**self.style.instructions, **(instructions or {})}
        self.system = system
        self.separator = SEPARATOR if separator is None else separator
        adds = (*self.style.adds, self.separator) if add_separator else self.style.adds
        self.new_ids = add_special_tokens(tokenizer, adds)
        pieces = "|".join(re.escape(piece) for piece in (*adds, *self.style.needs))
        self._pieces = re.compile(f"({pieces})" if pieces else r"(?!)")
        self._around: dict[tuple[str, str, str], tuple[list[int], list[int]]] = {}
        self.end_id = self._find_end_id()

    def around(self, task: str, source_language: str, target_language: str) -> tuple[list[int], list[int]]:
        """Return the token ids before and after the speech, BOS included where the tokenizer has one.

        Raises:
            UserError: If the style does not know the task, or the language is not known.
        """
        key = (task, source_language, target_language)
        if key not in self._around:
            self._check_task(task)
            names = {"source": language_name(source_language), "target": language_name(target_language)}
            before, after = self._render(_fill(self.instructions[task], **names), names)
            self._around[key] = (self._bos() + self._template_ids(before), self._template_ids(after))
        return self._around[key]

    def answer(self, task: str, transcript: str, translation: str) -> list[int]:
        """Return the token ids that the LLM is to write, the end token last."""
        ids, _ = self.answer_parts(task, transcript, translation)
        return ids

    def answer_parts(self, task: str, transcript: str, translation: str) -> tuple[list[int], int]:
        """Return the token ids that the LLM is to write, and how many of them, from the first, are transcript.

        Each text owns what ends it: the separator counts as transcript where a translation follows, and the end token
        belongs to the last text.
        """
        if task != "asr+st":
            text = transcript if task == "asr" else translation
            ids = [*self._ids(text + self.style.before_end), self.end_id]
            return ids, len(ids) if task == "asr" else 0
        first = f"{transcript} {self.separator}"
        # The whole is tokenized at once, as it will be read; pieces may reach over from one part into the next.
        encoded = self.tokenizer(
            f"{first} {translation}{self.style.before_end}", add_special_tokens=False, return_offsets_mapping=True
        )
        transcript_tokens = sum(start < len(first) for start, _ in encoded["offset_mapping"])
        return [*encoded["input_ids"], self.end_id], transcript_tokens

    def parse(self, task: str, text: str) -> tuple[str, str, bool]:
        """Split a decoded answer.

        Returns:
            Transcript, translation, and whether the task was ``asr+st`` and the separator is missing; the text then
            counts as transcript, and the translation is empty. Further separators count as spaces.
        """
        if task == "asr":
            return text.strip(), "", False
        if task == "st":
            return "", text.strip(), False
        transcript, found, translation = text.partition(self.separator)
        translation = " ".join(part.strip() for part in translation.split(self.separator)).strip()
        return transcript.strip(), translation, not found

    def _check_task(self, task: str) -> None:
        if task not in self.instructions:
            msg = (
                f"The prompt style '{self.name}' knows the task {', '.join(self.instructions)} alone, but an utterance "
                f"asks for '{task}': nothing in its prompt names a task. Change the data's `tasks`, or use another "
                f"style ({', '.join(name for name, style in STYLES.items() if task in style.instructions)})."
            )
            raise UserError(msg)

    def _render(self, instruction: str, names: dict[str, str]) -> tuple[str, str]:
        if self.template is not None:
            before, after = self.template.split("{speech}")
            fill = {"instruction": instruction, **names}
            return _fill(before, **fill), _fill(after, **fill)
        before, _, rest = self._chat_text(f"{SPEECH}\n{instruction}").partition(SPEECH)
        # A space before the answer belongs to the answer's first token in every sentencepiece vocabulary.
        return before, rest.partition(ANSWER)[0].rstrip(" ")

    def _chat_text(self, content: str) -> str:
        messages = [{"role": "user", "content": content}, {"role": "assistant", "content": ANSWER}]
        if self.system is not None:
            messages.insert(0, {"role": "system", "content": self.system})
        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, date_string=DATE)
        except Exception as error:  # jinja2.TemplateError, raised by templates that know no system role
            msg = (
                f"The tokenizer's chat template cannot render this prompt: {error}. Leave out `system`, or use `plain`."
            )
            raise UserError(msg) from error
        return str(text)

    def _bos(self) -> list[int]:
        """Return what begins the sequence; a chat template writes its own."""
        if self.template is None:
            return []
        if self.style.bos is not None:
            return [self._id(self.style.bos)]
        bos = self.tokenizer.bos_token_id
        return [] if bos is None else [int(bos)]

    def _find_end_id(self) -> int:
        if self.style.end is not None:
            return self._id(self.style.end)
        if self.template is None:
            tail = self._ids(self._chat_text(SPEECH).partition(ANSWER)[2].strip())
            if tail and tail[0] in self.tokenizer.all_special_ids + list(self.tokenizer.added_tokens_decoder):
                return int(tail[0])
        return int(self.tokenizer.eos_token_id)

    def _template_ids(self, text: str) -> list[int]:
        """Return the ids of a piece of prompt; the style's own tokens are looked up, whatever the tokenizer does."""
        parts = [part for part in self._pieces.split(text) if part]
        ids = ([self._id(part)] if self._pieces.fullmatch(part) else self._ids(part) for part in parts)
        return [token for part in ids for token in part]

    def _id(self, token: str) -> int:
        return int(self.tokenizer.get_vocab()[token])

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        return ids


def _choose(style: str, tokenizer: Any, template: str | None) -> str:
    """Return the name of the style that ``style`` means for this tokenizer."""
    if style == "auto":
        return "chat" if tokenizer.chat_template and template is None else "plain"
    if style not in STYLES:
        names = ("auto", *STYLES)
        msg = f"Unknown prompt style '{style}'.{did_you_mean(style, names)} Allowed: {', '.join(names)}."
        raise UserError(msg)
    return style


def _check(name: str, style: Style, tokenizer: Any, given: dict[str, Any]) -> None:
    """Check the options of a recipe against a style and a tokenizer."""
    foreign = [option for option in given if option not in style.options]
    if foreign:
        msg = (
            f"The prompt style '{name}' does not take {', '.join(repr(option) for option in foreign)}. "
            f"It takes: {', '.join(style.options) or 'no options'}."
        )
        raise UserError(msg)
    if style.template is None and not tokenizer.chat_template:
        msg = f"The prompt style '{name}' needs a tokenizer with a chat template; use `style: plain`."
        raise UserError(msg)
    if given.get("template", "{speech}").count("{speech}") != 1:
        msg = f"The prompt template must hold '{{speech}}' exactly once, but is {given['template']!r}."
        raise UserError(msg)
    unknown = set(given.get("instructions", {})) - set(style.instructions)
    if unknown:
        allowed = ", ".join(style.instructions)
        msg = f"Unknown tasks in `instructions`: {', '.join(sorted(unknown))}. Allowed: {allowed}."
        raise UserError(msg)
    if not given.get("separator", SEPARATOR).strip():
        msg = "The prompt's `separator` is empty, so that transcript and translation could not be told apart."
        raise UserError(msg)
    missing = [token for token in style.needs if token not in tokenizer.get_vocab()]
    if missing:
        path = f" '{tokenizer.name_or_path}'" if tokenizer.name_or_path else ""
        msg = (
            f"The prompt style '{name}' needs {', '.join(repr(token) for token in missing)} in the vocabulary, which "
            f"the tokenizer{path} lacks. Use an LLM that has it, or `style: plain`."
        )
        raise UserError(msg)


def _fill(text: str, **values: str) -> str:
    for key, value in values.items():
        text = text.replace(f"{{{key}}}", value)
    return text
