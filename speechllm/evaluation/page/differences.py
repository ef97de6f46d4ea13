"""Where a hypothesis differs from its reference, unit by unit, in a short code that the page draws."""

from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from speechllm.metrics.text import counted_by_characters, remove_spaces

CODES = {"equal": "=", "replace": "~", "insert": "+", "delete": "-"}
"""The letter of each edit, by rapidfuzz's name."""


def find_differences(references: Sequence[str], hypotheses: Sequence[str], language: str) -> list[str]:
    """Align hypotheses with their references, as the metrics ``wer`` and ``cer`` do without a normalizer.

    Units are words between white space, or characters that are not white space in the languages whose errors are
    counted by characters. Of several alignments with the fewest edits it is the one that the metrics count.

    Args:
        references: What is right.
        hypotheses: What was written, one a reference.
        language: BCP-47 code of both.

    Returns:
        A code a hypothesis: runs of units from left to right, each as its length and ``=`` (the same in both), ``~``
        (substituted, as many in both), ``+`` (inserted, in the hypothesis alone) or ``-`` (deleted, in the reference
        alone). ``2=1~`` is two units that agree and one that does not. Empty where the units agree and where the
        reference has none, so that nothing can be compared.
    """
    characters = counted_by_characters(language)
    return [
        _code(*(remove_spaces(text) if characters else text.split() for text in pair))
        for pair in zip(references, hypotheses, strict=True)
    ]


def _code(reference: Sequence[str], hypothesis: Sequence[str]) -> str:
    if not reference or reference == hypothesis:
        return ""
    # rapidfuzz compares the hashes of words, which may collide; those of numbers are the numbers
    numbers = {unit: number for number, unit in enumerate(dict.fromkeys([*reference, *hypothesis]))}
    edits = Levenshtein.opcodes([numbers[unit] for unit in reference], [numbers[unit] for unit in hypothesis])
    return "".join(f"{max(e.src_end - e.src_start, e.dest_end - e.dest_start)}{CODES[e.tag]}" for e in edits)
