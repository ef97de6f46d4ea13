"""Training, validation and test out of a cache: the results without one, and nothing that it makes superfluous."""

import shutil

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from speechllm.data.augmentation.augment import Augmentation
from speechllm.data.dataset import SpeechDataset
from speechllm.data.epoch_plan import Draw
from speechllm.encoders.cached import CachedEncoder
from speechllm.encoders.whisper import WhisperEncoder
from speechllm.errors import UserError
from speechllm.feature_cache.folder import SHARDS
from speechllm.feature_cache.reader import FeatureReader
from speechllm.models import SpeechLLM
from speechllm.models.checkpoint import saved_keys
from speechllm.models.feature_caches import attach_caches
from speechllm.registry import ADAPTERS, ENCODERS
from tests.feature_cache.caches import write_cache
from tests.models.conftest import SPECS
from tests.models.tested_run import make_data, write_corpus

ADAPTER_NAMES = ("base", "conv", "cif", "ctc", "wlq")
"""The five of paper A."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with a corpus, a checkpoint of an encoder, and the cache of its frames."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder as HFWhisperEncoder

    folder = tmp_path_factory.mktemp("place")
    write_corpus(folder)
    torch.manual_seed(5)
    HFWhisperEncoder(WhisperConfig(**ENCODERS.get("whisper").tiny["config"])).save_pretrained(folder / "whisper")
    fill(folder)
    return folder


def fill(folder):
    data = make_data(folder)
    data.prepare_data()
    rows = data.eval_rows("test")
    utterances = [rows[number].utterance for number in range(0, len(rows), 3)]
    dataset = SpeechDataset(rows, keep_unreadable=True)
    clips = [dataset[Draw([number], [1.0], 0)].audio[0] for number in range(0, len(rows), 3)]
    write_cache(folder / "cache", encoder_spec(folder), clips, paths=[utterance.audio for utterance in utterances])


def encoder_spec(folder, cache="cache"):
    spec = {"name": "whisper", "pretrained": str(folder / "whisper")}
    return spec if cache is None else spec | {"cache": str(folder / cache)}


def make_model(encoder, adapter="conv", **options):
    torch.manual_seed(0)
    decoder = {**SPECS["decoder"], "tuning": "full", "prompt": {"template": "{speech}"}}
    model = SpeechLLM(
        encoder=encoder,
        adapter={"name": adapter, **ADAPTERS.get(adapter).tiny},
        decoder=decoder,
        **{"lr": 1e-3, "metrics": ["wer"], "max_new_tokens": 8} | options,
    )
    return model


def make_trainer(folder, **options):
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "use_distributed_sampler")
    defaults = {"accelerator": "cpu", "devices": 1, "max_steps": 3, "limit_val_batches": 0, "default_root_dir": folder}
    return Trainer(**dict.fromkeys(quiet, False) | defaults | options)


def trained(place, encoder, **options):
    """Train for three steps with a validation, test, and return the model, figures and predictions."""
    model = make_model(encoder, **options)
    # whatever was drawn for an encoder, adapter and LLM begin alike
    build, configure = ENCODERS.build, model.configure_model

    def seeded(spec, **arguments):
        built = build(spec, **arguments)
        torch.manual_seed(1)
        return built

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ENCODERS, "build", seeded)
        configure()
    trainer = make_trainer(place, limit_val_batches=1.0, val_check_interval=3)
    trainer.fit(model, datamodule=make_data(place))
    figures = {key: float(value) for key, value in trainer.callback_metrics.items()}
    written = []
    decode = model._decode_batch
    model._decode_batch = lambda *given: written.extend(found := decode(*given)) or found
    make_trainer(place).predict(model, datamodule=make_data(place), return_predictions=False)
    return model, figures, sorted(written, key=lambda prediction: prediction.row)


@pytest.fixture
def nothing_to_compute(monkeypatch):
    """Let no audio be read and no encoder be run."""

    def forbidden(*args, **kwargs):
        raise AssertionError("not cached")

    monkeypatch.setattr("speechllm.data.dataset.read_audio", forbidden)
    monkeypatch.setattr(WhisperEncoder, "forward", forbidden)


def test_results_are_those_without_a_cache(place, request):
    live, expected, hypotheses = trained(place, encoder_spec(place, None))
    request.getfixturevalue("nothing_to_compute")
    cached, figures, found = trained(place, encoder_spec(place))
    assert list(cached.encoder.parameters()) == []
    assert saved_keys(cached) == saved_keys(live)
    for name in ("train_loss", "val_loss", "val_wer"):
        assert figures[name] == pytest.approx(expected[name], rel=2e-3), name
    texts = [[(one.row, one.text, one.tokens) for one in some] for some in (found, hypotheses)]
    assert texts[0] == texts[1]
    assert len({text for _, text, _ in texts[0]}) > 1
    assert [one.duration_s for one in found] == [one.duration_s for one in hypotheses]


@pytest.mark.parametrize("adapter", ADAPTER_NAMES)
def test_five_adapters_are_trained_from_one_cache(adapter, place, nothing_to_compute):
    model, figures, found = trained(place, encoder_spec(place), adapter=adapter)
    assert np.isfinite(figures["train_loss"])
    assert len(found) == 39
    assert model.encoder.take_counts()[0] == 0


def test_workers_read_the_same_batches(place):
    """In processes of their own, each with maps of its own."""
    data = make_data(place)
    data.features = FeatureReader([place / "cache"])
    data.prepare_data()
    here = list(data.test_dataloader())
    data.num_workers = 2
    for one, other in zip(here, data.test_dataloader(), strict=True):
        (frames,), (others,) = one.features.values(), other.features.values()
        assert one.ids == other.ids
        assert torch.equal(frames.values, others.values)
        assert frames.values.abs().sum(dim=(1, 2)).all()
        assert (one.audio.shape[1], one.audio_lengths.tolist()) == (0, other.audio_lengths.tolist())
        assert one.durations_s == pytest.approx([row for row in one.durations_s if row > 0])


def test_an_encoder_beside_a_cached_one_hears_the_audio(place):
    """Only one of two encoders has a cache: the other needs the samples of every utterance."""
    hubert = {"name": "hubert", **ENCODERS.get("hubert").tiny}
    fusion = ENCODERS.get("parallel").tiny["fusion"]
    spec = {"name": "parallel", "encoders": [encoder_spec(place), hubert], "fusion": fusion}
    data = make_data(place)
    data.prepare_data()
    alone = next(iter(data.test_dataloader()))
    attach_caches(spec, data, "test")
    batch = next(iter(data.test_dataloader()))
    assert batch.ids == alone.ids
    assert torch.equal(batch.audio, alone.audio)
    encoder = ENCODERS.build(spec).eval()
    assert torch.equal(encoder.second.encode(batch).values, encoder.second.encode(alone).values)
    assert encoder.encode(batch).values.isfinite().all()
    assert encoder.first.take_counts() == (0, len(batch))


def test_a_moved_corpus_and_a_moved_cache_are_known(place, tmp_path, monkeypatch):
    """Files are new there: audio is read, and known by its samples; the encoder is not needed."""
    shutil.copytree(place / "cache", tmp_path / "moved")
    write_corpus(tmp_path)
    data = make_data(tmp_path)
    data.prepare_data()
    reader = FeatureReader([tmp_path / "moved"])
    dataset = SpeechDataset(data.eval_rows("test"), True, features=reader)
    batch = dataset[Draw([0, 3, 6], [1.0] * 3, 0)]
    assert reader.recall(batch.recordings[0], 0.0, batch.durations_s[0], None) is None
    (frames,) = batch.features.values()
    assert (frames.lengths > 0).all()
    assert batch.audio.shape == (3, 0)
    assert (batch.audio_lengths > 0).all()


def test_a_changed_file_is_read_and_computed(place, tmp_path):
    shutil.copytree(place, tmp_path / "copy")
    data = make_data(tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "manifests", ignore_errors=True)
    import soundfile

    soundfile.write(tmp_path / "copy" / "1.wav", np.random.default_rng(99).uniform(-0.1, 0.1, 8_000), 16_000)
    data.prepare_data()
    rows = data.eval_rows("test")
    dataset = SpeechDataset(rows, True, features=FeatureReader([place / "cache"]))
    changed = next(n for n in range(len(rows)) if rows[n].utterance.audio.endswith("/1.wav"))
    batch = dataset[Draw([0, changed], [1.0] * 2, 0)]
    (frames,) = batch.features.values()
    assert frames.lengths[0] > 0 == frames.lengths[1]
    assert not batch.audio[0].any()
    assert batch.audio[1, : batch.audio_lengths[1]].any()


def test_a_damaged_record_is_computed_with_a_warning(place, tmp_path, caplog):
    shutil.copytree(place / "cache", tmp_path / "cache")
    shard = next((tmp_path / "cache" / SHARDS).glob("*.bin"))
    content = bytearray(shard.read_bytes())
    content[10] ^= 1
    shard.write_bytes(content)
    data = make_data(place)
    dataset = SpeechDataset(data.eval_rows("test"), True, features=FeatureReader([tmp_path / "cache"]))
    rows = list(range(0, 39, 3))
    (frames,) = dataset[Draw(rows, [1.0] * len(rows), 0)].features.values()
    assert (frames.lengths == 0).sum() == 1
    assert caplog.text.count("is damaged at 0") == 1
    assert "`speechllm cache … --verify true` replaces them" in caplog.text


def test_an_unreadable_clip_has_no_frames(place, tmp_path):
    shutil.copytree(place, tmp_path / "copy")
    (tmp_path / "copy" / "2.wav").write_bytes(b"no audio")
    data = make_data(tmp_path / "copy")
    rows = make_data(place).eval_rows("test")
    listed = [rows[number] for number in range(len(rows))]
    for row in listed:
        row.utterance.audio = row.utterance.audio.replace(str(place), str(tmp_path / "copy"))
    dataset = SpeechDataset(listed, True, features=FeatureReader([place / "cache"]))
    broken = next(n for n, row in enumerate(listed) if row.utterance.audio.endswith("/2.wav"))
    batch = dataset[Draw([0, broken], [1.0] * 2, 0)]
    (frames,) = batch.features.values()
    assert (batch.audio_lengths == 0).tolist() == (frames.lengths == 0).tolist() == [False, True]
    model = make_model(encoder_spec(place))
    model.configure_model()
    answers = model.eval().decode(batch, 1)
    assert (answers[1].tokens, answers[0].tokens > 0) == (0, True)
    assert data.features is None


def test_augmented_training_is_refused_and_noisy_tests_are_computed(place, monkeypatch):
    data = make_data(place)
    for options, names in (
        ({"speeds": (0.9, 1.0)}, "speeds"),
        ({"noise": "white", "gain_db": (-6.0, 6.0)}, "noise, gain_db"),
    ):
        data.augment = Augmentation(**options)
        with pytest.raises(UserError, match=rf"`cache` and `augment` \({names}\) exclude each other"):
            attach_caches(encoder_spec(place), data, "fit")
        attach_caches(encoder_spec(place), data, "test")
    data.augment = Augmentation(noise="white", noise_probability=0.0)
    attach_caches(encoder_spec(place), data, "fit")
    assert next(iter(data.train_dataloader())).features
    data.test_noise_snr = 5.0
    batch = next(iter(data.test_dataloader()))
    assert not batch.features
    assert batch.audio.abs().sum() > 0
    assert next(iter(data.val_dataloader())).features
    attach_caches(encoder_spec(place, None), data, "fit")
    assert data.features is None


def test_weights_that_a_run_brings_for_the_encoder_are_refused(place, tmp_path):
    """They are not those that the cache was computed with."""
    tuned = make_model(encoder_spec(place, None) | {"tuning": "full"})
    trainer = make_trainer(place, max_steps=1)
    trainer.fit(tuned, datamodule=make_data(place))
    trainer.save_checkpoint(tmp_path / "tuned.ckpt")
    model = make_model(encoder_spec(place), init_from=str(tmp_path / "tuned.ckpt"))
    with pytest.raises(UserError, match=r"holds weights of the encoder \(\d+ tensors\), and cached frames"):
        make_trainer(place).fit(model, datamodule=make_data(place))
    frozen = make_model(encoder_spec(place, None))
    trainer = make_trainer(place, max_steps=1)
    trainer.fit(frozen, datamodule=make_data(place))
    trainer.save_checkpoint(tmp_path / "frozen.ckpt")
    model = make_model(encoder_spec(place), init_from=str(tmp_path / "frozen.ckpt"))
    make_trainer(place, max_steps=1).fit(model, datamodule=make_data(place))


def test_a_model_trained_from_a_cache_loads_without_it(place, tmp_path, eight):
    model = make_model(encoder_spec(place))
    trainer = make_trainer(place, max_steps=1)
    trainer.fit(model, datamodule=make_data(place))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    assert isinstance(model.encoder, CachedEncoder)
    (place / "cache").rename(place / "away")
    try:
        loaded = SpeechLLM.load(tmp_path / "model.ckpt", device="cpu")
        loaded.num_beams = 1
        expected = model.eval().decode(eight, 1)
        assert loaded.decode(eight, 1) == expected
    finally:
        (place / "away").rename(place / "cache")
    trainer = make_trainer(place)
    live = make_model(encoder_spec(place, None))
    trainer.test(live, datamodule=make_data(place), ckpt_path=str(tmp_path / "model.ckpt"))


def test_loaders_without_a_datamodule_say_that_they_read_no_cache(place, trainer, as_loader, eight):
    with pytest.warns(UserWarning, match="Only a datamodule reads the cache"):
        trainer().fit(make_model(encoder_spec(place)), as_loader([eight]))
