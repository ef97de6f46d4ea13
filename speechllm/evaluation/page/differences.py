"""Where a hypothesis differs from its reference, unit by unit, in a short code that the page draws."""

from collections.abc import Sequence

import jiwer

from speechllm.metrics.text import collapse_spaces

CHARACTER_LANGUAGES = ("ja", "km", "ko", "lo", "my", "th", "yue", "zh")
"""Languages whose units are characters, for their writing does not part words, or not as writers agree on."""

CODES = {"equal": "=", "substitute": "~", "insert": "+", "delete": "-"}
"""The letter of each edit, by jiwer's name."""


def by_character(language: str) -> bool:
    """Return whether the units of a language are characters; of all others they are words.

    Args:
        language: BCP-47 code of the text.
    """
    return language.split("-")[0] in CHARACTER_LANGUAGES


def find_differences(references: Sequence[str], hypotheses: Sequence[str], language: str) -> list[str]:
    """Align hypotheses with their references, as the metrics ``wer`` and ``cer`` do without a normalizer.

    Units are words between white space, or characters that are not white space, by :func:`by_character`. Of several
    alignments with the fewest edits it is the one that the metrics count.

    Args:
        references: What is right.
        hypotheses: What was written, one a reference.
        language: BCP-47 code of both.

    Returns:
        A code a hypothesis: runs of units from left to right, each as its length and ``=`` (the same in both), ``~``
        (substituted, as many in both), ``+`` (inserted, in the hypothesis alone) or ``-`` (deleted, in the reference
        alone). ``2=1~`` is two units that agree and one that does not. Empty where the texts agree and where the
        reference is empty, so that nothing can be compared.
    """
    pairs = [(collapse_spaces(r), collapse_spaces(h)) for r, h in zip(references, hypotheses, strict=True)]
    wanted = sorted(
        {(reference, hypothesis) for reference, hypothesis in pairs if reference and reference != hypothesis}
    )
    found = dict(zip(wanted, _align(wanted, by_character(language)), strict=True))
    return [found.get(pair, "") for pair in pairs]


def _align(pairs: Sequence[tuple[str, str]], characters: bool) -> list[str]:
    if not pairs:
        return []
    if characters:
        # Spaces between characters are no units: texts that differ in them alone have no difference.
        bare = [(reference.replace(" ", ""), hypothesis.replace(" ", "")) for reference, hypothesis in pairs]
        alignments = jiwer.process_characters([r for r, _ in bare], [h for _, h in bare]).alignments
    else:
        alignments = jiwer.process_words([r for r, _ in pairs], [h for _, h in pairs]).alignments
    return [_code(chunks) for chunks in alignments]


def _code(chunks: Sequence[jiwer.AlignmentChunk]) -> str:
    if all(chunk.type == "equal" for chunk in chunks):
        return ""
    lengths = [max(c.ref_end_idx - c.ref_start_idx, c.hyp_end_idx - c.hyp_start_idx) for c in chunks]
    return "".join(f"{length}{CODES[chunk.type]}" for length, chunk in zip(lengths, chunks, strict=True))
