"""What a table is made of: one value of one system on one test set, whoever measured it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from speechllm.errors import UserError, did_you_mean
from speechllm.evaluation.significance import Comparison

Key = tuple[str, str]
"""Group and name of a system; together they are unique."""

SIGNIFICANT = 0.05
"""A difference with a smaller p-value is called significant (spec 17.4)."""


@dataclass(frozen=True)
class Result:
    """A figure of a system on a test set.

    Attributes:
        system: Group and name of the system.
        figure: Name of the figure, such as ``wer``.
        languages: Language (``en``) or pair (``en-de``) of the test set.
        value: The figure.
        unit: Its unit, as :class:`speechllm.metrics.base.Figure` lists them; empty where it is not known.
        higher_is_better: Its direction; None where neither is better.
        corpus: Corpus of the test set; empty where a publication does not say.
        split: Split of the test set; empty where a publication does not say.
        text: What was scored; empty where a publication does not say.
        printed: The value as a publication prints it; empty for what was measured here.
        signature: How it was computed; empty for published values.
        utterances: Number of utterances behind it; 0 for published values.
        interval: Its 95 % interval, where it was measured.
        comparison: Test against the baseline of its group, where it was made.
        significant: Whether it differs from the baseline; None where that was not tested.
    """

    system: Key
    figure: str
    languages: str
    value: float
    unit: str = ""
    higher_is_better: bool | None = None
    corpus: str = ""
    split: str = ""
    text: str = ""
    printed: str = ""
    signature: str = ""
    utterances: int = 0
    interval: tuple[float, float] | None = None
    comparison: Comparison | None = None
    significant: bool | None = None


def full_name(key: Key) -> str:
    """Return ``group/name``, or the name of a system without a group."""
    return f"{key[0]}/{key[1]}" if key[0] else key[1]


def in_groups(keys: Sequence[Key]) -> list[Key]:
    """Return systems group by group, groups in the order of their first system."""
    groups = list(dict.fromkeys(group for group, _ in keys))
    return sorted(dict.fromkeys(keys), key=lambda key: groups.index(key[0]))


def check_names(named: Sequence[tuple[Key, str]]) -> None:
    """Check that no two systems bear the same group and name.

    Args:
        named: Group and name of each system, and where it comes from.

    Raises:
        UserError: If two do; the message names both origins.
    """
    seen: dict[Key, str] = {}
    for key, origin in named:
        if key in seen:
            msg = (
                f"Two systems are called '{full_name(key)}': {seen[key]} and {origin}. "
                "Give them names of their own: `NAME=PATH` or `GROUP/NAME=PATH`."
            )
            raise UserError(msg)
        seen[key] = origin


def choose_baselines(keys: Sequence[Key], baseline: str | None) -> dict[Key, Key | None]:
    """Return what each system is compared with.

    A baseline's name is looked for in each group. ``GROUP/NAME`` means one system, the baseline of all. A group without
    a system of that name takes the only one there is; it has no baseline where there are several.

    Args:
        keys: Group and name of the systems.
        baseline: Name of the baseline; without one nothing is compared.

    Returns:
        By system, its baseline: None for baselines themselves and where there is none.

    Raises:
        UserError: If no system is called so.
    """
    if baseline is None:
        return dict.fromkeys(keys)
    exact = [key for key in keys if baseline == full_name(key) and key[0]]
    found = exact or [key for key in keys if key[1] == baseline]
    if not found:
        names = [name for group, name in keys] + [full_name(key) for key in keys if key[0]]
        msg = f"No system is called '{baseline}', the baseline.{did_you_mean(baseline, names)} "
        raise UserError(msg + f"Systems: {', '.join(full_name(key) for key in keys)}.")
    own = {} if exact else {group: (group, name) for group, name in found}
    fallback = found[0] if len(found) == 1 else None
    return {key: None if key in found else own.get(key[0], fallback) for key in keys}


def is_significant(comparison: Comparison, test: Literal["bootstrap", "randomization"]) -> bool | None:
    """Return whether a difference is more than chance; None where there is no p-value."""
    p_value = comparison.p_value(test)
    return None if p_value != p_value else p_value < SIGNIFICANT
