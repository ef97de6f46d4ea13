"""The synthetic corpus: MuST-C's layout, held-out voices and sentences, reproducible files, whole or not at all."""

import hashlib
import json
import shutil
import unicodedata

import numpy as np
import pytest
import soundfile
import torch

pytest.importorskip("espeakng_loader", reason="the espeak-ng wheel (extra quickstart) is not installed")

from tokenizers import Tokenizer

from speechllm.data.corpora import synthetic
from speechllm.data.corpora.must_c import MustC
from speechllm.data.corpora.synthetic import SyntheticDataModule, write_synthetic_corpus
from speechllm.data.reading.talks import read_segments
from speechllm.data.reading.text_files import read_lines
from speechllm.data.synthesis.espeak import synthesize
from speechllm.data.synthesis.synthetic_voices import VOICES
from speechllm.decoders.tokenizer import SPECIAL_TOKENS
from speechllm.errors import UserError

SIZES = {"train_utterances": 48, "dev_utterances": 4, "test_utterances": 8}
COUNTS = {"train": 48, "dev": 4, "tst-COMMON": 8}
MODULE = {**SIZES, "targets": ["de", "fr"], "num_workers": 0, "num_buckets": 2, "batch_seconds": 20.0}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpora") / "synthetic"
    write_synthetic_corpus(root, ["de", "fr"], **SIZES)
    return root


def digests(root):
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def segments(root, split, target="de"):
    """Yield the fields, both texts and the samples of each segment of a split."""
    folder = root / f"en-{target}" / "data" / split
    texts = [read_lines(folder / "txt" / f"{split}.{language}") for language in ("en", target)]
    for fields, *pair in zip(read_segments(folder / "txt" / f"{split}.yaml"), *texts, strict=True):
        samples, rate = soundfile.read(folder / "wav" / fields["wav"], dtype="float32")
        start, length = (round(float(fields[key]) * rate) for key in ("offset", "duration"))
        yield fields, *pair, samples[start : start + length], len(samples) - start


class TestCorpus:
    def test_has_the_layout_of_must_c_v2(self, root):
        for target in ("de", "fr"):
            for split, count in COUNTS.items():
                rows = list(segments(root, split, target))
                assert len(rows) == count
                assert all(set(row[0]) == {"duration", "offset", "rW", "uW", "speaker_id", "wav"} for row in rows)
                assert all(int(row[0]["rW"]) == len(row[1].split()) for row in rows)
        wavs = [soundfile.info(path) for path in root.rglob("*.wav")]
        assert {(wav.samplerate, wav.channels, wav.subtype) for wav in wavs} == {(16_000, 1, "PCM_16")}

    def test_speech_is_of_sane_length_and_level(self, root):
        for split in COUNTS:
            for fields, text, _, samples, rest in segments(root, split):
                assert len(samples) <= rest, "a segment runs past its talk"
                seconds_per_word = float(fields["duration"]) / len(text.split())
                assert 0.15 < seconds_per_word < 0.6
                assert 0.25 < np.abs(samples).max() < 1.0
                assert 0.01 < np.sqrt(np.mean(samples**2)) < 0.3

    def test_segments_hold_the_speech_and_pauses_the_noise(self, root):
        for fields, _, _, samples, _ in segments(root, "train"):
            assert float(fields["offset"]) >= 0.1
            edge = np.sqrt(np.mean(samples[:480] ** 2))
            assert 0 < edge < 0.2 * np.sqrt(np.mean(samples**2))

    def test_sentences_and_voices_are_held_out(self, root):
        rows = {split: list(segments(root, split)) for split in COUNTS}
        sentences = {split: [row[1] for row in rows[split]] for split in rows}
        assert {split: len(texts) for split, texts in sentences.items()} == COUNTS
        held_out = {*sentences["dev"], *sentences["tst-COMMON"]}
        assert len(held_out) == COUNTS["dev"] + COUNTS["tst-COMMON"]
        assert held_out.isdisjoint(sentences["train"])
        voices = {split: {row[0]["speaker_id"] for row in rows[split]} for split in rows}
        assert voices["train"].isdisjoint(voices["dev"] | voices["tst-COMMON"])
        assert voices["dev"].isdisjoint(voices["tst-COMMON"])

    def test_one_talk_is_one_speaker(self, root):
        for split in COUNTS:
            speakers = {}
            for fields, *_ in segments(root, split):
                speakers.setdefault(fields["wav"], set()).add(fields["speaker_id"])
            assert all(len(voices) == 1 for voices in speakers.values())

    def test_partitions_share_audio_and_english(self, root):
        german, french = (list(segments(root, "tst-COMMON", target)) for target in ("de", "fr"))
        assert [row[1] for row in german] == [row[1] for row in french]
        assert [row[2] for row in german] != [row[2] for row in french]
        assert all(np.array_equal(one[3], other[3]) for one, other in zip(german, french, strict=True))

    def test_is_read_by_the_must_c_reader(self, root):
        corpus = MustC(root, "en", ["de"], version="v2")
        assert corpus.splits() == list(COUNTS)


def test_talks_are_of_dozens_of_sentences_and_every_voice_speaks_as_many():
    sentences = [{"en": str(number)} for number in range(600)]
    voices = VOICES["tst-COMMON"]
    talks = list(synthetic._talks(sentences, voices, np.random.default_rng(0)))
    assert [sentence for _, spoken in talks for sentence in spoken] == sentences
    assert {len(spoken) for _, spoken in talks} == {600 // 18, 600 // 18 + 1}
    assert {voice: sum(speaker == voice for speaker, _ in talks) for voice in voices} == dict.fromkeys(voices, 3)


def test_the_same_options_give_the_same_files_with_any_number_of_threads(tmp_path):
    sizes = {"train_utterances": 30, "dev_utterances": 1, "test_utterances": 1}
    threads = torch.get_num_threads()
    write_synthetic_corpus(tmp_path / "one", **sizes, seed=3)
    torch.set_num_threads(2)
    try:
        write_synthetic_corpus(tmp_path / "two", **sizes, seed=3)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    write_synthetic_corpus(tmp_path / "other", **sizes, seed=4)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert read_train(tmp_path / "one") != read_train(tmp_path / "other")


def read_train(root):
    return (root / "en-de/data/train/txt/train.en").read_text()


class TestWriting:
    def test_a_corpus_that_is_there_is_left_alone(self, root, monkeypatch):
        before = digests(root)
        monkeypatch.setattr(synthetic, "speak_talk", None)
        write_synthetic_corpus(root, ["de", "fr"], **SIZES)
        assert digests(root) == before

    def test_other_options_are_an_error_that_names_them(self, root):
        with pytest.raises(UserError, match=r"dev_utterances=4 \(asked for: 5\), corpus_seed=0 \(asked for: 1\)"):
            write_synthetic_corpus(root, ["de", "fr"], **{**SIZES, "dev_utterances": 5}, seed=1)

    def test_a_folder_of_other_files_is_an_error(self, tmp_path):
        (tmp_path / "thesis.txt").write_text("years of work")
        with pytest.raises(UserError, match="holds other files"):
            write_synthetic_corpus(tmp_path, **SIZES)
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]

    def test_an_interrupted_run_leaves_nothing(self, tmp_path, monkeypatch):
        def interrupted(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(synthetic, "train_tokenizer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_synthetic_corpus(tmp_path / "new", train_utterances=10, dev_utterances=1, test_utterances=1)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"targets": ["dee"]}, r"no translations into 'dee'. Did you mean 'de'\?"),
            ({"targets": []}, "at least one target language"),
            ({"targets": ["de", "de"]}, "each once"),
            ({"train_utterances": 0}, "`train_utterances` must be at least 1, but is 0"),
            ({"vocabulary_size": 100}, "`vocabulary_size` must be at least 262"),
        ],
    )
    def test_bad_options_are_answered_before_anything_is_written(self, tmp_path, options, message):
        with pytest.raises(UserError, match=message):
            write_synthetic_corpus(tmp_path / "new", **options)
        assert list(tmp_path.iterdir()) == []


class TestVoices:
    def test_there_are_at_least_40_and_held_out_variants_are_heard_nowhere_else(self):
        assert len({voice for voices in VOICES.values() for voice in voices}) >= 40
        variants = {split: {voice.variant for voice in voices} for split, voices in VOICES.items()}
        assert variants["train"].isdisjoint(variants["dev"] | variants["tst-COMMON"])
        assert variants["dev"].isdisjoint(variants["tst-COMMON"])

    def test_each_speaks_in_its_own_way_and_none_is_silent_or_clipped(self):
        sentence = "Does the neighbor clean the yellow window on Sunday?"
        spoken = {
            voice: synthesize(sentence, voice.accent, voice.variant) for split in VOICES.values() for voice in split
        }
        assert len({samples.tobytes() for samples in spoken.values()}) == len(spoken)
        for samples in spoken.values():
            assert 2.0 < len(samples) / 22_050 < 3.5
            assert np.sqrt(np.mean(samples**2)) > 0.02
            assert np.mean(np.abs(samples) > 0.999) < 1e-3


class TestTokenizer:
    def test_special_tokens_come_first_in_the_order_of_the_decoders(self, root):
        tokenizer = Tokenizer.from_file(str(root / "tokenizer.json"))
        assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == list(range(6))
        assert 262 < tokenizer.get_vocab_size() <= 512

    def test_spells_every_sentence_and_any_other_text(self, root):
        tokenizer = Tokenizer.from_file(str(root / "tokenizer.json"))
        texts = [text for split in COUNTS for row in segments(root, split) for text in row[1:3]]
        for text in [*texts, "Grüße an Zoë: 日本語, naïve  🙂\n"]:
            assert tokenizer.decode(tokenizer.encode(text).ids) == text
        assert max(len(tokenizer.encode(text).ids) for text in texts) < 40
        split_umlaut = unicodedata.normalize("NFD", "für")
        assert tokenizer.encode(split_umlaut).ids == tokenizer.encode("für").ids


class TestDataModule:
    def test_writes_the_corpus_and_gives_batches(self, root, tmp_path):
        shutil.copytree(root, tmp_path / "copy")
        data = SyntheticDataModule(str(tmp_path / "copy"), **MODULE)
        data.prepare_data()
        summary = json.loads((data.manifest_dir / "corpus.json").read_text())["splits"]
        assert all(not split["changed"] and not split["rejected"] for split in summary.values())
        data.setup("fit")
        batch = next(iter(data.train_dataloader()))
        assert set(batch.tasks) == {"asr+st"}
        assert set(batch.target_languages) <= {"de", "fr"}
        pairs = {(row[1], row[2]) for target in ("de", "fr") for row in segments(root, "train", target)}
        assert set(zip(batch.transcripts, batch.translations, strict=True)) <= pairs
        data.setup("test")
        test = [batch for batch in data.test_dataloader()]
        assert sum(len(batch) for batch in test) == 2 * COUNTS["tst-COMMON"]
        assert {corpus for batch in test for corpus in batch.corpora} == {"synthetic.tst-COMMON"}

    def test_writes_what_is_not_there(self, tmp_path, monkeypatch):
        asked = {}
        monkeypatch.setattr(
            synthetic, "write_synthetic_corpus", lambda root, **options: asked.update(options, root=root)
        )
        monkeypatch.setattr(synthetic.MustCDataModule, "prepare_data", lambda self: None)
        SyntheticDataModule(str(tmp_path / "new"), **SIZES, corpus_seed=7).prepare_data()
        assert asked == {**SIZES, "root": tmp_path / "new", "targets": ["de"], "seed": 7, "vocabulary_size": 512}

    def test_other_options_than_on_disk_are_an_error(self, root):
        with pytest.raises(UserError, match=r"corpus_seed=0 \(asked for: 1\)"):
            SyntheticDataModule(str(root), **MODULE, corpus_seed=1).prepare_data()

    def test_records_the_options(self, root):
        record = json.loads((root / "synthetic.json").read_text())
        assert record == {"format": 1, "targets": ["de", "fr"], **SIZES, "corpus_seed": 0, "vocabulary_size": 512}
