"""``speechllm inspect``."""

import pytest
import soundfile
import torch

from speechllm.cli import main
from speechllm.models import SpeechLLM
from speechllm.registry import DECODERS, ENCODERS
from tests.tiny import noise


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with a run of a tiny model and a recording of two seconds."""
    monkeypatch.chdir(tmp_path)
    model = SpeechLLM(
        encoder={"name": "whisper", **ENCODERS.get("whisper").tiny},
        adapter={"name": "conv", "dim": 16, "heads": 2, "layers": 0},
        decoder={"name": "causal_lm", **DECODERS.get("causal_lm").tiny},
        max_new_tokens=4,
    )
    model.configure_model()
    model.trained_on = {("asr+st", "en", "de")}
    checkpoint = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    model.on_save_checkpoint(checkpoint)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    torch.save(checkpoint, "run/checkpoints/last.ckpt")
    soundfile.write("talk.wav", noise(32_000)[0].numpy(), 16_000)
    return tmp_path


def fails(capsys, *args):
    with pytest.raises(SystemExit) as exit_:
        main(["inspect", *args])
    assert exit_.value.code == 2
    return capsys.readouterr().err


def test_picture_and_facts(workplace, capsys):
    main(["inspect", "talk.wav", "--model", "run", "--device", "cpu"])
    printed = capsys.readouterr().out
    assert "talk.wav  (2.00 s)\n" in printed
    assert "whisper: 100 frames, 50 per second  →  conv: 25 positions, 12.5 per second  (4.0 : 1)\n" in printed
    assert "\ntranscript: " in printed
    assert printed.endswith("Picture: talk.png\n")
    assert (workplace / "talk.png").read_bytes().startswith(b"\x89PNG")


def test_options(workplace, capsys):
    options = ["--out", "b.svg", "--translate_to", "de", "--offset_s", "0.5", "--duration_s", "0.96", "--device", "cpu"]
    main(["inspect", "talk.wav", "--model", "run", *options])
    printed = capsys.readouterr().out
    assert "talk.wav, 0.50 to 1.46 s  (0.96 s)" in printed
    assert "12 positions" in printed
    assert "translation (de): " in printed
    assert "<svg" in (workplace / "b.svg").read_text()


def test_wrong_input(workplace, capsys):
    model = ["--model", "run", "--device", "cpu"]
    assert "none.wav' does not exist" in fails(capsys, "none.wav", *model)
    (workplace / "text.wav").write_text("not audio")
    assert "text.wav' cannot be decoded" in fails(capsys, "text.wav", *model)
    soundfile.write("long.wav", torch.zeros(16_000 * 31).numpy(), 16_000)
    assert "lasts 31.00 s, and a picture takes at most 30 s" in fails(capsys, "long.wav", *model)
    assert "There is no trained model at 'nowhere'" in fails(capsys, "talk.wav", "--model", "nowhere")
    assert "Unknown language 'dee'" in fails(capsys, "talk.wav", *model, "--translate_to", "dee")


def test_a_wrong_place_is_found_before_the_model_is_loaded(workplace, capsys, monkeypatch):
    monkeypatch.setattr(SpeechLLM, "load", lambda *args: pytest.fail("the model was loaded"))
    assert "there is no folder 'none'" in fails(capsys, "talk.wav", "--model", "run", "--out", "none/a.png")
    assert "ends in one of .png, .pdf, .svg" in fails(capsys, "talk.wav", "--model", "run", "--out", "a.jpg")
