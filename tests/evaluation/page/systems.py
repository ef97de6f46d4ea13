"""Three systems with recordings, made by hand: what is right and wrong with each is counted below."""

import dataclasses

import numpy as np
import soundfile

from speechllm.evaluation.systems import System
from tests.evaluation.predicted import predicted

RATE = 8_000
EVIL = '<img src=x onerror="window.struck=1"> </script><script>window.struck=2</script> <!-- \u2028 {{script}} &amp;'


def write_talk(path, seconds=10):
    """Write a talk whose second ``n`` has the constant value ``n / 20``, so that a cut tells where it was made."""
    soundfile.write(path, np.repeat(np.arange(seconds) / 20, RATE), RATE, subtype="PCM_16")


def make_systems(folder):
    """Return three systems, and write the talk that they heard.

    Words of the transcripts and errors in them; in Japanese, characters:

    =====  ======  =====  =====  =====
    row    words   good   fair   poor
    =====  ======  =====  =====  =====
    u0     4       0      1      2
    u1     3       0      0      1
    u2 ja  4       0      1      2
    u4     2       2      0      2
    evil   2       0      7      0
    =====  ======  =====  =====  =====
    """
    write_talk(folder / "talk 1.wav")
    shared = [
        predicted(0, reference_transcript="the quick brown fox", duration_s=1.0),
        predicted(
            1,
            reference_transcript="Ärger im Büro",
            source_language="de",
            target_language="de",
            speaker="bert",
            duration_s=1.0,
        ),
        predicted(2, reference_transcript="東京は雨", source_language="ja", target_language="ja", duration_s=1.5),
        predicted(
            3,
            task="st",
            target_language="de",
            reference_transcript="the dog barks",
            reference_translation="der Hund bellt laut",
            corpus="other",
            duration_s=1.0,
        ),
        predicted(4, reference_transcript="good night", speaker="bert", duration_s=0.4),
        predicted(
            5, id=f"evil {EVIL}", reference_transcript="hello world", speaker=EVIL, readable=False, duration_s=1.0
        ),
    ]
    talk = str(folder / "talk 1.wav")
    shared = [dataclasses.replace(one, recording=talk, offset_s=float(row)) for row, one in enumerate(shared)]
    written = {
        "good": ["the quick brown fox", "Ärger im Büro", "東京は雨", "der Hund bellt laut", "", "hello world"],
        "fair": ["the quick red fox", "Ärger im Büro", "東京は雪", "der Hund bellt leise", "good night", EVIL],
        "poor": ["the brown brown fox jumps", "Ärger im", "京は雨だ", "Hund", "good good night now", "hello world"],
    }
    systems = []
    for name, texts in written.items():
        predictions = [with_text(one, text) for one, text in zip(shared, texts, strict=True)]
        systems.append(System(name, predictions))
    systems[2].predictions[4].hit_limit = True
    systems[2].predictions.reverse()  # rows are matched by what they are, not by where they stand
    return systems


def with_text(prediction, text):
    """Return a prediction of the same utterance with another answer."""
    side = "hypothesis_translation" if prediction.task == "st" else "hypothesis_transcript"
    return dataclasses.replace(prediction, text=text, **{side: text, _other(side): ""})


def _other(side):
    return "hypothesis_transcript" if side == "hypothesis_translation" else "hypothesis_translation"
