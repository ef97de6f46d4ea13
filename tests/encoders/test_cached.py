"""The option `cache`: what may have it, what it refuses and why, and frames that are those of the encoder."""

import functools
import json
import os
import re

import pytest
import torch

from speechllm.encoders.cached import CachedEncoder, open_settings
from speechllm.encoders.hubert import HubertEncoder
from speechllm.encoders.weights import named_weights
from speechllm.encoders.whisper import WhisperEncoder
from speechllm.errors import UserError
from speechllm.feature_cache.folder import CACHE_FILE
from speechllm.feature_cache.reader import FeatureReader
from speechllm.models.feature_caches import report_misses
from speechllm.registry import ENCODERS
from tests.feature_cache.caches import LENGTHS, build_cached, build_plain, spec_of, write_cache
from tests.tiny import make_batch, noise

SINGLE = sorted(name for name in ENCODERS.names() if "tuning" in ENCODERS.options(name))


def with_features(batch, *folders):
    """Give a batch what caches have of it, as data workers do."""
    reader = FeatureReader(folders)
    clips = [reader.find(audio[:n]) for audio, n in zip(batch.audio, batch.audio_lengths.tolist(), strict=True)]
    batch.features = reader.collate(clips)
    return batch


@pytest.mark.parametrize("name", SINGLE)
def test_cached_frames_are_the_encoders(name, tmp_path):
    """To rounding in bfloat16, whatever the utterances were batched with when they were cached."""
    spec = spec_of(name, tmp_path)
    write_cache(tmp_path, spec, batch_size=2)
    encoder = build_cached(spec)
    batch = with_features(make_batch(noise(*LENGTHS)), tmp_path)
    batch.audio = batch.audio[:, :0]
    with torch.no_grad():
        expected = build_plain(spec).encode(make_batch(noise(*LENGTHS)))
        frames = encoder.encode(batch)
    assert frames.lengths.tolist() == expected.lengths.tolist()
    assert frames.values.dtype == torch.bfloat16
    torch.testing.assert_close(frames.values.float(), expected.values, rtol=2**-8, atol=1e-4)
    assert (encoder.dim, encoder.frame_rate) == (expected.values.shape[2], build_plain(spec).frame_rate)
    assert encoder.take_counts() == (0, len(LENGTHS))


@pytest.mark.parametrize(("name", "options"), [("whisper", {}), ("hubert", {"ctc_head": True})])
def test_what_is_not_in_the_cache_is_computed(name, options, tmp_path):
    spec = spec_of(name, tmp_path, **options)
    clips = noise(8_000, 16_000, 4_000, 12_000)
    write_cache(tmp_path, spec, clips[1:3])
    encoder = build_cached(spec)
    batch = with_features(make_batch(clips), tmp_path)
    batch.audio[1:3] = 0  # what data workers do not read
    assert next(iter(batch.features.values())).lengths.tolist()[::3] == [0, 0]
    expected = build_plain(spec)(make_batch(clips).audio, batch.audio_lengths)
    frames = encoder.encode(batch)
    assert frames.lengths.tolist() == expected.lengths.tolist()
    torch.testing.assert_close(frames.values.float(), expected.values, rtol=2**-8, atol=1e-4)
    if options:
        torch.testing.assert_close(frames.ctc_logits, expected.ctc_logits, rtol=1e-4, atol=1e-4)
        assert frames.ctc_blank == expected.ctc_blank
    with pytest.warns(UserWarning, match=r"2 of 4 utterances were not in the cache .* Fill it: `speechllm cache"):
        report_misses(encoder)
    assert encoder.take_counts() == (0, 0)


def test_a_batch_without_features_is_computed(tmp_path):
    spec = spec_of("whisper", tmp_path)
    write_cache(tmp_path, spec)
    batch = make_batch(noise(8_000, 5_000))
    assert torch.equal(build_cached(spec).encode(batch).values, build_plain(spec).encode(batch).values)


def test_an_encoder_without_its_cache_works_too(tmp_path):
    """In a notebook, where the cache was left behind."""
    spec = spec_of("whisper", tmp_path / "gone")
    batch = make_batch(noise(8_000))
    assert torch.equal(build_cached(spec).encode(batch).values, build_plain(spec).encode(batch).values)


def test_weights_have_the_names_that_they_have_without_a_cache(tmp_path):
    spec = spec_of("whisper", tmp_path)
    write_cache(tmp_path, spec)
    assert set(build_cached(spec).state_dict()) == set(build_plain(spec).state_dict())
    assert not any(parameter.requires_grad for parameter in build_cached(spec).parameters())


@pytest.fixture
def checkpoint(tmp_path):
    """Return the folder of a tiny Whisper encoder."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder as HFWhisperEncoder

    torch.manual_seed(5)
    HFWhisperEncoder(WhisperConfig(**ENCODERS.get("whisper").tiny["config"])).save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def named_spec(checkpoint, folder, **options):
    return {"name": "whisper", "pretrained": str(checkpoint), "cache": str(folder), **options}


@pytest.fixture
def no_loading(monkeypatch):
    """Let no encoder be built."""

    for part in (WhisperEncoder, HubertEncoder):

        @functools.wraps(part.__init__)  # its options are read off it
        def build(self, *args, **kwargs):
            raise AssertionError("an encoder was loaded")

        monkeypatch.setattr(part, "__init__", build)


def test_nothing_is_loaded_where_all_is_cached(checkpoint, tmp_path, monkeypatch):
    spec = named_spec(checkpoint, tmp_path / "cache")
    computed, _ = write_cache(tmp_path / "cache", spec)
    builds, build = [], WhisperEncoder.__init__

    @functools.wraps(build)
    def counted(self, *args, **kwargs):
        builds.append(self)
        build(self, *args, **kwargs)

    monkeypatch.setattr(WhisperEncoder, "__init__", counted)
    encoder = ENCODERS.build(spec)
    batch = with_features(make_batch(noise(*LENGTHS)), tmp_path / "cache")
    frames = encoder.encode(batch)
    assert not builds
    assert list(encoder.parameters()) == []
    assert (encoder.dim, encoder.frame_rate, encoder.max_duration_s) == (16, 50.0, 30)
    assert torch.equal(frames.values[0, : frames.lengths[0]], computed[0].values[0, : frames.lengths[0]].bfloat16())
    encoder.encode(with_features(make_batch(noise(7_000)), tmp_path / "cache"))
    assert len(builds) == 1
    assert list(encoder.state_dict()) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": "hubert"}, "the encoder is 'whisper' in the cache and 'hubert' in the recipe"),
        ({"pad_to_30s": True}, "`pad_to_30s` is false in the cache and true in the recipe"),
        ({"do_normalize": True}, "`do_normalize` is false in the cache and true in the recipe"),
        ({"dtype": "bfloat16"}, '`dtype` is "float32" in the cache and "bfloat16" in the recipe'),
        ({"long_audio": "chunk"}, '`long_audio` is "error" in the cache and "chunk" in the recipe'),
        ({"pretrained": "openai/other"}, "`weights.source` is null in the cache"),
        ({"cache": {"format": "int8"}}, '`format` is "bf16" in the cache and "int8" in the recipe'),
    ],
)
def test_a_cache_of_something_else_is_refused_before_loading(change, reason, checkpoint, tmp_path, no_loading):
    folder = tmp_path / "cache"
    spec = named_spec(checkpoint, folder)
    described = {"encoder": "whisper", "features_version": 1, "dim": 16, "frame_rate": 50.0, "format": 1}
    described |= {"options": {"config": None, "dtype": "float32", "pad_to_30s": False, "trim_to_speech": False}}
    described["options"] |= {"do_normalize": False, "long_audio": "error"}
    folder.mkdir()
    (folder / CACHE_FILE).write_text(json.dumps(described | {"weights": named_weights(str(checkpoint), None)}))
    assert open_settings(spec).dim == 16
    if isinstance(change.get("cache"), dict):
        change = {"cache": {"dir": str(folder), **change["cache"]}}
    with pytest.raises(UserError, match=re.escape(reason)) as refusal:
        open_settings(spec | change)
    assert "speechllm cache --config RECIPE" in str(refusal.value)


def test_an_option_that_the_cache_is_too_old_to_know_has_its_default(checkpoint, tmp_path, no_loading):
    spec = named_spec(checkpoint, tmp_path)
    options = {"config": None, "dtype": "float32", "pad_to_30s": False, "long_audio": "error"}
    described = {"encoder": "whisper", "features_version": 1, "dim": 16, "frame_rate": 50.0, "format": 1}
    described |= {"options": options, "weights": named_weights(str(checkpoint), None)}
    (tmp_path / CACHE_FILE).write_text(json.dumps(described))
    open_settings(spec)
    with pytest.raises(UserError, match="`do_normalize` is false in the cache and true"):
        open_settings(spec | {"do_normalize": True})


def test_frames_of_older_code_are_refused(checkpoint, tmp_path, monkeypatch):
    spec = named_spec(checkpoint, tmp_path / "cache")
    write_cache(tmp_path / "cache", spec)
    monkeypatch.setattr(WhisperEncoder, "features_version", 2)
    with pytest.raises(UserError, match="`features_version` is 1 in the cache and 2 in the recipe"):
        open_settings(spec)


def test_changed_weights_of_a_folder_are_refused(checkpoint, tmp_path):
    """They are known by their content: a copy elsewhere, or a new time, is the same; one changed byte is not."""
    spec = named_spec(checkpoint, tmp_path / "cache")
    write_cache(tmp_path / "cache", spec)
    weights = checkpoint / "model.safetensors"
    os.utime(weights, (0, 0))
    open_settings(spec)
    moved = checkpoint.rename(tmp_path / "moved")
    open_settings(named_spec(moved, tmp_path / "cache"))
    content = bytearray((moved / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (moved / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"`weights\.digest` is"):
        open_settings(named_spec(moved, tmp_path / "cache"))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Return a function that puts a commit of a model where the Hugging Face hub's files lie on this machine."""
    root = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root))

    def put(commit, revision="main"):
        folder = root / "models--some--whisper"
        (folder / "snapshots" / commit).mkdir(parents=True, exist_ok=True)
        (folder / "snapshots" / commit / "config.json").write_text("{}")
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / revision).write_text(commit)

    return put


def test_another_revision_is_refused(hub, tmp_path, no_loading):
    hub("a" * 40)
    assert named_weights("some/whisper", None) == {"source": "some/whisper", "revision": "a" * 40}
    described = {"encoder": "whisper", "features_version": 1, "dim": 16, "frame_rate": 50.0, "format": 1, "options": {}}
    (tmp_path / CACHE_FILE).write_text(json.dumps(described | {"weights": named_weights("some/whisper", None)}))
    spec = named_spec("some/whisper", tmp_path)
    open_settings(spec)
    hub("b" * 40, "v2")
    with pytest.raises(UserError, match=f'`weights.revision` is "{"a" * 40}" in the cache and "{"b" * 40}"'):
        open_settings(spec | {"revision": "v2"})
    hub("b" * 40)  # the branch moved on
    with pytest.raises(UserError, match=r"weights\.revision"):
        open_settings(spec)
    with pytest.raises(UserError, match=r"weights\.source"):
        open_settings(spec | {"pretrained": "some/other"})


def test_a_cache_serves_where_the_checkpoint_is_not(tmp_path, no_loading):
    """A machine to which the cache alone was copied knows no commit, unless the recipe names one."""
    described = {"encoder": "whisper", "features_version": 1, "dim": 16, "frame_rate": 50.0, "format": 1, "options": {}}
    weights = {"source": "some/whisper", "revision": "a" * 40}
    (tmp_path / CACHE_FILE).write_text(json.dumps(described | {"weights": weights}))
    spec = named_spec("some/whisper", tmp_path)
    open_settings(spec)
    open_settings(spec | {"revision": "a" * 40})
    with pytest.raises(UserError, match=r"weights\.revision"):
        open_settings(spec | {"revision": "b" * 40})


def test_other_random_weights_are_refused(tmp_path):
    """Also those that a checkpoint brings: they are looked at when frames are first read."""
    spec = spec_of("whisper", tmp_path)
    write_cache(tmp_path, spec, seed=1)
    batch = with_features(make_batch(noise(*LENGTHS)), tmp_path)
    with pytest.raises(UserError, match=r"`weights\.digest` is"):
        build_cached(spec, seed=2).encode(batch)
    loaded = build_cached(spec, seed=2)
    loaded.load_state_dict(build_plain(spec, seed=1).state_dict())
    loaded.encode(batch)
    replaced = build_cached(spec, seed=1)
    replaced.load_state_dict(build_plain(spec, seed=2).state_dict())
    with pytest.raises(UserError, match=r"`weights\.digest` is"):
        replaced.encode(batch)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (spec_of("whisper", "d", tuning="full"), "`cache` is for frozen encoders, and 'whisper' has `tuning: full`"),
        (spec_of("hubert", "d", tuning="lora"), "'hubert' has `tuning: lora`"),
        (spec_of("seamless", "d", spec_augment={}), "`cache` and `spec_augment` exclude each other"),
        (spec_of("parallel", "d"), "The fusion of 'parallel' is trained.*each of its encoders"),
        (spec_of("whisper", cache=3), "`cache` must be a folder, or {dir: FOLDER"),
        (spec_of("whisper", cache={"dir": "d", "fromat": "int8"}), "Did you mean 'format'"),
        (spec_of("whisper", cache={"dir": "d", "format": "int4"}), "must be bf16 or int8, but is 'int4'"),
        (spec_of("whisper", cash="d"), "Did you mean 'cache'"),
    ],
)
def test_what_cannot_be_cached(spec, message):
    with pytest.raises(UserError, match=message):
        ENCODERS.check(spec)


def test_null_is_no_cache():
    for name in ENCODERS.names():
        assert not isinstance(ENCODERS.build(spec_of(name, cache=None)), CachedEncoder)


def test_a_missing_cache_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match=r"is not there\. Fill it first: `speechllm cache --config RECIPE`"):
        open_settings(spec_of("whisper", tmp_path / "none"))


def test_a_damaged_or_newer_description_is_named(tmp_path):
    (tmp_path / CACHE_FILE).write_text("{")
    with pytest.raises(UserError, match=r"cache\.json' cannot be read"):
        open_settings(spec_of("whisper", tmp_path))
    (tmp_path / CACHE_FILE).write_text('{"format": 9}')
    with pytest.raises(UserError, match="has format 9; this version of speechllm reads 1"):
        open_settings(spec_of("whisper", tmp_path))


def test_each_encoder_of_parallel_has_a_cache_of_its_own(tmp_path):
    """Gradients reach the fusion, and frames are those without caches to rounding."""
    inner = [spec_of("whisper", tmp_path / "first"), spec_of("hubert", tmp_path / "second")]
    spec = {"name": "parallel", "encoders": inner, "fusion": ENCODERS.get("parallel").tiny["fusion"]}
    clips = noise(*LENGTHS)
    # as `parallel` draws its random weights: one encoder after the other
    torch.manual_seed(0)
    plain = [{key: value for key, value in part.items() if key != "cache"} for part in inner]
    live = ENCODERS.build({**spec, "encoders": plain}).eval()
    for part, encoder, folder in zip(inner, (live.first, live.second), ("first", "second"), strict=True):
        write_with(tmp_path / folder, part, encoder, clips)
    torch.manual_seed(0)
    cached = ENCODERS.build(spec).eval()
    assert set(cached.state_dict()) == set(live.state_dict())
    batch = with_features(make_batch(clips), tmp_path / "first", tmp_path / "second")
    batch.audio = batch.audio[:, :0]
    frames, expected = cached.encode(batch), live.encode(make_batch(clips))
    assert frames.lengths.tolist() == expected.lengths.tolist()
    torch.testing.assert_close(frames.values, expected.values, rtol=0.02, atol=0.02)
    frames.values.sum().backward()
    assert all(parameter.grad is not None for parameter in cached.fusion.parameters())
    assert (cached.first.take_counts(), cached.second.take_counts()) == ((0, 5), (0, 5))


def write_with(folder, spec, encoder, clips):
    """Fill a cache with the frames of an encoder that is there."""
    from speechllm.encoders.cached import describe_encoder
    from speechllm.feature_cache.filling import CacheFiller
    from speechllm.feature_cache.folder import create_folder
    from speechllm.feature_cache.store import FeatureStore

    settings = create_folder(folder, describe_encoder(spec, encoder, "bf16"))
    with torch.no_grad():
        filler = CacheFiller(folder, settings, encoder, FeatureStore(folder))
        assert sum(counts.added for counts in filler.fill([make_batch(clips)], lambda batch: [None] * len(batch))) == 5
