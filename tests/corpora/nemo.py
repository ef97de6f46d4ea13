"""NeMo manifests of recognition and translation over one long recording and over clips of their own."""

import json
from pathlib import Path

import soundfile

from tests.corpora import Expected, FakeCorpus
from tests.corpora.must_c import tone

AST = {"source_lang": "en", "target_lang": "de", "taskname": "ast", "pnc": "yes"}
ASR = {"source_lang": "en", "target_lang": "en", "taskname": "asr", "pnc": "yes"}


def write_manifest(path: Path, rows: list[dict]) -> Path:
    """Write rows as NeMo does, ASCII with escapes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def write_fake(root: Path) -> FakeCorpus:
    """Write two manifests to train on, beside the audio in ``lists``, and one each for dev and test."""
    (root / "lists/audio").mkdir(parents=True)
    soundfile.write(root / "lists/audio/talk.wav", tone(2.0, 300.0), 16_000)
    soundfile.write(root / "lists/audio/clip.flac", tone(0.75, 350.0, 48_000), 48_000)
    soundfile.write(root / "other.wav", tone(0.5, 400.0, 8_000), 8_000)
    talk, clip = "audio/talk.wav", "audio/clip.flac"
    write_manifest(
        root / "lists/asr.json",
        [
            {"audio_filepath": talk, "offset": 0.0, "duration": 0.5, "text": 'She said "yes.', **ASR},
            {"audio_filepath": talk, "offset": 0.75, "duration": 1.0, "text": "One\u2028line 😀.", "speaker": 7, **ASR},
            {"audio_filepath": clip, "duration": 0.75, "text": "A clip.", "lang": "en"},
        ],
    )
    write_manifest(
        root / "lists/ast.json",
        [
            {"audio_filepath": talk, "offset": 0.75, "duration": 1.0, "text": "Eine Zeile.", **AST},
            {"audio_filepath": talk, "offset": 1.75, "duration": 0.25, "text": "Nur übersetzt.", **AST},
        ],
    )
    dev = {
        "audio_filepath": clip,
        "duration": None,
        "source_lang": "en",
        "target_lang": "fr",
        "text": "Un «\u202fclip\u202f».",
    }
    write_manifest(root / "lists/dev_manifest.jsonl", [dev])
    write_manifest(
        root / "test.json",
        [
            {
                "audio_filepath": "other.wav",
                "duration": 0.5,
                "source_lang": "de",
                "target_lang": "en",
                "answer": "Other.",
            },
            {
                "audio_filepath": str(root / "lists/audio/clip.flac"),
                "duration": 0.75,
                "text": "",
                **ASR,
                "answer": "na",
            },
        ],
    )
    options = {
        "root": str(root),
        "train": ["lists/asr.json", "lists/ast.json"],
        "dev": "lists/dev_manifest.jsonl",
        "tasks": ["asr", "st", "asr+st"],
    }
    return FakeCorpus(
        options=options,
        splits={
            "train": [
                Expected("audio/talk.wav:0.000+0.500", 8_000, "en", 'She said "yes.'),
                Expected("audio/talk.wav:0.750+1.000", 16_000, "en", "One\u2028line 😀.", {"de": "Eine Zeile."}),
                Expected("audio/clip.flac", 12_000, "en", "A clip."),
                Expected("audio/talk.wav:1.750+0.250", 4_000, "en", "", {"de": "Nur übersetzt."}),
            ],
            "dev": [Expected("audio/clip.flac", 12_000, "en", "", {"fr": "Un «\u202fclip\u202f»."})],
            "test": [
                Expected("other.wav", 8_000, "de", "", {"en": "Other."}),
                Expected(str(root / "lists/audio/clip.flac"), 12_000, "en", ""),
            ],
        },
    )
