"""The picture of the page in the documentation."""

import runpy
from pathlib import Path

from tests.evaluation.page.browser import open_chromium

DOCS = Path(__file__).resolve().parents[3] / "docs"


def test_the_picture_can_be_drawn_anew(tmp_path):
    with open_chromium():
        pass  # or skip
    draw = runpy.run_path(str(DOCS / "draw_compare_page.py"))["main"]
    draw(tmp_path / "page.png")
    for picture in (tmp_path / "page.png", DOCS / "images" / "compare_page.png"):
        content = picture.read_bytes()
        assert content.startswith(b"\x89PNG")
        assert [int.from_bytes(content[at : at + 4], "big") for at in (16, 20)] == [1400, 900]
        assert 100_000 < len(content) < 300_000
