"""What a CTC head writes in: the LLM's tokens, bytes, characters, or the pieces of a small tokenizer of its own."""

import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechllm.errors import UserError, did_you_mean

VOCABULARIES = ("llm", "bytes", "characters")
"""Names of vocabularies; a path that ends in ``.json`` is the fourth way."""

ALPHABET = "abcdefghijklmnopqrstuvwxyz' "
"""Characters where a recipe names none: lower-case Latin letters, apostrophe and space."""


class CTCVocabulary:
    """The labels of a CTC head, without its blank, which takes the id after the last (spec §6.5).

    Args:
        vocabulary: ``llm`` for the LLM's own tokens (paper A); ``bytes`` for those of UTF-8; ``characters`` for those
            of ``alphabet``; or the path of a ``tokenizer.json``, of a small byte-pair encoding for instance.
        alphabet: Characters, each once, in the order of their ids; None for :data:`ALPHABET`. Text is lower-cased, and
            characters that the alphabet lacks are dropped.
        llm_vocab_size: Vocabulary size V of the LLM's tokenizer.

    Attributes:
        size: Number of labels, and the id of the blank.
        dropped: Characters that :meth:`encode` dropped when it was last called.

    Raises:
        UserError: If the vocabulary is unknown or not readable, or the alphabet is not one.
    """

    def __init__(self, vocabulary: str, alphabet: str | None, llm_vocab_size: int) -> None:
        if vocabulary not in VOCABULARIES and not vocabulary.endswith(".json"):
            msg = (
                f"Unknown CTC vocabulary '{vocabulary}'.{did_you_mean(vocabulary, VOCABULARIES)} "
                f"Allowed: {', '.join(VOCABULARIES)}, or the path of a tokenizer.json."
            )
            raise UserError(msg)
        if alphabet is not None and vocabulary != "characters":
            msg = f"`alphabet` only means something with `vocabulary: characters`, but that is '{vocabulary}'."
            raise UserError(msg)
        self.vocabulary = vocabulary
        self.alphabet = _check_alphabet(ALPHABET if alphabet is None else alphabet)
        self.dropped = 0
        self._tokenizer: Any = None
        if vocabulary == "llm":
            self.size = llm_vocab_size
        elif vocabulary == "bytes":
            self.size = 256
        elif vocabulary == "characters":
            self.size = len(self.alphabet)
        else:
            self._tokenizer = _read_tokenizer(Path(vocabulary))
            self.size = max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1  # ids may have gaps

    def encode(self, texts: list[str]) -> list[Tensor] | None:
        """Return the label ids (U,) int64 of each text; None for ``llm``, whose tokenizer the decoder has."""
        self.dropped = 0
        if self.vocabulary == "llm":
            return None
        if self.vocabulary == "bytes":
            ids = [list(text.encode()) for text in texts]
        elif self.vocabulary == "characters":
            ids = [self._spell(text) for text in texts]
        else:
            ids = [encoding.ids for encoding in self._tokenizer.encode_batch(texts, add_special_tokens=False)]
        return [torch.tensor(row, dtype=torch.int64) for row in ids]

    def text(self, ids: Iterable[int]) -> list[str] | None:
        """Return the text of each label, the empty one for the blank; None for ``llm``.

        A byte that is no visible character by itself is written as ``<C3>``.
        """
        if self.vocabulary == "llm":
            return None
        return ["" if label == self.size else self._text(label) for label in ids]

    def tokens(self, ids: Iterable[int]) -> list[list[int]] | None:
        """Return the LLM's token of each label, none for the blank; None where the labels are not the LLM's."""
        return [[] if label == self.size else [label] for label in ids] if self.vocabulary == "llm" else None

    def stats(self) -> dict[str, Tensor]:
        """Return how many characters the last transcripts lost, where the vocabulary can lose any."""
        return {"ctc_dropped_characters": torch.tensor(self.dropped)} if self.vocabulary == "characters" else {}

    def _text(self, label: int) -> str:
        if self.vocabulary == "bytes":
            return chr(label) if 32 <= label < 127 else f"<{label:02X}>"
        if self.vocabulary == "characters":
            return self.alphabet[label]
        return str(self._tokenizer.decode([label], skip_special_tokens=False))

    def _spell(self, text: str) -> list[int]:
        """Return the ids of a text's characters; words keep one space between them where the alphabet has one."""
        known = set(self.alphabet)
        words = unicodedata.normalize("NFC", text.lower()).split()
        spelled = ["".join(character for character in word if character in known) for word in words]
        self.dropped += sum(len(word) for word in words) - sum(len(word) for word in spelled)
        joined = (" " if " " in known else "").join(word for word in spelled if word)
        return [self.alphabet.index(character) for character in joined]


def _check_alphabet(alphabet: str) -> str:
    alphabet = unicodedata.normalize("NFC", alphabet)
    twice = sorted({character for character in alphabet if alphabet.count(character) > 1})
    if not alphabet or twice or alphabet != alphabet.lower():
        problem = f"has {twice} more than once" if twice else f"is '{alphabet}'"
        msg = f"`alphabet` must be characters in lower case, each once, but {problem}."
        raise UserError(msg)
    return alphabet


def _read_tokenizer(path: Path) -> Any:
    from tokenizers import Tokenizer

    if not path.is_file():
        msg = f"There is no tokenizer file '{path}' for the CTC vocabulary. Give {', '.join(VOCABULARIES)}, or a file."
        raise UserError(msg)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises a bare Exception
        msg = f"'{path}' is not a tokenizer.json of the Hugging Face tokenizers library: {error}"
        raise UserError(msg) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
