"""Draw docs/images/check.png: what `speechllm prepare --check` draws of the synthetic corpus with some damage done.

Run it from the repository when the picture changes: ``python docs/draw_check.py``. It takes about a minute.
"""

import contextlib
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import soundfile

from speechllm.data import SyntheticDataModule
from speechllm.data.doctor.check import check_corpus

PICTURE = Path(__file__).resolve().parent / "images" / "check.png"


def damage(train: Path) -> None:
    """Make one talk quiet and one silent, clip two others, and spoil a few texts.

    Args:
        train: Folder of a split in the layout of MuST-C.
    """
    talks = sorted((train / "wav").glob("*.wav"))
    for path, gain in zip(talks, (0.02, 0.002, 30, 30), strict=False):
        samples, rate = soundfile.read(path)
        soundfile.write(path, (samples * gain).clip(-1.0, 1.0), rate, subtype="PCM_16")
    lines = {code: (train / "txt" / f"train.{code}").read_text(encoding="utf-8").split("\n") for code in ("en", "de")}
    tenth = len(lines["en"]) // 10
    for row in range(tenth, tenth + 3):
        lines["en"][row] = " ".join(lines["en"][row : row + 5])  # the text of five sentences for the audio of one
    for row in range(2 * tenth, 2 * tenth + 5):
        lines["en"][row], lines["de"][row] = "Yes.", "Ja."
    lines["de"][3 * tenth] = "REMOVE"
    for code, texts in lines.items():
        (train / "txt" / f"train.{code}").write_text("\n".join(texts), encoding="utf-8", newline="\n")


def main(picture: Path = PICTURE, **sizes: int) -> None:
    """Write the corpus, damage it, check it, and keep the picture.

    Args:
        picture: Where to.
        sizes: Options of the synthetic corpus.
    """
    with TemporaryDirectory() as folder, contextlib.chdir(folder):  # the picture's title is the manifests' path
        data = SyntheticDataModule("corpus", **({"train_utterances": 2000} | sizes))
        data.prepare_data()
        damage(Path("corpus/en-de/data/train"))
        data.prepare_data()
        data.manifest_dir.rename("damaged")
        print(check_corpus(Path("damaged")))
        shutil.copy("damaged/check/check.png", picture)


if __name__ == "__main__":
    main()
