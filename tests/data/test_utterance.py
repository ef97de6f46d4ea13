"""An utterance and its cut are the same thing."""

import pytest
from lhotse import CutSet

from speechllm.data.utterance import Utterance

UTTERANCE = Utterance(
    id="en-de_ted_1_000000",
    audio="/corpus/ted_1.wav",
    offset_s=16.08,
    duration_s=3.5,
    source_language="en",
    transcript="Thank you.",
    translations={"de": "Danke.", "zh-CN": "谢谢。"},
    speaker="spk.1",
    corpus="must_c",
    recording_duration_s=700.25,
    sampling_rate=16_000,
)


def test_cut_keeps_the_one_convention():
    cut = UTTERANCE.to_cut()
    (supervision,) = cut.supervisions
    assert (cut.start, cut.duration, cut.recording.duration) == (16.08, 3.5, 700.25)
    assert (supervision.text, supervision.language) == ("Thank you.", "en")
    assert supervision.custom["translation"] == {"de": "Danke.", "zh-CN": "谢谢。"}


def test_round_trip_through_a_cut_and_a_lhotse_file(tmp_path):
    assert Utterance.from_cut(UTTERANCE.to_cut()) == UTTERANCE
    CutSet.from_cuts([UTTERANCE.to_cut()]).to_file(tmp_path / "cuts.jsonl.gz")
    (cut,) = CutSet.from_file(tmp_path / "cuts.jsonl.gz")
    assert Utterance.from_cut(cut) == UTTERANCE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.update(duration=0.0), "duration is 0.0 s"),
        (lambda row: row.update(duration=float("nan")), "duration is nan s"),
        (lambda row: row.update(start=-1.0), "start is -1.0 s"),
        (lambda row: row.pop("id"), "field 'id' is missing"),
        (lambda row: row["supervisions"][0].pop("language"), "field 'language' is missing"),
        (lambda row: row.update(supervisions=[]), "exactly one supervision"),
        (lambda row: row.update(recording=None), "not a cut"),
    ],
)
def test_rows_that_are_no_utterance(change, message):
    row = UTTERANCE.to_cut().to_dict()
    change(row)
    with pytest.raises(ValueError, match=message):
        Utterance.from_row(row)
