"""Draw docs/images/compare_*.png: the pictures of the how-to page that compares systems.

Run it from the repository when the pictures change: ``python docs/draw_compare.py``. It takes some seconds.
"""

import contextlib
import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from speechllm.cli import main as speechllm

DOCS = Path(__file__).resolve().parent
TABLE_III = DOCS.parent / "tests" / "evaluation" / "comparison" / "table_iii.csv"


def main(folder: Path = DOCS / "images") -> None:
    """Compare the published systems of Table III, and those that the page invents.

    Args:
        folder: Where to.
    """
    page = (DOCS / "how-to" / "compare_systems.md").read_text(encoding="utf-8")
    code = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    with TemporaryDirectory() as place, contextlib.chdir(place):
        speechllm(["compare", "--published", str(TABLE_III), "--out", "published"])
        shutil.copy("published/quality_compression.png", folder / "compare_compression.png")
        names: dict[str, object] = {}
        for block in code:
            exec(block, names)
        shutil.copy("compare/by_duration_bleu.png", folder / "compare_duration.png")


if __name__ == "__main__":
    main()
