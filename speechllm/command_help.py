"""Help texts of commands: paragraphs to the width of the terminal, examples as their docstrings have them."""

import re
import textwrap

from jsonargparse import DefaultHelpFormatter


class HelpFormatter(DefaultHelpFormatter):
    """Wrap paragraphs, and leave lines that are indented or begin with ``$`` alone."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        filled = [_fill(paragraph, width, indent) for paragraph in re.split(r"\n{2,}", text)]
        return "\n\n".join(filled)


def _fill(paragraph: str, width: int, indent: str) -> str:
    lines = paragraph.splitlines()
    if all(line.startswith((" ", "$")) for line in lines):
        return "\n".join(indent + line for line in lines)
    return textwrap.fill(" ".join(lines), width, initial_indent=indent, subsequent_indent=indent)
