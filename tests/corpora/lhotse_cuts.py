"""Manifests that lhotse itself writes: recordings with supervisions, cuts of them, and cuts of two channels."""

from pathlib import Path

import numpy as np
import soundfile
from lhotse import CutSet, MonoCut, MultiCut, Recording, RecordingSet, SupervisionSegment, SupervisionSet

from tests.corpora import Expected, FakeCorpus
from tests.corpora.must_c import tone


def recording(path: Path) -> Recording:
    """Return lhotse's recording of a file; its id is the file's stem."""
    return Recording.from_file(path)


def supervision(name: str, of: str, start: float, duration: float, text: str | None, **fields) -> SupervisionSegment:
    """Return a supervision in English where ``fields`` do not say otherwise."""
    return SupervisionSegment(
        **{"channel": 0, "language": "English", "speaker": "s"} | fields,
        id=name,
        recording_id=of,
        start=start,
        duration=duration,
        text=text,
    )


def write_cuts(path: Path, cuts: list) -> Path:
    """Write cuts as lhotse does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    CutSet.from_cuts(cuts).to_file(path)
    return path


def write_fake(root: Path) -> FakeCorpus:
    """Write a talk, a clip and a conversation in two channels, and a manifest of each kind, plain or gzipped."""
    audio = root / "audio"
    audio.mkdir(parents=True)
    soundfile.write(audio / "talk.wav", tone(2.0, 300.0, 22_050), 22_050)
    soundfile.write(audio / "clip.flac", tone(0.75, 350.0), 16_000)
    soundfile.write(audio / "calls.wav", np.stack([tone(1.5, 300.0), tone(1.5, 500.0)], axis=1), 16_000)
    talk, clip, calls = (recording(audio / name) for name in ("talk.wav", "clip.flac", "calls.wav"))
    RecordingSet.from_recordings([talk, clip]).to_file(root / "my_recordings_train.jsonl.gz")
    SupervisionSet.from_segments(
        [
            supervision("talk-0", "talk", 0.0, 0.5, 'He said "yes.', custom={"translation": {"de": 'Er sagte "ja.'}}),
            supervision("talk-1", "talk", 0.5, 1.5, "A line\u2028in two.", custom={"translated_text": {"fr": "Une."}}),
            supervision("clip-0", "clip", 0.25, 0.5, "Una clip.", language="es"),
        ]
    ).to_file(root / "my_supervisions_train.jsonl.gz")
    cut = MonoCut("cut", start=0.5, duration=1.5, channel=0, recording=talk)
    cut.supervisions = [
        supervision("dev-0", "talk", 0.0, 0.5, "First.", custom={"translation": {"de": "Erstens.", "fr": ""}}),
        supervision("dev-1", "talk", 0.75, 0.5, "Second.", custom={"translation": {"de": "Zweitens."}}),
    ]
    write_cuts(root / "my_cuts_dev.jsonl", [cut])
    both = MultiCut("both", start=0.0, duration=1.5, channel=[0, 1], recording=calls)
    both.supervisions = [
        supervision("left", "calls", 0.0, 1.0, "Left.", channel=0),
        supervision("right", "calls", 0.5, 1.0, "Right.", channel=1, language="German"),
        supervision("all", "calls", 0.0, 1.5, "Both.", channel=[0, 1]),
    ]
    unlabelled = MonoCut("unlabelled", start=0.25, duration=0.5, channel=0, recording=clip)
    write_cuts(root / "lists/test.jsonl.gz", [both, unlabelled])
    return FakeCorpus(
        options={"root": str(root), "test": "lists/test.jsonl.gz", "source": "en", "tasks": ["asr", "st", "asr+st"]},
        splits={
            "train": [
                Expected("talk-0", 8_000, "en", 'He said "yes.', {"de": 'Er sagte "ja.'}),
                Expected("talk-1", 24_000, "en", "A line\u2028in two.", {"fr": "Une."}),
                Expected("clip-0", 8_000, "es", "Una clip."),
            ],
            "dev": [
                Expected("dev-0", 8_000, "en", "First.", {"de": "Erstens.", "fr": ""}),
                Expected("dev-1", 8_000, "en", "Second.", {"de": "Zweitens."}),
            ],
            "test": [
                Expected("left", 16_000, "en", "Left."),
                Expected("right", 16_000, "de", "Right."),
                Expected("all", 24_000, "en", "Both."),
                Expected("unlabelled", 8_000, "en", ""),
            ],
        },
    )
