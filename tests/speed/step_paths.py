"""One training step by our path and by the stock one: the same weights, audio and texts. Run by test_step.py."""

import json
import sys

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast

from speechllm.batch import Batch
from speechllm.models import SpeechLLM
from tests.tiny import seconds

DURATIONS_S = (3.1, 4.0, 4.6, 5.2, 5.8, 6.3, 7.0, 8.4)
VOCABULARY = 32_000
TARGET_TOKENS = 36
"""Tokens of each answer, the end token included."""


def save_tokenizer(folder):
    """Write a tokenizer of 32,000 words."""
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    vocab = {token: index for index, token in enumerate([*special, *(f"w{i}" for i in range(VOCABULARY - 4))])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.save_pretrained(folder)
    return str(folder)


def build(tokenizer, **decoder):
    """Build the model of the measurement: a Whisper encoder of 384 × 4, a projector, a Llama of 512 × 6."""
    encoder = {"d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536}
    llm = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 6, "num_attention_heads": 8}
    torch.manual_seed(0)
    model = SpeechLLM(
        encoder={"name": "whisper", "config": {**encoder, "num_mel_bins": 80}},
        adapter={"name": "projector"},
        decoder={"name": "causal_lm", "tokenizer": tokenizer, "config": {"model_type": "llama", **llm}, **decoder},
    )
    model.configure_model()
    return model.train()


def make_batch(durations_s=DURATIONS_S):
    """Return utterances of noise with 35 words each."""
    lengths = seconds(*durations_s)
    generator = torch.Generator().manual_seed(0)
    audio = torch.zeros(len(lengths), max(lengths))
    for row, length in enumerate(lengths):
        audio[row, :length] = torch.randn(length, generator=generator) * 0.1
    words = torch.randint(VOCABULARY - 4, (len(lengths), TARGET_TOKENS - 1), generator=generator).tolist()
    size = len(lengths)
    return Batch(
        audio=audio,
        audio_lengths=torch.tensor(lengths),
        ids=[f"u{row}" for row in range(size)],
        tasks=["asr"] * size,
        source_languages=["en"] * size,
        target_languages=["en"] * size,
        transcripts=[" ".join(f"w{word}" for word in row) for row in words],
        translations=[""] * size,
        corpora=["noise"] * size,
        rows=list(range(size)),
    )


def our_step(model, batch):
    """Take a step as training does; return the mean loss of a target token."""
    losses = model.losses(batch)
    loss = losses.llm.sum() / losses.target_lengths.sum()
    loss.backward()
    return loss.detach()


def stock_step(model, batch):
    """Take a step with the stock encoder on 30 s, whole sequences and the LLM's own loss; return it."""
    with torch.no_grad():
        mel = model.encoder.log_mel(batch.audio, batch.audio_lengths, 3000)
        frames = model.encoder.encoder(mel).last_hidden_state
    layers = model.adapter
    hidden = layers.conv2(nn.functional.gelu(layers.conv1(frames.transpose(1, 2)))).transpose(1, 2)
    loss = stock_loss(model, batch, layers.layers(hidden), torch.full((len(batch),), 375))
    loss.backward()
    return loss.detach()


def stock_loss(model, batch, speech, lengths):
    """Return the LLM's own loss of prompt, speech and answer, over all positions, padded at the right."""
    decoder = model.decoder
    embed, rows, labels = decoder.llm.get_input_embeddings(), [], []
    for row, text in enumerate(batch.transcripts):
        before, after = (torch.tensor(ids) for ids in decoder.prompt.around("asr", "en", "en"))
        answer = torch.tensor(decoder.prompt.answer("asr", text, ""))
        rows.append(torch.cat([embed(before), speech[row, : lengths[row]], embed(after), embed(answer)]))
        ignored = torch.full((len(rows[-1]) - len(answer),), -100)
        labels.append(torch.cat([ignored, answer]))
    mask = nn.utils.rnn.pad_sequence([torch.ones(len(row)) for row in rows], batch_first=True)
    return decoder.llm(
        inputs_embeds=nn.utils.rnn.pad_sequence(rows, batch_first=True),
        attention_mask=mask,
        labels=nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100),
        use_cache=False,
    ).loss


STEPS = {"ours": our_step, "stock": stock_step}


def added_bytes(model, step, batch):
    """Return by how much a step raises the resident memory of this process at its peak (Linux)."""
    with open("/proc/self/clear_refs", "w") as clear:
        clear.write("5")  # the peak so far is forgotten
    before = _status("VmRSS")
    step(model, batch)
    return _status("VmHWM") - before


def _status(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))


def main(path, tokenizer, packing):
    """Print the memory that one step adds in this fresh process, after a step on half a second of audio."""
    torch.set_num_threads(2)
    model = build(tokenizer, packing=packing == "packed")
    STEPS[path](model, make_batch([0.5]))
    model.zero_grad()
    print(json.dumps({"added_bytes": added_bytes(model, STEPS[path], make_batch())}))


if __name__ == "__main__":
    main(*sys.argv[1:])
