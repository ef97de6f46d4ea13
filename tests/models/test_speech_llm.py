"""SpeechLLM: checkpoints hold what was trained, reload exactly, refuse what is foreign; inference on files."""

import numpy as np
import pytest
import soundfile
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import AutoConfig, AutoModelForCausalLM, WhisperConfig, WhisperModel

from speechllm.audio import read_audio
from speechllm.decoders.tokenizer import load_tokenizer
from speechllm.errors import UserError
from speechllm.models import SpeechLLM
from speechllm.models.checkpoint import find_checkpoint, saved_keys
from speechllm.models.inference import Request, _batches, choose_task
from tests.models.conftest import SPECS
from tests.tiny import make_batch, noise


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """Specs whose encoder and LLM have names: folders in the real format."""
    folder = tmp_path_factory.mktemp("named")
    sizes = SPECS["encoder"]["config"] | {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 16}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "vocab_size": 9}
    WhisperModel(WhisperConfig(**sizes, **special)).save_pretrained(folder / "whisper")
    tokenizer = load_tokenizer("bytes")
    config = AutoConfig.for_model(**SPECS["decoder"]["config"], vocab_size=len(tokenizer), eos_token_id=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "llama")
    tokenizer.save_pretrained(folder / "llama")
    return {
        "encoder": {"name": "whisper", "pretrained": str(folder / "whisper")},
        "decoder": {"name": "causal_lm", "pretrained": str(folder / "llama")},
    }


@pytest.fixture
def trained(build, trainer, eight, as_loader, tmp_path):
    """Return a function that trains two steps and saves a run folder."""

    def run(**options):
        model = build(**options)
        fitted = trainer(max_steps=2)
        fitted.fit(model, as_loader([eight] * 2))
        path = tmp_path / "run" / "checkpoints" / "last.ckpt"
        fitted.save_checkpoint(path)
        return model.eval(), path

    return run


def keys(path):
    return set(torch.load(path, weights_only=True)["state_dict"])


def test_checkpoints_hold_what_was_trained(trained, named):
    model, path = trained(**named)
    assert keys(path) == {f"adapter.{key}" for key in model.adapter.state_dict()}
    assert "tokenizer" not in torch.load(path, weights_only=True)


def test_full_tuning_is_saved_without_what_stays_fixed(trained, named):
    _, path = trained(encoder={**named["encoder"], "tuning": "full"}, decoder=named["decoder"])
    parts = {key.split(".")[0] for key in keys(path)}
    assert parts == {"adapter", "encoder"}
    assert "encoder.encoder.embed_positions.weight" not in keys(path)


def test_random_weights_are_saved_since_no_name_brings_them_back(trained):
    model, path = trained()
    assert keys(path) == set(model.state_dict()) == saved_keys(model)


@pytest.mark.parametrize("kind", ["random", "named"])
def test_a_run_loads_exactly(kind, trained, named, eight, tmp_path):
    """From the folder and from the file, whatever the seed at that time; hypotheses and loss are the same."""
    model, path = trained(**(named if kind == "named" else {}))
    torch.manual_seed(99)
    for source in (tmp_path / "run", path):
        loaded = SpeechLLM.load(source, device="cpu")
        assert not loaded.training
        assert (
            loaded.trained_on == model.trained_on == {("asr", "en", "de"), ("st", "en", "de"), ("asr+st", "en", "de")}
        )
        assert loaded.decode(eight, 1) == model.decode(eight, 1)
        with torch.no_grad():
            assert torch.equal(loaded.losses(eight).llm, model.losses(eight).llm)


def test_lightnings_own_loading_works_too(trained, eight):
    model, path = trained()
    loaded = SpeechLLM.load_from_checkpoint(path, map_location="cpu").eval()
    assert loaded.decode(eight, 1) == model.decode(eight, 1)


def test_resuming_gives_the_weights_of_a_run_that_never_stopped(build, trainer, eight, as_loader, tmp_path):
    """Weights, optimiser and schedule go on as they were; all batches are the same, so that order plays no part."""
    batches = [eight] * 4
    whole = build(warmup_steps=1)
    saving = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    trainer(max_steps=8, enable_checkpointing=True, callbacks=[saving]).fit(whole, as_loader(batches))
    second = build(warmup_steps=1)
    trainer(max_steps=8).fit(second, as_loader(batches), ckpt_path=tmp_path / "epoch=0.ckpt", weights_only=True)
    assert second.global_step == 8
    for key, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adapter": {"name": "mlp", "hidden_dim": 16}}, r"unknown \d+ of adapter.*adapter: checkpoint \{name: conv"),
        (
            {"adapter": {**SPECS["adapter"], "dim": 8}},
            r"shape: adapter\..* is \(16, 16\) in the checkpoint and \(8, 16\)",
        ),
        ({"adapter": {**SPECS["adapter"], "layers": 4}}, r"missing \d+ of adapter"),
    ],
)
def test_a_checkpoint_of_another_recipe(change, message, trained, build, trainer, eight, as_loader):
    _, path = trained()
    with pytest.raises(UserError, match=f"The checkpoint is of another recipe: .*{message}"):
        trainer().test(build(**change), as_loader([eight]), ckpt_path=path)


def test_a_trained_tensor_is_never_left_random(trained, tmp_path):
    _, path = trained()
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["state_dict"]["adapter.out_proj.0.weight"]
    torch.save(checkpoint, path)
    with pytest.raises(UserError, match="missing 1 of adapter"):
        SpeechLLM.load(path)


def test_another_tokenizer(trained, build, trainer, eight, as_loader, tmp_path):
    _, path = trained()
    other = load_tokenizer("bytes").backend_tokenizer
    other.add_tokens(["hello"])
    other.save(str(tmp_path / "tokenizer.json"))
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["tokenizer"] = other.to_str()
    torch.save(checkpoint, path)
    with pytest.raises(UserError, match="is not the one that the checkpoint was trained with"):
        trainer().test(build(), as_loader([eight]), ckpt_path=path)


def test_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        SpeechLLM.load(tmp_path / "none")
    with pytest.raises(UserError, match=r"neither checkpoints/best\.ckpt nor last\.ckpt"):
        SpeechLLM.load(tmp_path)
    (tmp_path / "bad.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="is not a readable checkpoint"):
        SpeechLLM.load(tmp_path / "bad.ckpt")
    torch.save({"weights": 1}, tmp_path / "foreign.ckpt")
    with pytest.raises(UserError, match="not a checkpoint of speechllm"):
        SpeechLLM.load(tmp_path / "foreign.ckpt")


def test_a_checkpoint_cannot_execute_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    torch.save({"state_dict": {}, "hyper_parameters": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match="is not a readable checkpoint"):
        SpeechLLM.load(tmp_path / "evil.ckpt")
    assert not (tmp_path / "written").exists()


def test_the_best_checkpoint_comes_first(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "last.ckpt").touch()
    assert find_checkpoint(tmp_path) == folder / "last.ckpt"
    (folder / "best.ckpt").touch()
    assert find_checkpoint(tmp_path) == folder / "best.ckpt"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adapter": {"name": "convv"}}, "Unknown adapter 'convv'. Did you mean 'conv'"),
        ({"adapter": {"name": "conv", "layer": 2}}, "'conv' does not take 'layer'. Did you mean 'layers'"),
        ({"encoder": {"name": "wisper"}}, "Unknown encoder 'wisper'. Did you mean 'whisper'"),
        ({"decoder": {}}, "The decoder needs a mapping with a 'name'"),
        ({"metrics": ["blue"]}, "Unknown metric 'blue'. Did you mean 'bleu'"),
        ({"metrics": [{"name": "wer", "normaliser": "none"}]}, "Did you mean 'normalizer'"),
    ],
)
def test_specs_are_checked_before_anything_is_built(change, message):
    with pytest.raises(UserError, match=message):
        SpeechLLM(**{**SPECS, **change})


def test_transcribe_files_and_arrays(trained, tmp_path):
    """One clip as wav, flac, stereo and array; several lengths in one call come back in their order."""
    model, _ = trained()
    clips = noise(8000, 16_000, 4000)
    paths = [tmp_path / f"{i}.wav" for i in range(3)]
    for clip, path in zip(clips, paths, strict=True):
        soundfile.write(path, clip.numpy(), 16_000, subtype="FLOAT")
    expected = [model.transcribe(clip)[0] for clip in clips]
    assert model.transcribe(paths) == expected
    assert model.transcribe([str(path) for path in paths], batch_seconds=0.6) == expected
    assert model.transcribe([clip.numpy() for clip in clips]) == expected
    soundfile.write(tmp_path / "0.flac", np.stack([clips[0].numpy()] * 2, axis=1), 16_000, subtype="PCM_24")
    torch.testing.assert_close(read_audio(tmp_path / "0.flac"), clips[0], rtol=0, atol=1e-6)
    assert model.transcribe(tmp_path / "0.flac") == expected[:1]
    assert len(model.translate(paths, target="de")) == 3
    assert not model.training


def test_unreadable_input_is_named(trained, tmp_path):
    model, _ = trained()
    (tmp_path / "bad.wav").write_bytes(b"RIFFnonsense")
    for name in ("bad.wav", "none.wav"):
        with pytest.raises(UserError, match=name):
            model.transcribe(tmp_path / name)
    soundfile.write(tmp_path / "long.wav", np.zeros(31 * 16_000, dtype=np.float32), 16_000)
    with pytest.raises(UserError, match=r"long\.wav' lasts 31\.00 s; the encoder takes at most 30 s"):
        model.transcribe(tmp_path / "long.wav")


def request(task="asr", source=None, target=None):
    return Request(task, source, target, None, 60.0)


JOINT = {("asr+st", "en", "de"), ("asr+st", "en", "fr")}


@pytest.mark.parametrize(
    ("trained_on", "asked", "expected"),
    [
        ({("asr", "en", "en"), ("st", "en", "de")}, request(), ("asr", "en", "en")),
        ({("asr", "en", "en"), ("st", "en", "de")}, request("st", target="de"), ("st", "en", "de")),
        (JOINT, request("st", target="fr"), ("asr+st", "en", "fr")),
        (JOINT, request("asr"), ("asr+st", "en", "de")),
        (JOINT, request("asr", source="en"), ("asr+st", "en", "de")),
        (set(), request("asr", source="it"), ("asr", "it", "it")),
    ],
)
def test_choosing_the_task(trained_on, asked, expected):
    assert choose_task(trained_on, asked) == expected


def test_languages_that_do_not_fit():
    with pytest.raises(UserError, match="Unknown language 'ge'"):
        choose_task(JOINT, request("st", target="ge"))
    with pytest.raises(UserError, match="`source=` one of de, en"):
        choose_task({("asr", "de", "de"), ("asr", "en", "en")}, request())
    with pytest.warns(UserWarning, match="not trained for st en→it, only for: asr[+]st en→de"):
        assert choose_task(JOINT, request("st", target="it")) == ("st", "en", "it")


def test_batches_stay_within_the_budget():
    lengths = [16_000, 48_000, 32_000, 80_000]
    assert list(_batches(lengths, 6.0)) == [[3], [1, 2], [0]]
    assert list(_batches(lengths, 0.1)) == [[3], [1], [2], [0]]
    assert list(_batches([], 1.0)) == []


def test_unreadable_clips_get_an_empty_hypothesis(trained, eight):
    model, _ = trained()
    batch = eight.select([0, 1, 2])
    expected = model.decode(batch, 1)
    batch.audio_lengths = torch.tensor([8000, 0, 4000])
    hypotheses = model.decode(batch, 1)
    assert hypotheses[0] == expected[0]
    assert (hypotheses[1].text, hypotheses[1].tokens) == ("", 0)
    assert hypotheses[2] == expected[2]


@pytest.mark.parametrize("num_beams", [1, 2])
def test_encoder_and_adapter_run_once_for_several_targets(num_beams, build):
    """The same recording, asked for a transcript and for translations: once for all of them, with the same answers."""
    model = build(decoder={**SPECS["decoder"], "prompt": {"template": "{speech} {instruction}: "}}).eval()
    clips = noise(8000, 12_345)
    batch = make_batch(clips, [0, 1, 0, 1, 0])
    batch.tasks = ["asr", "st", "st", "asr+st", "asr+st"]
    apart = model.decode(batch, num_beams)
    batch.audio_of = [0, 1, 0, 1, 0]
    sizes = {"encoder": [], "adapter": []}
    for part, seen in sizes.items():
        getattr(model, part).register_forward_hook(
            lambda module, inputs, output, seen=seen: seen.append(len(output.values))
        )
    assert model.decode(batch, num_beams) == apart
    assert sizes == {"encoder": [2], "adapter": [2]}
    speech = model.speech(batch)
    assert speech.values.shape[0] == len(speech.lengths) == 5
    assert torch.equal(speech.values[0], speech.values[4])
    sizes["adapter"].clear()
    model.losses(batch)  # in training the adapter may learn from each target
    assert sizes["adapter"] == [5]
