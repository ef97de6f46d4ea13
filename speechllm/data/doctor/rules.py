"""What the corpus doctor looks for: reasons, how severe each is, and the limits from which they hold."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum

from speechllm.audio import HEADER_TOLERANCE_S
from speechllm.errors import UserError, did_you_mean

TRAIN = "train"
"""The one split that loses utterances; the others keep their size, and what is wrong with them is a warning."""


class Severity(StrEnum):
    """What becomes of an utterance: left out of training, to be looked at, or just counted."""

    EXCLUDE = "exclude"
    WARN = "warn"
    INFO = "info"


_EXCLUDE, _WARN, _INFO = Severity.EXCLUDE, Severity.WARN, Severity.INFO

REASONS: dict[str, tuple[Severity, str]] = {
    "missing file": (_EXCLUDE, "there is no such file"),
    "empty file": (_EXCLUDE, "the file has 0 bytes"),
    "not decodable": (_EXCLUDE, "the file cannot be opened as audio, or holds no samples"),
    "truncated or damaged": (_EXCLUDE, "less can be decoded than the file's header says, or the decoder gives up"),
    "crashes the decoder": (_EXCLUDE, "decoding ended the process, or did not end"),
    "past the end": (_EXCLUDE, "the utterance begins where the file has ended"),
    "shorter than the manifest says": (_EXCLUDE, "the file ends before the utterance does"),
    "no such channel": (_EXCLUDE, "the file has fewer channels"),
    "not finite": (_EXCLUDE, "samples are NaN or infinite"),
    "out of scale": (_EXCLUDE, "samples are far outside [-1, 1]"),
    "rate cannot be resampled": (_EXCLUDE, "the sampling rate has no simple ratio to 16 kHz"),
    "too short": (_EXCLUDE, "less audio than one analysis window of an encoder"),
    "silent": (_EXCLUDE, "the level is below that of speech"),
    "quiet": (_WARN, "speech would be hard to tell from noise"),
    "clipped": (_WARN, "many samples are at full scale"),
    "over-long": (_WARN, "longer than encoders take, or training does"),
    "rate differs from the manifest": (_WARN, "the file was converted since; prepare the corpus anew"),
    "rate unlike the rest": (_INFO, "the sampling rate of few other utterances"),
    "one silent channel": (_WARN, "the mean of all channels is half as loud; give the channel"),
    "DC offset": (_INFO, "the samples' mean is not 0"),
    "no text": (_EXCLUDE, "neither a transcript nor a translation"),
    "no transcript": (_INFO, "no transcript, though others of the split have one"),
    "no usable translation": (_EXCLUDE, "every translation is REMOVE or empty"),
    "translation REMOVE or empty": (_WARN, "one of several translations is"),
    "translation copies the transcript": (_EXCLUDE, "not translated"),
    "wrong script": (_EXCLUDE, "most letters are not of the language's script"),
    "control characters": (_WARN, "NUL, line ends or other invisible characters in a text"),
    "replacement character": (_WARN, "U+FFFD: a text was decoded wrongly before"),
    "garbled encoding": (_WARN, "UTF-8 that was read as Latin-1, such as Ã¼"),
    "markup": (_INFO, "HTML in a text, such as &quot; or <i>"),
    "transcript too long for its audio": (_EXCLUDE, "more characters a second than are spoken"),
    "transcript too short for its audio": (_WARN, "few characters a second: pauses, or speech that is not written"),
    "translation too long for its audio": (_EXCLUDE, "more characters a second than others"),
    "translation too short for its audio": (_WARN, "fewer characters a second than others"),
    "translation unlike its transcript in length": (_WARN, "the texts may belong to different utterances"),
    "duplicate id": (_WARN, "an earlier utterance of the split has the id"),
    "same stretch twice": (_WARN, "an earlier utterance has the same audio, and translations into the same languages"),
    "same audio in another file": (_INFO, "an earlier utterance of the split has the same samples"),
    "audio is also in another split": (_EXCLUDE, "the same samples are in dev or a test set"),
    "recording is also in another split": (_WARN, "an utterance of the same file"),
    "speaker is also in another split": (_WARN, "splits are not disjoint by speaker, or by talk"),
    "transcript is also in another split": (_INFO, "the same words"),
}
"""Reasons of findings: severity in ``train`` and what they mean. Elsewhere nothing is excluded."""


UNUSABLE_AUDIO = frozenset(
    {
        "missing file",
        "empty file",
        "not decodable",
        "truncated or damaged",
        "crashes the decoder",
        "past the end",
        "shorter than the manifest says",
        "no such channel",
        "not finite",
        "too short",
        "silent",
    }
)
"""Reasons to compare an utterance's audio and its length with nothing."""


@dataclass(frozen=True)
class Thresholds:
    """Limits of what counts as a finding.

    Attributes:
        tolerance_s: By how much less than promised may be decoded, in seconds: what reading for training forgives,
            since headers of mp3 files are estimates.
        min_duration_s: Shortest utterance, in seconds: one analysis window, below which no encoder has a frame.
        max_duration_s: Longest utterance, in seconds: what Whisper takes, and what training keeps by default.
        silent_rms_dbfs: RMS below which an utterance is silent. A microphone's own noise is at -70 to -60; speech at
            the lowest gain of any use is at about -50.
        silent_peak_dbfs: Peak below which an utterance is silent; speech peaks 12 to 20 dB above its RMS.
        quiet_rms_dbfs: RMS below which an utterance is quiet. Read speech is at -30 to -20.
        clipped_share: Share of samples at full scale from which an utterance is clipped. A recording that was brought
            to full scale has single ones; distortion is heard from about one in a thousand.
        dc_offset: Mean of the samples, of full scale 1, that counts as an offset: -34 dBFS, as loud as quiet speech.
        rare_rate_share: Share of the corpus below which a sampling rate is unlike the rest.
        max_chars_per_s: Characters without spaces that can be spoken in a second, in alphabetic scripts: 10 syllables
            of 4 letters, faster than any speaker.
        max_dense_chars_per_s: The same for Chinese, Japanese and Korean, where a character is a syllable or more.
        min_chars_per_s: Characters a second below which most of the audio is not in the text.
        outlier_z: Distance from the median of the logarithm, in robust standard deviations (1.4826 times the median
            absolute deviation), from which a text's length is an outlier among those of its language. Texts are far
            from normally distributed; 5 leaves the tails of clean corpora alone.
        min_spread: Smallest robust standard deviation of the logarithm that is believed: speakers differ by 20 % in
            their rates, where a corpus of few sentences may not.
        min_texts: Number of texts of a language from which outliers are looked for.
        copied_chars: Characters from which a translation that equals the transcript was not translated; shorter ones
            are names and exclamations.
        script_letters: Letters that a text needs before its script is judged.
        script_share: Share of letters that must be of the language's script; foreign names make up the rest.
    """

    tolerance_s: float = HEADER_TOLERANCE_S
    min_duration_s: float = 0.025
    max_duration_s: float = 30.0
    silent_rms_dbfs: float = -65.0
    silent_peak_dbfs: float = -50.0
    quiet_rms_dbfs: float = -50.0
    clipped_share: float = 0.001
    dc_offset: float = 0.02
    rare_rate_share: float = 0.05
    max_chars_per_s: float = 40.0
    max_dense_chars_per_s: float = 20.0
    min_chars_per_s: float = 0.5
    outlier_z: float = 5.0
    min_spread: float = 0.2
    min_texts: int = 100
    copied_chars: int = 20
    script_letters: int = 10
    script_share: float = 0.25

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if limit.name.endswith("_dbfs") and not value <= 0:
                msg = f"`{limit.name}` is {value}, and must be at most 0: full scale is 0 dBFS."
                raise UserError(msg)
            if not limit.name.endswith("_dbfs") and not value >= 0:
                msg = f"`{limit.name}` is {value}, and must be at least 0."
                raise UserError(msg)


@dataclass(frozen=True)
class Rules:
    """How severe each reason is.

    Attributes:
        thresholds: Limits from which reasons hold.
        severities: Severities that differ from :data:`REASONS`, by reason: ``{"clipped": "exclude"}``.
    """

    thresholds: Thresholds = field(default_factory=Thresholds)
    severities: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for reason, severity in self.severities.items():
            if reason not in REASONS:
                known = ", ".join(f"'{name}'" for name in REASONS)
                msg = f"Unknown reason '{reason}'.{did_you_mean(reason, REASONS)} Known: {known}."
                raise UserError(msg)
            if severity not in list(Severity):
                msg = f"The severity of '{reason}' is '{severity}', and must be one of: {', '.join(Severity)}."
                raise UserError(msg)

    def severity(self, reason: str, split: str) -> Severity:
        """Return the severity of a reason in a split: outside of ``train`` at most a warning."""
        severity = Severity(self.severities.get(reason, REASONS[reason][0]))
        return Severity.WARN if severity == Severity.EXCLUDE and split != TRAIN else severity
