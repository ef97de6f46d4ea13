"""The binding to espeak-ng: deterministic samples, plain text only, and messages for what it cannot do."""

import hashlib
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from speechllm.data.synthesis import espeak
from speechllm.errors import UserError

SENTENCE = "The teacher is reading a letter in the garden."


def digest(samples):
    return hashlib.sha256(samples.tobytes()).hexdigest()


@pytest.fixture
def engine():
    pytest.importorskip("espeakng_loader", reason="the espeak-ng wheel (extra quickstart) is not installed")


@pytest.mark.usefixtures("engine")
class TestSynthesize:
    def test_gives_speech_of_plausible_length_and_level(self):
        samples = espeak.synthesize(SENTENCE)
        assert samples.dtype == np.float32
        assert samples.ndim == 1
        assert 1.8 < len(samples) / espeak.ENGINE_RATE < 3.5
        assert 0.1 < np.abs(samples).max() <= 1.0

    @pytest.mark.parametrize("variant", ["", "f1", "m3", "victor", "caleb"])
    def test_does_not_depend_on_earlier_calls(self, variant):
        first = espeak.synthesize(SENTENCE, "en-us", variant)
        espeak.synthesize("Fünf Hunde und ein Fahrrad.", "de", "f2", words_per_minute=200, pitch=80)
        espeak.synthesize("Something else.", "en", "caleb")
        assert np.array_equal(first, espeak.synthesize(SENTENCE, "en-us", variant))

    def test_is_the_same_in_a_fresh_process(self):
        calls = [(SENTENCE, "en", variant, 150, 60) for variant in ("f1", "f2", "caleb")]
        program = (
            "import hashlib, runpy\n"  # the file alone: its package loads every corpus
            f"synthesize = runpy.run_path({espeak.__file__!r})['synthesize']\n"
            f"for call in {calls!r}: print(hashlib.sha256(synthesize(*call).tobytes()).hexdigest())"
        )
        there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        espeak.synthesize("Something else.")
        time.sleep(1.1)  # the engine seeds its noise with the second that it is loaded in
        assert there.stdout.split() == [digest(espeak.synthesize(*call)) for call in calls]

    def test_is_the_same_from_several_threads(self):
        alone = digest(espeak.synthesize(SENTENCE))
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(lambda _: digest(espeak.synthesize(SENTENCE)), range(8))) == {alone}

    def test_each_argument_changes_the_speech(self):
        calls = [
            {},
            {"voice": "en-gb-scotland"},
            {"variant": "m3"},
            {"words_per_minute": 130},
            {"pitch": 70},
        ]
        assert len({digest(espeak.synthesize(SENTENCE, **call)) for call in calls}) == len(calls)

    def test_a_faster_rate_is_shorter(self):
        slow, fast = (espeak.synthesize(SENTENCE, words_per_minute=rate) for rate in (120, 240))
        assert len(fast) < 0.7 * len(slow)

    def test_umlauts_are_read_as_utf8(self):
        assert len(espeak.synthesize("schön", "de")) < 1.3 * len(espeak.synthesize("schon", "de"))

    def test_markup_and_phoneme_brackets_are_ordinary_text(self):
        phonemes = espeak.synthesize("[[h@l'oU w'3:ld]]")
        assert not np.array_equal(phonemes, espeak.synthesize("hello world"))
        silence_s = (len(espeak.synthesize("no <break time='9s'/> pause"))) / espeak.ENGINE_RATE
        assert silence_s < 6

    def test_control_characters_carry_no_command(self):
        plain = espeak.synthesize("one 40S two")
        assert np.array_equal(plain, espeak.synthesize("one\x0140S two"))
        assert np.array_equal(espeak.synthesize("one two"), espeak.synthesize("one\0two"))

    @pytest.mark.parametrize("text", ["", "   ", "\n"])
    def test_nothing_to_speak_is_an_error(self, text):
        with pytest.raises(UserError, match="nothing to speak"):
            espeak.synthesize(text)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            ({"voice": "en-uss"}, r"voice 'en-uss'. Did you mean 'en-us'\?"),
            ({"variant": "f9"}, r"Unknown espeak-ng variant 'f9'"),
            ({"words_per_minute": 20}, r"words_per_minute=20 .* from 80 to 450"),
            ({"pitch": 100}, r"pitch=100 .* from 0 to 99"),
        ],
    )
    def test_bad_arguments_are_answered_with_what_is_allowed(self, call, message):
        with pytest.raises(UserError, match=message):
            espeak.synthesize(SENTENCE, **call)


@pytest.mark.usefixtures("engine")
def test_voices_and_variants_are_those_of_the_data_folder():
    assert {"en", "en-us", "en-gb-scotland", "de", "fr", "es", "it"} <= set(espeak.voices())
    assert {"f1", "f5", "m1", "m8"} <= set(espeak.variants())


def test_a_missing_engine_is_answered_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UserError, match=r"pip install 'speechllm\[quickstart\]'"):
        espeak._loader()
