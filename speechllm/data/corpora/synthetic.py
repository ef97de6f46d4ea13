"""A speech translation corpus of our own: sentences of a grammar, spoken by espeak-ng, in the layout of MuST-C.

It is written in about a minute, needs no download, and is read by the same code as the real corpus.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tqdm import tqdm

from speechllm.batch import SAMPLE_RATE
from speechllm.data.corpora.must_c import MustCDataModule
from speechllm.data.synthesis.grammar import split_sentences
from speechllm.data.synthesis.lexicon import LANGUAGES
from speechllm.data.synthesis.sentence_patterns import Sentence
from speechllm.data.synthesis.synthetic_voices import VOICES, Voice, speak_talk
from speechllm.errors import UserError, did_you_mean

SOURCE = "en"
TARGETS = tuple(language for language in LANGUAGES if language != SOURCE)
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<|audio|>", "<|transcript|>", "<|translation|>")
"""Special tokens of the corpus's tokenizer, in the order of their ids."""

SENTENCES_PER_TALK = 40
"""Largest number of sentences that one talk holds."""

_SIZE_OPTIONS = ("train_utterances", "dev_utterances", "test_utterances")
_RECORD = "synthetic.json"
_FORMAT = 1  # raised when the same options give other files


def write_synthetic_corpus(
    root: Path | str,
    targets: Sequence[str] = ("de",),
    train_utterances: int = 6000,
    dev_utterances: int = 200,
    test_utterances: int = 300,
    seed: int = 0,
    vocabulary_size: int = 512,
) -> None:
    """Write the corpus, unless it is there.

    The same options give the same files, bit for bit. The corpus appears at ``root`` when it is complete: it is
    written beside it first. Below ``root`` are the partitions ``en-<target>/data/{train,dev,tst-COMMON}/{wav,txt}``,
    and ``tokenizer.json``, a byte-level BPE tokenizer of the training texts.

    Args:
        root: Folder of the corpus; it must be absent, empty, or hold a corpus of the same options.
        targets: Languages of the translations, out of :data:`TARGETS`, one partition each, with the same audio.
        train_utterances: Number of training sentences.
        dev_utterances: Number of sentences to validate on.
        test_utterances: Number of sentences to test on.
        seed: Seed of the sentences and the speech.
        vocabulary_size: Size of the tokenizer's vocabulary, special tokens included.

    Raises:
        UserError: If an option is out of its range, ``root`` holds anything else, or espeak-ng is not installed.
    """
    root = Path(root)
    sizes = {"train": train_utterances, "dev": dev_utterances, "tst-COMMON": test_utterances}
    _check(targets, sizes, vocabulary_size)
    record = {
        "format": _FORMAT,
        "targets": list(targets),
        **{name: sizes[split] for name, split in zip(_SIZE_OPTIONS, sizes, strict=True)},
        "corpus_seed": seed,  # as the datamodule calls it, for messages about it
        "vocabulary_size": vocabulary_size,
    }
    if _is_written(root, record):
        return
    splits = dict(zip(sizes, split_sentences(train_utterances, dev_utterances, test_utterances, seed), strict=True))
    with _one_thread(), _appearing(root) as folder:
        with tqdm(total=sum(sizes.values()), desc="Speaking the synthetic corpus", unit=" sentences") as progress:
            for number, (split, sentences) in enumerate(splits.items()):
                generator = np.random.default_rng([seed, number])
                _write_split(folder, split, sentences, targets, generator, progress)
        texts = [sentence[language] for sentence in splits["train"] for language in (SOURCE, *targets)]
        train_tokenizer(texts, vocabulary_size).save(str(folder / "tokenizer.json"))
        (folder / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def train_tokenizer(texts: Sequence[str], vocabulary_size: int) -> Tokenizer:
    """Return a byte-level BPE tokenizer that can spell any text; NFC is its one normalisation.

    Args:
        texts: Texts to learn merges from.
        vocabulary_size: Number of tokens: the special ones, 256 bytes, and as many merges as the rest allows.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


class SyntheticDataModule(MustCDataModule):
    """The synthetic corpus for training and scoring; it is written when it is not there.

    Args:
        root: Folder of the corpus; its ``tokenizer.json`` is a tokenizer for it.
        targets: Languages of the translations: ``de``, ``fr``, ``es``, ``it``.
        tasks: Any of ``asr``, ``st`` and ``asr+st``.
        train_utterances: Number of training sentences.
        dev_utterances: Number of sentences to validate on.
        test_utterances: Number of sentences to test on.
        corpus_seed: Seed of the sentences and the speech.
        vocabulary_size: Size of the tokenizer's vocabulary.
        **kwargs: Options of :class:`speechllm.data.corpus.CorpusDataModule`.
    """

    def __init__(
        self,
        root: str,
        targets: list[str] = ["de"],  # noqa: B006 (never changed, and shown by --help as it is)
        tasks: list[str] = ["asr+st"],  # noqa: B006
        train_utterances: int = 6000,
        dev_utterances: int = 200,
        test_utterances: int = 300,
        corpus_seed: int = 0,
        vocabulary_size: int = 512,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, source=SOURCE, targets=targets, tasks=tasks, version="v2", **kwargs)
        self.corpus.name = "synthetic"
        self.root = Path(root)
        self.options: dict[str, Any] = {
            "targets": targets,
            "train_utterances": train_utterances,
            "dev_utterances": dev_utterances,
            "test_utterances": test_utterances,
            "seed": corpus_seed,
            "vocabulary_size": vocabulary_size,
        }

    def prepare_data(self) -> None:
        """Write the corpus and its manifests, unless they are there.

        Raises:
            UserError: As :func:`write_synthetic_corpus`.
        """
        write_synthetic_corpus(self.root, **self.options)
        super().prepare_data()


def _write_split(
    folder: Path,
    split: str,
    sentences: Sequence[Sentence],
    targets: Sequence[str],
    generator: np.random.Generator,
    progress: "tqdm[Any]",
) -> None:
    """Write one split of all partitions; the audio is spoken once and copied."""
    first, *others = (folder / f"{SOURCE}-{target}" / "data" / split for target in targets)
    for partition in (first, *others):
        (partition / "wav").mkdir(parents=True)
        (partition / "txt").mkdir()
    yaml = []
    for number, (voice, spoken) in enumerate(_talks(sentences, VOICES[split], generator), start=1):
        talk = speak_talk(voice, [sentence[SOURCE] for sentence in spoken], generator)
        name = f"talk_{number:03d}.wav"
        soundfile.write(first / "wav" / name, talk.samples, SAMPLE_RATE, subtype="PCM_16")
        for sentence, (start, length) in zip(spoken, talk.spans, strict=True):
            yaml.append(
                f"- {{duration: {length / SAMPLE_RATE:.6f}, offset: {start / SAMPLE_RATE:.6f}, "
                f"rW: {len(sentence[SOURCE].split())}, uW: 0, speaker_id: {voice}, wav: {name}}}"
            )
        progress.update(len(spoken))
    for partition in others:
        shutil.copytree(first / "wav", partition / "wav", dirs_exist_ok=True)
    for target, partition in zip(targets, (first, *others), strict=True):
        columns = {"yaml": yaml, **{la: [sentence[la] for sentence in sentences] for la in (SOURCE, target)}}
        for end, lines in columns.items():
            text = "".join(f"{line}\n" for line in lines)
            (partition / "txt" / f"{split}.{end}").write_bytes(text.encode("utf-8"))


def _talks(
    sentences: Sequence[Sentence], voices: Sequence[Voice], generator: np.random.Generator
) -> Iterator[tuple[Voice, Sequence[Sentence]]]:
    """Share sentences out, in their order, among talks of about equal size, as many for every voice."""
    rounds = -(-len(sentences) // (SENTENCES_PER_TALK * len(voices)))
    speakers = [voices[index] for index in generator.permutation(len(voices))] * rounds
    speakers = speakers[: len(sentences)]
    bounds = [len(sentences) * number // len(speakers) for number in range(len(speakers) + 1)]
    for speaker, start, end in zip(speakers, bounds, bounds[1:], strict=False):
        yield speaker, sentences[start:end]


def _check(targets: Sequence[str], sizes: dict[str, int], vocabulary_size: int) -> None:
    for target in targets:
        if target not in TARGETS:
            msg = (
                f"The synthetic corpus has no translations into '{target}'.{did_you_mean(target, TARGETS)} "
                f"It has: {', '.join(TARGETS)}."
            )
            raise UserError(msg)
    if not targets or len(set(targets)) < len(targets):
        msg = f"The synthetic corpus needs at least one target language, each once; got {list(targets)}."
        raise UserError(msg)
    for option, size in zip(_SIZE_OPTIONS, sizes.values(), strict=True):
        if size < 1:
            msg = f"`{option}` must be at least 1, but is {size}."
            raise UserError(msg)
    least = len(SPECIAL_TOKENS) + 256
    if vocabulary_size < least:
        msg = f"`vocabulary_size` must be at least {least} (special tokens and bytes), but is {vocabulary_size}."
        raise UserError(msg)


def _is_written(root: Path, record: dict[str, Any]) -> bool:
    """Return whether ``root`` holds the corpus of these options; raise UserError if it holds something else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    if not (root / _RECORD).is_file():
        msg = f"'{root}' holds other files than a synthetic corpus. Choose another folder for it."
        raise UserError(msg)
    there = json.loads((root / _RECORD).read_text(encoding="utf-8"))
    differing = [
        f"{key}={there.get(key)!r} (asked for: {value!r})" for key, value in record.items() if there.get(key) != value
    ]
    if differing:
        msg = (
            f"The synthetic corpus in '{root}' was written with {', '.join(differing)}. "
            "Choose another folder, delete that one, or give the options it was written with."
        )
        raise UserError(msg)
    return True


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch work in one thread: others would change the order of sums, and slow down work in such small pieces."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _appearing(root: Path) -> Iterator[Path]:
    """Give a folder beside ``root`` to write in; it becomes ``root`` at the end, and is deleted on any error."""
    root.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    try:
        yield folder
        folder.chmod(0o755)  # mkdtemp's own is private
        folder.replace(root)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
