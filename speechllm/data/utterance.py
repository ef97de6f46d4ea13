"""One utterance as every corpus gives it, and its one form as a lhotse cut."""

import json
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechllm.errors import UserError

if TYPE_CHECKING:  # takes a second, and readers of manifests do without
    from lhotse import MonoCut


@dataclass
class Utterance:
    """A stretch of an audio file with its transcript and translations.

    As a lhotse cut: the recording is the whole file (a talk, for instance) and the cut its stretch; the one
    supervision has the *transcript* in ``text`` with the source language in ``language``, and the translations in
    ``custom["translation"][<language>]``; the corpus stands in the cut's ``custom["corpus"]``.

    Attributes:
        id: Unique within its split.
        audio: Path of the audio file.
        offset_s: Where the utterance begins in the file, in seconds.
        duration_s: Duration in seconds, above 0.
        source_language: BCP-47 code of what is spoken.
        transcript: Text in the source language; empty where there is none.
        translations: Text by BCP-47 code of the target language.
        speaker: Speaker, or talk where the corpus knows no more.
        corpus: Name of the corpus.
        recording_duration_s: Duration of the whole file in seconds.
        sampling_rate: Sampling rate of the file in Hz.
        channel: Channel of the file that holds the utterance, from 0; None for the mean of all.
    """

    id: str
    audio: str
    offset_s: float
    duration_s: float
    source_language: str
    transcript: str
    translations: dict[str, str] = field(default_factory=dict)
    speaker: str = ""
    corpus: str = ""
    recording_duration_s: float = 0.0
    sampling_rate: int = 16_000
    channel: int | None = None

    def __post_init__(self) -> None:
        if not self.recording_duration_s:
            self.recording_duration_s = self.offset_s + self.duration_s

    def to_row(self) -> dict[str, Any]:
        """Return the utterance as one line of a lhotse cuts file; far faster than through lhotse's classes."""
        stem = Path(self.audio).stem
        channels = [0] if self.channel is None else list(range(max(2, self.channel + 1)))
        supervision: dict[str, Any] = {
            "id": self.id,
            "recording_id": stem,
            "start": 0.0,
            "duration": self.duration_s,
            "channel": self.channel or 0,
            "text": self.transcript,
            "language": self.source_language,
            "speaker": self.speaker,
            "custom": {"translation": self.translations},
        }
        recording: dict[str, Any] = {
            "id": stem,
            "sources": [{"type": "file", "channels": channels, "source": self.audio}],
            "sampling_rate": self.sampling_rate,
            "num_samples": round(self.recording_duration_s * self.sampling_rate),
            "duration": self.recording_duration_s,
            "channel_ids": channels,
        }
        return {
            "id": self.id,
            "start": self.offset_s,
            "duration": self.duration_s,
            "channel": self.channel or 0,
            "supervisions": [supervision],
            "recording": recording,
            "custom": {"corpus": self.corpus},
            "type": "MonoCut",
        }

    def to_cut(self) -> "MonoCut":
        """Return the utterance as a lhotse cut of its recording."""
        from lhotse import MonoCut

        return MonoCut.from_dict(self.to_row())

    @classmethod
    def from_cut(cls, cut: "MonoCut") -> "Utterance":
        """Return the utterance that :meth:`to_cut` wrote.

        Raises:
            ValueError: If the cut has not exactly one supervision, or its audio is not one file.
        """
        return cls.from_row(cut.to_dict())

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "Utterance":
        """Return the utterance of one decoded line of a cuts file; far faster than through lhotse's classes.

        Raises:
            ValueError: If a field is missing or has a value that an utterance cannot have.
        """
        try:
            supervisions, sources = row["supervisions"], row["recording"]["sources"]
            if len(supervisions) != 1 or len(sources) != 1 or sources[0]["type"] != "file":
                msg = "a cut needs exactly one supervision, and a recording of one audio file"
                raise ValueError(msg)
            supervision = supervisions[0]
            utterance = cls(
                id=row["id"],
                audio=sources[0]["source"],
                offset_s=float(row["start"]),
                duration_s=float(row["duration"]),
                source_language=supervision["language"],
                transcript=supervision.get("text") or "",
                translations=dict((supervision.get("custom") or {}).get("translation") or {}),
                speaker=supervision.get("speaker") or "",
                corpus=(row.get("custom") or {}).get("corpus") or "",
                recording_duration_s=float(row["recording"]["duration"]),
                sampling_rate=int(row["recording"]["sampling_rate"]),
                channel=int(row["channel"]) if len(sources[0]["channels"]) > 1 else None,
            )
        except KeyError as error:
            msg = f"the field {error} is missing"
            raise ValueError(msg) from error
        except (TypeError, IndexError, AttributeError) as error:
            msg = f"not a cut: {error}"
            raise ValueError(msg) from error
        if not utterance.duration_s > 0:
            msg = f"the duration is {utterance.duration_s} s, and must be above 0"
            raise ValueError(msg)
        if utterance.offset_s < 0:
            msg = f"the start is {utterance.offset_s} s, and must not be below 0"
            raise ValueError(msg)
        return utterance


def parse_row(line: str | bytes, path: Path, number: int) -> Utterance:
    """Return the utterance of one line.

    Args:
        line: The line.
        path: The manifest, for the message.
        number: The line's number from 1, for the message.

    Raises:
        UserError: If the line does not hold an utterance.
    """
    try:
        return Utterance.from_row(json.loads(line))
    except ValueError as error:
        msg = f"{path}, row {number}: {error if line.strip() else 'the row is empty'}."
        raise UserError(msg) from error


def to_nfc(utterance: Utterance, split: str) -> bool:
    """Bring an utterance's transcript to Unicode NFC, in ``train`` its translations too; return whether any changed.

    Translations of other splits are references, which stay as the corpus has them.
    """
    before = (utterance.transcript, dict(utterance.translations))
    utterance.transcript = unicodedata.normalize("NFC", utterance.transcript)
    if split == "train":
        utterance.translations = {
            code: unicodedata.normalize("NFC", text) for code, text in utterance.translations.items()
        }
    return before != (utterance.transcript, utterance.translations)
