"""Draw docs/images/compare_page.png: the page of ``speechllm compare`` in a browser, with invented sentences.

Run it from the repository when the page changes: ``python docs/draw_compare_page.py``. It needs Chromium.
"""

import contextlib
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile
from playwright.sync_api import sync_playwright

from speechllm.evaluation.page.page import write_page
from speechllm.evaluation.systems import System
from speechllm.predictions import Prediction

PICTURE = Path(__file__).resolve().parent / "images" / "compare_page.png"

SPECS = [{"name": "mer"}, {"name": "chrf"}]

SYSTEMS = ("conv", "base", "ctc")

SENTENCES = [
    # Speaker, source language, target language, transcript, translation, and what the systems wrote.
    (
        "harbour",
        "en",
        "de",
        "The ferry to the northern islands leaves at a quarter past nine.",
        "Die Fähre zu den nördlichen Inseln legt um Viertel nach neun ab.",
        [
            "Die Fähre zu den nördlichen Inseln legt um Viertel nach neun ab.",
            "Die Fähre zu den Inseln im Norden fährt um Viertel nach neun.",
            "Der Ferry zu den nördlichen Inseln lebt um neun Uhr ab.",
        ],
    ),
    (
        "harbour",
        "en",
        "",
        "We counted seven hundred terns on the sandbank before the tide came in.",
        "",
        [
            "We counted seven hundred terns on the sandbank before the tide came in.",
            "We counted seven hundred turns on the sand bank before the tide came in.",
            "We count seven hundred turns on a sandbank before the tide, before the tide came in.",
        ],
    ),
    (
        "observatory",
        "zh",
        "",
        "望远镜在山顶上，每天晚上都有人值班。",
        "",
        [
            "望远镜在山顶上，每天晚上都有人值班。",
            "望远镜在山顶，每天晚上都有人直班。",
            "望远镜在上顶上，每天都有人值班。",
        ],
    ),
    (
        "observatory",
        "en",
        "ar",
        "The mirror is cleaned once a year.",
        "تُنظَّف المرآة مرة واحدة في السنة.",
        ["تُنظَّف المرآة مرة واحدة في السنة.", "تُنظَّف المرآة مرة في العام.", ""],
    ),
    (
        "kitchen",
        "de",
        "",
        "Der Teig muss über Nacht im Kühlschrank ruhen.",
        "",
        [
            "Der Teig muss über Nacht im Kühlschrank ruhen.",
            "Der Teig muss über Nacht im Kühlschrank ruhen.",
            "Der Teich muss über Nacht im Kühlschrank rufen.",
        ],
    ),
    (
        "kitchen",
        "en",
        "fr",
        "Stir the lentils slowly and add the lemon at the very end.",
        "Remuez doucement les lentilles et ajoutez le citron à la toute fin.",
        [
            "Remuez lentement les lentilles et ajoutez le citron à la toute fin.",
            "Remuez les lentilles lentement et ajoutez le citron à la fin.",
            "Remuez les lentilles et ajoutez les melons à la fin à la fin à la fin à la fin",
        ],
    ),
    (
        "station",
        "ja",
        "",
        "次の電車は三番線から出ます。",
        "",
        ["次の電車は三番線から出ます。", "次の電車は二番線から出ます。", "次の電車は三番線が出ます。"],
    ),
    (
        "station",
        "en",
        "",
        "Please keep your bicycle in the last carriage.",
        "",
        [
            "Please keep your bicycle in the last carriage.",
            "Please keep your bicycle in the last carriage.",
            "Please keep your bicycle in last marriage.",
        ],
    ),
]


def make_systems(folder: Path) -> list[System]:
    """Return the systems, and write a recording for each speaker.

    Args:
        folder: Where the recordings go.
    """
    offsets: dict[str, float] = {}
    systems = [System(name, []) for name in SYSTEMS]
    for row, (speaker, source, target, transcript, translation, answers) in enumerate(SENTENCES):
        offset, duration = offsets.get(speaker, 0.0), 0.07 * len(transcript) + 1.5
        offsets[speaker] = offset + duration + 0.4
        for system, answer in zip(systems, answers, strict=True):
            found = Prediction(
                id=f"{speaker}_{row + 1:04d}",
                row=row,
                corpus="field_notes",
                split="test",
                task="st" if target else "asr",
                source_language=source,
                target_language=target or source,
                reference_transcript=transcript,
                reference_translation=translation,
                hypothesis_transcript="" if target else answer,
                hypothesis_translation=answer if target else "",
                text=answer,
                duration_s=duration,
                decode_s=0.2,
                tokens=len(answer) // 3,
                readable=True,
                missing_separator=False,
                hit_limit=answer.count("à la fin") > 2,
                speaker=speaker,
                recording=str(folder / f"{speaker}.wav"),
                offset_s=offset,
            )
            system.predictions.append(found)
    for speaker, length in offsets.items():
        soundfile.write(folder / f"{speaker}.wav", 0.1 * np.sin(np.arange(int(16_000 * length)) / 12), 16_000)
    return systems


def main(picture: Path = PICTURE, **options: object) -> None:
    """Write the page, open it and keep a picture of it.

    Args:
        picture: Where to.
        options: Options of the browser's window that differ, such as ``color_scheme="dark"``.
    """
    with TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        page = write_page(Path(name), make_systems(Path(name)), SPECS, baseline="base")
        driver = stack.enter_context(sync_playwright())
        # Chromium's own sandbox does not start for root, as whom containers run; the page is ours.
        chromium = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        window = chromium.new_page(**({"viewport": {"width": 1400, "height": 900}} | options))
        window.goto(f"{page.as_uri()}#system=2")
        window.wait_for_selector("article")
        window.screenshot(path=picture)
        chromium.close()


if __name__ == "__main__":
    main()
