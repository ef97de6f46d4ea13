"""``speechllm prepare``: write a corpus's manifests ahead of training."""

import inspect
import json
from pathlib import Path
from typing import Any

from speechllm.errors import UserError, did_you_mean

CORPORA = {
    "must_c": "MustCDataModule",
    "covost2": "CoVoST2DataModule",
    "synthetic": "SyntheticDataModule",
    "table": "TableDataModule",
}
"""Datamodule of each corpus that can be prepared, in :mod:`speechllm.data`."""


def prepare(
    corpus: str,
    root: Path,
    out: Path | None = None,
    source: str | None = None,
    targets: list[str] | None = None,
    pairs: list[str] | None = None,
    version: str | None = None,
    clean_transcript: bool | None = None,
    target: str | None = None,
    train: str | None = None,
    dev: str | None = None,
    test: str | None = None,
) -> None:
    """Write the manifests of a corpus, and print what they hold and what was rejected.

    Training does the same when it finds none. Manifests that are there and current stay as they are. An option that is
    not given has the default of the corpus's datamodule.

    Args:
        corpus: Corpus: must_c, covost2, synthetic, which is written where it is absent, or table, for one's own files.
        root: Folder of the corpus.
        out: Folder of the manifests; where recipes look for them, below ROOT/manifests, if not given.
        source: Language that is spoken (must_c; table, for rows that do not say).
        targets: Languages of the translations (must_c, synthetic).
        pairs: Language pairs, such as en_de (covost2).
        version: Release of the corpus, such as v1 (must_c).
        clean_transcript: Whether to take annotations such as (Laughter) out of transcripts (must_c).
        target: Language of the column `translation`, for rows that do not say (table).
        train: Table to train on, named from ROOT (table); train.csv, train.tsv or train.jsonl if not given.
        dev: Table to validate on, likewise (table).
        test: Table to score, likewise (table).

    Raises:
        UserError: If the corpus is unknown, does not take an option, or is not in its folder.
    """
    if corpus not in CORPORA:
        msg = f"Unknown corpus '{corpus}'.{did_you_mean(corpus, CORPORA)} Known: {', '.join(CORPORA)}."
        raise UserError(msg)
    import speechllm.data

    datamodule_class = getattr(speechllm.data, CORPORA[corpus])
    given = {
        "source": source,
        "targets": targets,
        "pairs": pairs,
        "version": version,
        "clean_transcript": clean_transcript,
        "target": target,
        "train": train,
        "dev": dev,
        "test": test,
    }
    options = {key: value for key, value in given.items() if value is not None}
    allowed = inspect.signature(datamodule_class).parameters
    if unknown := [key for key in options if key not in allowed]:
        takes = ", ".join(f"--{key}" for key in given if key in allowed)
        msg = f"The corpus {corpus} does not take {', '.join(f'--{key}' for key in unknown)}. It takes: {takes}."
        raise UserError(msg)
    datamodule = datamodule_class(root=str(root), manifest_dir=str(out) if out else None, **options)
    datamodule.prepare_data()
    print(_table(json.loads((datamodule.manifest_dir / "corpus.json").read_text(encoding="utf-8"))))
    print(f"Manifests: {datamodule.manifest_dir}")


def _table(summary: dict[str, Any]) -> str:
    lines = [f"{'split':<12}{'utterances':>12}{'hours':>10}{'rejected':>10}{'changed':>10}"]
    for name, split in summary["splits"].items():
        rejected, changed = (sum(split[key].values()) for key in ("rejected", "changed"))
        lines.append(f"{name:<12}{split['utterances']:>12,}{split['hours']:>10.2f}{rejected:>10,}{changed:>10,}")
        for key in ("rejected", "changed"):
            lines += [f"  {key}: {reason}: {count:,}" for reason, count in split[key].items()]
    return "\n".join(lines)
