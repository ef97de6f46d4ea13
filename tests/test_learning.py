"""Learning on real speech: digits of speakers that training never heard. Minutes long; run with `-m slow`."""

import csv
import json

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from speechllm.audio import read_audio
from speechllm.batch import Batch
from speechllm.evaluation.scoring import score, summarize
from speechllm.models import SpeechLLM
from speechllm.models.decoding_run import make_predictions

STEPS = 1600
BATCH = 16
CHANCE = 90.0  # one of ten digits guessed right


def read_split(folder, split):
    with (folder / "transcripts.tsv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [(row, read_audio(folder / row["audio"])) for row in rows if row["split"] == split]


def vary(clip):
    """Return the clip as another speaker in another room might give it: other speed and pitch, loudness and noise."""
    speed = 0.75 + 0.55 * torch.rand(()).item()
    varied = torch.nn.functional.interpolate(clip[None, None], scale_factor=1 / speed, mode="linear")[0, 0]
    loudness = (0.5 * torch.randn(())).exp()
    noise = 0.003 * 10 ** (2 * torch.rand(()) - 1)
    return varied * loudness + noise * torch.randn_like(varied)


def collate_varied(items):
    return collate([(row, vary(clip)) for row, clip in items])


def collate(items):
    rows, clips = zip(*items, strict=True)
    size = len(rows)
    return Batch(
        audio=torch.nn.utils.rnn.pad_sequence(clips, batch_first=True),
        audio_lengths=torch.tensor([len(clip) for clip in clips]),
        ids=[row["id"] for row in rows],
        tasks=["asr+st"] * size,
        source_languages=["en"] * size,
        target_languages=["de"] * size,
        transcripts=[row["text"] for row in rows],
        translations=[row["translation"] for row in rows],
        corpora=["fsdd"] * size,
        rows=list(range(size)),
    )


@pytest.mark.slow
def test_digits_of_an_unseen_speaker(shared_data, tmp_path):
    """FSDD: four speakers to train on, a fifth to test; transcript and German word in one decode."""
    train, test = (read_split(shared_data / "fsdd", split) for split in ("train", "dev"))
    assert (len(train), len(test)) == (2000, 500)
    assert {row["speaker"] for row, _ in train}.isdisjoint({row["speaker"] for row, _ in test})
    torch.manual_seed(0)
    model = SpeechLLM(
        encoder={
            "name": "whisper",
            "tuning": "full",
            "config": {"d_model": 128, "encoder_layers": 3, "encoder_attention_heads": 4, "encoder_ffn_dim": 512}
            | {"num_mel_bins": 80, "init_std": 0.07},
        },
        adapter={"name": "ctc", "dim": 128, "heads": 4, "layers": 0, "remove_blank": True},
        loss_weights={"ctc": 1.0},
        decoder={
            "name": "causal_lm",
            "tuning": "full",
            "prompt": {"template": "{speech}<|transcript|>"},
            "config": {"model_type": "llama", "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2}
            | {"num_attention_heads": 4, "num_key_value_heads": 4},
        },
        lr=1.4e-3,
        weight_decay=0.01,
        warmup_steps=50,
        max_new_tokens=40,
    )
    loader = DataLoader(train, BATCH, shuffle=True, drop_last=True, collate_fn=collate_varied)
    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "default_root_dir": tmp_path}
    Trainer(max_steps=STEPS, gradient_clip_val=1.0, **options).fit(model, loader)

    model.eval()
    predictions = []
    for start in range(0, len(test), 100):
        batch = collate(test[start : start + 100])
        predictions += make_predictions(batch, model.decode(batch, 1), 0.0, "dev")
    results = summarize(score(predictions, [{"name": "wer"}, {"name": "bleu"}, {"name": "chrf"}]))
    translated = sum(p.hypothesis_translation == p.reference_translation for p in predictions)
    print(json.dumps({**results, "translated_right_percent": 100 * translated / len(test)}))
    assert results["wer"] < CHANCE / 2
    assert 100 * translated / len(test) > 100 - CHANCE / 2
