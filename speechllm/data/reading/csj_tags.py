"""The tags of the Corpus of Spontaneous Japanese: from an annotated transcription to what was said.

- ``(F えー)``: a filler; ``(D こ)``, ``(D2 が)``: a word fragment, a repair.
- ``(? あれ,これ)``: hard to hear, with alternatives; ``(?)``: not to be heard.
- ``(W ミダリ;ヒダリ)``: as said, reduced or wrong, then as meant.
- ``(B シブタイ;ジュータイ)``: as misread, then as meant.
- ``(A エーユー;ＡＵ)``: as read, then in letters or digits.
- ``(K たち(F ん)ばな;橘)``: in kana because of what is inside, then as written otherwise.
- ``(M …)``, ``(O …)``, ``(R …)``, ``(X …)``, ``(L …)``: mentioned, foreign, names, other, whispered words.
- ``(笑 …)``, ``(泣 …)``, ``(咳 …)``, ``(あくび …)``: words said while laughing, crying, coughing, yawning.
- ``<笑>``, ``<H>`` and the like: no words.

Tags stand in each other, and reach over words and segments.
"""

import re
from collections import Counter
from dataclasses import dataclass

CHOICES = {"W": 1, "A": 1, "K": 1, "B": 0, "?": 0}
"""Which of the alternatives of a tag is taken, from 0; those of ``A`` that begin with a numeral are taken as read."""

DISFLUENT = ("F", "D", "D2")
"""Tags of what fluent speech does not have."""

KNOWN = {*CHOICES, *DISFLUENT, "M", "O", "R", "X", "L", "笑", "泣", "咳", "あくび"}
"""All tags that are known; the words in others are kept."""

NUMERALS = (*"０零一二三四五六七八九十百千．", "ゼロ")
"""What a reading in ``(A …;…)`` begins with where it is that of a number, such as 二千三."""

_PIECE = re.compile(
    r"<[^<>]*>|\((?:(?P<tag>[^()<>;, _]{1,4})[ _]|(?P<empty>[A-Z?][0-9]?)(?=\)))?|[^()<;, _]+|.", re.DOTALL
)


class TagError(ValueError):
    """Tags that do not close, or do not open; the message says which."""


@dataclass
class _Open:
    """A tag that is open.

    Attributes:
        name: Its name.
        text: The piece of transcription that opens it, for messages.
        taken: Which of its alternatives is taken, from 0.
        alternative: Which of them is being read.
        empty: Whether none of its words was read.
    """

    name: str
    text: str
    taken: int
    alternative: int = 0
    empty: bool = True


class TagResolver:
    """Resolves the tags of one speaker's transcription, given piece by piece.

    Args:
        fluent: Whether fillers, fragments and repairs are left out.

    Attributes:
        unknown: Tags that were met and are not known, counted by name.
    """

    def __init__(self, fluent: bool = False) -> None:
        self.fluent = fluent
        self.unknown: Counter[str] = Counter()
        self._open: list[_Open] = []

    def resolve(self, text: str) -> tuple[str, str]:
        """Return all words of a piece of transcription, and those that are kept; tags may stay open.

        Raises:
            TagError: If a tag is closed that is not open.
        """
        if not self._open and "(" not in text and "<" not in text and ")" not in text:
            plain = text.replace(" ", "")
            return plain, plain
        said, kept = [], []
        for found in _PIECE.finditer(text):
            piece = found[0]
            if piece[0] == "(":
                name = found["tag"] or found["empty"] or ""
                self._open.append(_Open(name, text, CHOICES.get(name, 0)))
                self.unknown[name] += name not in KNOWN
            elif piece == ")":
                self._close(text)
            elif self._divides(piece):
                self._open[-1].alternative += 1
            elif piece[0] != "<" and piece not in " _":
                self._choose(piece)
                if all(tag.alternative == tag.taken for tag in self._open):
                    said.append(piece)
                    if not self.fluent or not any(tag.name in DISFLUENT for tag in self._open):
                        kept.append(piece)
        return "".join(said), "".join(kept)

    def finish(self) -> None:
        """Check that no tag is left open.

        Raises:
            TagError: If one is.
        """
        if self._open:
            msg = f"the tag '({self._open[0].name}' in '{self._open[0].text}' is never closed"
            raise TagError(msg)

    def _close(self, text: str) -> None:
        if not self._open:
            msg = f"a tag is closed in '{text}' that was not opened"
            raise TagError(msg)
        self._open.pop()

    def _divides(self, piece: str) -> bool:
        """Return whether a character divides the alternatives of the innermost tag."""
        if not self._open or piece not in (";", ","):
            return False
        return (piece == ",") == (self._open[-1].name == "?") and self._open[-1].name in CHOICES

    def _choose(self, piece: str) -> None:
        """Take the reading of ``(A …;…)`` where it is that of a number, as its first word that counts shows."""
        for tag in reversed(self._open):
            if tag.name == "A" and tag.empty and tag.alternative == 0 and piece.startswith(NUMERALS):
                tag.taken = 0
            tag.empty = False
            if tag.alternative != tag.taken:
                return
