"""What stands around the speech in the LLM's input, and what the LLM is taught to answer (spec §12)."""

from typing import Any

from speechllm.errors import UserError, did_you_mean
from speechllm.languages import language_name

STYLES = ("auto", "chat", "plain")
INSTRUCTIONS = {
    "asr": "can you transcribe {source}?",
    "st": "can you translate from {source} to {target}?",
    "asr+st": "can you transcribe {source} and translate it to {target}?",
}
"""Paper A's instructions (spec §12.3); the one for both tasks is ours."""
TEMPLATE = "{speech}\n{instruction}\n"
SPEECH = "<<speech>>"
ANSWER = "<<answer>>"
# Llama 3.2 and later put today's date into their prompt unless one is given; a prompt must not change by the day.
DATE = "26 Jul 2024"


class Prompt:
    """Token ids before the speech, after it, and of the answer.

    Args:
        tokenizer: Hugging Face tokenizer.
        style: ``chat`` uses the tokenizer's chat template, ``plain`` the ``template`` below, ``auto`` the chat template
            where the tokenizer has one.
        template: Text of the plain style, with ``{speech}``, ``{instruction}``, ``{source}`` and ``{target}``.
        instructions: Instruction by task, with ``{source}`` and ``{target}`` for the English language names; tasks left
            out keep paper A's.
        system: System message of the chat style; None for the template's own.
        separator: What stands between transcript and translation where the task is ``asr+st``.

    Raises:
        UserError: If an option is unknown or cannot work with this tokenizer.
    """

    def __init__(
        self,
        tokenizer: Any,
        style: str = "auto",
        template: str = TEMPLATE,
        instructions: dict[str, str] | None = None,
        system: str | None = None,
        separator: str = "<|translation|>",
    ) -> None:
        if style not in STYLES:
            msg = f"Unknown prompt style '{style}'.{did_you_mean(style, STYLES)} Allowed: {', '.join(STYLES)}."
            raise UserError(msg)
        if style == "chat" and not tokenizer.chat_template:
            msg = "The prompt style 'chat' needs a tokenizer with a chat template; use `style: plain`."
            raise UserError(msg)
        if template.count("{speech}") != 1:
            msg = f"The prompt template must hold '{{speech}}' exactly once, but is {template!r}."
            raise UserError(msg)
        unknown = set(instructions or {}) - set(INSTRUCTIONS)
        if unknown:
            msg = f"Unknown tasks in `instructions`: {', '.join(sorted(unknown))}. Allowed: {', '.join(INSTRUCTIONS)}."
            raise UserError(msg)
        self.tokenizer = tokenizer
        self.chat = bool(tokenizer.chat_template) if style == "auto" else style == "chat"
        self.template = template
        self.instructions = INSTRUCTIONS | (instructions or {})
        self.system = system
        self.separator = separator
        self._around: dict[tuple[str, str, str], tuple[list[int], list[int]]] = {}
        self.end_id = self._find_end_id()

    def around(self, task: str, source_language: str, target_language: str) -> tuple[list[int], list[int]]:
        """Return the token ids before and after the speech, BOS included where the tokenizer has one."""
        key = (task, source_language, target_language)
        if key not in self._around:
            names = {"source": language_name(source_language), "target": language_name(target_language)}
            instruction = self._fill(self.instructions[task], **names)
            before, after = self._render(instruction, names)
            before_ids = self._ids(before)
            bos = self.tokenizer.bos_token_id
            if not self.chat and bos is not None:
                before_ids = [bos, *before_ids]
            self._around[key] = (before_ids, self._ids(after))
        return self._around[key]

    def answer(self, task: str, transcript: str, translation: str) -> list[int]:
        """Return the token ids that the LLM is to write, the end token last."""
        if task == "asr+st":
            text = f"{transcript} {self.separator} {translation}"
        else:
            text = transcript if task == "asr" else translation
        return [*self._ids(text), self.end_id]

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

    def _render(self, instruction: str, names: dict[str, str]) -> tuple[str, str]:
        if not self.chat:
            before, after = self.template.split("{speech}")
            fill = {"instruction": instruction, **names}
            return self._fill(before, **fill), self._fill(after, **fill)
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

    def _find_end_id(self) -> int:
        """Return the token that ends an answer: what the chat template writes behind it, else end-of-sequence."""
        if self.chat:
            tail = self._ids(self._chat_text(SPEECH).partition(ANSWER)[2].strip())
            if tail and tail[0] in self.tokenizer.all_special_ids + list(self.tokenizer.added_tokens_decoder):
                return int(tail[0])
        return int(self.tokenizer.eos_token_id)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        return ids

    @staticmethod
    def _fill(text: str, **values: str) -> str:
        for key, value in values.items():
            text = text.replace(f"{{{key}}}", value)
        return text
