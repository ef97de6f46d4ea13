"""Tokenizers: a pretrained LLM's own, one from a file, or plain bytes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechllm.errors import UserError

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
SPECIAL_TOKENS = (PAD, BOS, EOS, "<|audio|>", "<|transcript|>", "<|translation|>")
"""Special tokens, in the order of their ids, of every tokenizer that this package makes."""
RESERVED_PADS = ("<|finetune_right_pad_id|>", "<|padding|>", PAD, "[PAD]")
"""Pieces that vocabularies reserve for padding without saying so; Llama 3.1 has the first, GPT-NeoX the second."""


def load_tokenizer(source: str, revision: str | None = None) -> Any:
    """Load a tokenizer.

    Args:
        source: ``bytes`` for one token a byte; a ``tokenizer.json``; a folder or name on the Hugging Face hub; or the
            JSON text of a tokenizer itself, which is how checkpoints of random-weight models carry it.
        revision: Git revision, for names on the hub.

    Returns:
        A Hugging Face tokenizer with pad and end-of-sequence tokens.

    Raises:
        UserError: If there is no tokenizer at ``source``, or it has no end-of-sequence token.
    """
    if source == "bytes":
        return _wrap(_byte_tokenizer())
    if source.startswith("{"):
        from tokenizers import Tokenizer

        return _wrap(Tokenizer.from_str(source))
    if source.endswith(".json"):
        return _wrap(_read(Path(source)))
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    except (OSError, ValueError) as error:
        msg = f"No tokenizer could be loaded from '{source}': {error}"
        raise UserError(msg) from error
    if tokenizer.eos_token_id is None:
        msg = f"The tokenizer of '{source}' has no end-of-sequence token, so that decoding could never end."
        raise UserError(msg)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = _find_pad(tokenizer)
    return tokenizer


def add_special_tokens(tokenizer: Any, tokens: Sequence[str]) -> list[int]:
    """Add the tokens that a tokenizer lacks, each split off wherever it stands in a text.

    Args:
        tokenizer: Hugging Face tokenizer; it is changed.
        tokens: Tokens, one after the other.

    Returns:
        Ids of the tokens that were added, one after the other from the first free id on.
    """
    from tokenizers import AddedToken

    missing = [token for token in tokens if token not in tokenizer.get_vocab()]
    if missing:
        tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in missing], True)
    return [tokenizer.get_vocab()[token] for token in missing]


def _find_pad(tokenizer: Any) -> str:
    """Return an existing token for padding (spec §12.3); it is masked everywhere, so that any id serves.

    Padding must not make the vocabulary larger than the LLM's embedding table. Where no piece is reserved for it, it is
    the unknown token, as paper A pads Mistral, or else end-of-sequence.
    """
    known = tokenizer.get_vocab()
    reserved = [token for token in RESERVED_PADS if token in known]
    return str([*reserved, *(token for token in (tokenizer.unk_token, tokenizer.eos_token) if token)][0])


def _byte_tokenizer() -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate((*SPECIAL_TOKENS, *alphabet))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _read(path: Path) -> Any:
    from tokenizers import Tokenizer

    if not path.is_file():
        msg = f"There is no tokenizer file '{path}'. Give a tokenizer.json, a folder, a name on the hub, or 'bytes'."
        raise UserError(msg)
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises a bare Exception
        msg = f"'{path}' is not a tokenizer.json of the Hugging Face tokenizers library: {error}"
        raise UserError(msg) from error


def _wrap(tokenizer: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    missing = [token for token in (PAD, BOS, EOS) if tokenizer.token_to_id(token) is None]
    if missing:
        msg = (
            f"The tokenizer lacks the special tokens {', '.join(missing)}; a tokenizer.json given by itself needs them."
        )
        raise UserError(msg)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS)
