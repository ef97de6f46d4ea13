"""Fakes of the corpora as they lie on disk: one file a corpus, of the same name as its reader."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Expected:
    """An utterance as the reader must give it; ``samples`` are those of its clip at 16 kHz."""

    id: str
    samples: int
    source_language: str
    transcript: str
    translations: dict[str, str] = field(default_factory=dict)


@dataclass
class FakeCorpus:
    """A fake on disk: the options of its datamodule (``root`` among them) and what each of its splits must give."""

    options: dict[str, Any]
    splits: dict[str, list[Expected]]
