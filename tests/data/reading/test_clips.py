"""Headers of clips, read by several processes, and what becomes of clips that cannot be read."""

import os
import signal

import pytest
import soundfile

from speechllm.data.manifest import Tally
from speechllm.data.reading.clips import with_durations
from speechllm.data.reading.headers import read_headers
from speechllm.data.reading.parallel import map_in_processes
from speechllm.data.utterance import Utterance
from speechllm.errors import UserError
from tests.corpora.must_c import tone

BROKEN = "clip is missing, empty or damaged"


def write(path, duration_s=0.3, rate=48_000):
    soundfile.write(path, tone(duration_s, 300.0, rate), rate, format="WAV" if path.suffix == ".wav" else "MP3")
    return path


def claim_frames(path, frames):
    """Have the header of an mp3 file claim a number of frames."""
    content = bytearray(path.read_bytes())
    at = max(content.find(b"Xing"), content.find(b"Info")) + 8
    content[at : at + 4] = frames.to_bytes(4, "big")
    path.write_bytes(content)


def utterance(path):
    return Utterance(str(path), str(path), 0.0, 0.0, "en", "")


def measured(paths, split="train", durations_s=None):
    tally = Tally()
    found = list(with_durations((utterance(path) for path in paths), split, tally, durations_s))
    return [(os.path.basename(one.id), one.duration_s, one.sampling_rate) for one in found], tally


@pytest.fixture
def clips(tmp_path):
    """Return right clips and wrong ones, one kind of damage each."""
    good, other = write(tmp_path / "good.mp3", 0.3), write(tmp_path / "other.wav", 0.5, 8_000)
    (tmp_path / "empty.mp3").touch()
    (tmp_path / "zeros.mp3").write_bytes(bytes(5_000))
    (tmp_path / "cut.mp3").write_bytes(good.read_bytes()[:100])
    claim_frames(write(tmp_path / "lies.mp3"), 0x8700)
    (tmp_path / "folder.mp3").mkdir()
    wrong = [tmp_path / f"{name}.mp3" for name in ("empty", "zeros", "cut", "lies", "folder", "absent", "NUL\x00")]
    return [good, *wrong, other]


def test_training_leaves_out_what_cannot_be_read(clips):
    for split in ("train", "dev"):
        found, tally = measured(clips, split)
        assert found == [("good.mp3", 0.3, 48_000), ("other.wav", 0.5, 8_000)]
        assert (tally.rejected, tally.changed) == ({BROKEN: 7}, {})


def test_test_sets_keep_their_size(clips):
    found, tally = measured(clips, "tst-COMMON")
    assert [name for name, *_ in found] == [path.name for path in clips]
    assert found[0] == ("good.mp3", 0.3, 48_000)
    assert {(duration_s, rate) for _, duration_s, rate in found[1:-1]} == {(1 / 16_000, 16_000)}
    assert (tally.rejected, tally.changed) == ({}, {f"{BROKEN}, and counts as silence": 7})


def test_a_split_without_a_single_clip_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"None of the 2 clips of the split 'test' exists; the first is '.*0\.mp3'"):
        measured([tmp_path / "0.mp3", tmp_path / "1.mp3"], "test")
    (tmp_path / "1.mp3").touch()
    assert measured([tmp_path / "0.mp3", tmp_path / "1.mp3"])[1].rejected == {BROKEN: 2}
    assert measured([]) == ([], Tally())


def test_given_durations_save_opening_clips(tmp_path):
    paths = [tmp_path / f"{number}.mp3" for number in range(5)]
    paths[0].touch()
    paths[1].write_bytes(b"not audio, and never looked at")
    write(paths[2], 0.2, 32_000)
    write(paths[4], 0.4, 24_000)
    given = {"0.mp3": 1.0, "1.mp3": 1.25, "2.mp3": 1.5, "3.mp3": 1.75}
    found, tally = measured(paths, durations_s=given)
    assert found == [("1.mp3", 1.25, 48_000), ("2.mp3", 1.5, 32_000), ("4.mp3", 0.4, 24_000)]
    assert tally.rejected == {BROKEN: 2}


def test_utterances_are_taken_as_they_are_needed(tmp_path):
    path, taken = write(tmp_path / "0.wav"), []

    def endless():
        while True:
            taken.append(1)
            yield utterance(path)

    found = with_durations(endless(), "train", Tally())
    assert [next(found).duration_s for _ in range(600)] == [0.3] * 600
    assert len(taken) < 20_000
    found.close()


def test_headers_come_in_order_from_several_processes(clips):
    expected = [0.3, *[None] * 7, 0.5]
    paths = [str(path) for path in clips]
    assert [info and info.duration_s for info in read_headers(paths)] == expected
    many = [info and info.duration_s for info in read_headers(paths * 100)]
    assert many == expected * 100


def square_and_process(number):
    return number * number, os.getpid()


def die_at_7(number):
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("count", [0, 1, 5, 6, 7, 50])
def test_results_are_those_of_the_function_in_order(count):
    found = list(map_in_processes(square_and_process, range(count), chunk=3, processes=2))
    assert [square for square, _ in found] == [number * number for number in range(count)]
    assert ({process for _, process in found} <= {os.getpid()}) == (count < 6)


def test_a_process_that_is_killed_is_an_error_of_the_user():
    with pytest.raises(UserError, match="A process that reads audio was killed"):
        list(map_in_processes(die_at_7, range(50), chunk=2, processes=2))
