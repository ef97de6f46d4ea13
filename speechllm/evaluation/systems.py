"""Systems to compare: what each wrote about the same utterances, from run folders and from files of any origin."""

from dataclasses import dataclass, field
from typing import Any

from speechllm.predictions import Prediction


@dataclass
class System:
    """What one system wrote.

    Attributes:
        name: Name in tables; unique within its group.
        predictions: What it wrote, an entry an utterance, task and target language.
        group: Systems of one group stand together, and the best of them is marked; may be empty.
        run: Contents of its ``run.json``; empty where there is none.
        source: File or folder that it was read from.
    """

    name: str
    predictions: list[Prediction]
    group: str = ""
    run: dict[str, Any] = field(default_factory=dict)
    source: str = ""
