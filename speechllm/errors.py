"""The one exception that a user can cause and the command line shows without a traceback."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user gave cannot work: what, what was given, what is allowed, what to do next.

    The command line prints the message alone and exits with status 2. Anything else that is raised is a defect of the
    program and keeps its traceback.
    """


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest of ``allowed``, or an empty string where none is near."""
    near = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""
