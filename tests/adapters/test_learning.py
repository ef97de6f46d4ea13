"""What adapters learn on a toy of tones: eight utterances by heart, how many tokens there are, and which (spec §18.5).

Each letter is a tone, some frames of one vector with noise, and silence stands between tones.
"""

import itertools

import pytest
import torch
from torch import nn

import speechllm.adapters
import speechllm.decoders  # noqa: F401
from speechllm.batch import SAMPLE_RATE, Batch, Frames, zero_padding
from speechllm.registry import ADAPTERS
from tests.tiny import tiny_adapter, tiny_decoder

DIM = 12
LETTERS = "abcde"
TONES = torch.randn(len(LETTERS) + 1, DIM, generator=torch.Generator().manual_seed(7))
SILENCE = len(LETTERS)
"""The last of the tones."""


def speak(count, seed):
    """Return frames of ``count`` utterances of 3 to 5 letters, no two the same, and the letters' numbers.

    The frames carry the logits of a CTC head that knows the tones, for adapters that collapse by an encoder's own.
    """
    random = torch.Generator().manual_seed(seed)

    def draw(low, high):
        return int(torch.randint(low, high + 1, (), generator=random))

    spoken = set()
    while len(spoken) < count:
        spoken.add(tuple(draw(0, len(LETTERS) - 1) for _ in range(draw(3, 5))))
    tones = []
    for letters in sorted(spoken):
        parts = [[SILENCE] * draw(1, 3)]
        for letter in letters:
            parts += [[letter] * draw(4, 7), [SILENCE] * draw(1, 3)]
        tones.append(torch.tensor(list(itertools.chain(*parts))))
    lengths = torch.tensor([len(row) for row in tones])
    labels = nn.utils.rnn.pad_sequence(tones, batch_first=True, padding_value=SILENCE)
    # As an encoder's frames do, each tells of its neighbours: so a tone's first frame differs from its last.
    before, after = labels.roll(1, dims=1), labels.roll(-1, dims=1)
    values = TONES[labels] + 0.5 * TONES[before] - 0.5 * TONES[after]
    values = values + 0.1 * torch.randn(values.shape, generator=random)
    values = zero_padding(values, lengths)
    logits = 9.0 * nn.functional.one_hot(labels, len(LETTERS) + 1)
    return Frames(values, lengths, logits, SILENCE), sorted(spoken)


def to_batch(frames, spoken):
    size = len(spoken)
    samples = frames.lengths * SAMPLE_RATE // 50
    return Batch(
        audio=torch.zeros(size, int(samples.max())),
        audio_lengths=samples,
        ids=[f"u{row}" for row in range(size)],
        tasks=["asr"] * size,
        source_languages=["en"] * size,
        target_languages=["en"] * size,
        transcripts=["".join(LETTERS[letter] for letter in letters) for letters in spoken],
        translations=[""] * size,
        corpora=["tones"] * size,
        rows=list(range(size)),
    )


def build(name, **options):
    """Return an adapter without dropout and a Llama of two layers, both to be trained."""
    no_dropout = {"dropout": 0.0} if "dropout" in ADAPTERS.options(name) else {}
    decoder = tiny_decoder("llama", tuning="full", prompt={"template": "{speech}<|transcript|>"})
    return tiny_adapter(name, DIM, decoder.dim, **no_dropout, **options).train(), decoder.train()


def losses(adapter, decoder, frames, batch):
    """Return the LLM's mean loss of a token, and the adapter's losses and figures."""
    targets = adapter.encode_targets(batch.transcripts) or decoder.transcript_ids(batch)
    speech = adapter(frames, targets)
    output = decoder(speech, batch)
    return output.losses.sum() / output.target_lengths.sum(), speech


def train(adapter, decoder, frames, batch, steps, lr, weights=None, good_enough=0.0):
    """Train both until the LLM's loss is good enough, or for all steps; return the last loss of the LLM."""
    weights = adapter.loss_weights if weights is None else weights
    optimiser = torch.optim.Adam([*adapter.parameters(), *decoder.parameters()], lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        llm, speech = losses(adapter, decoder, frames, batch)
        if llm < good_enough:
            break
        optimiser.zero_grad()
        (llm + sum(weights[name] * values.mean() for name, values in speech.losses.items())).backward()
        optimiser.step()
        schedule.step()
    return float(losses(adapter, decoder, frames, batch)[0].detach())


@pytest.mark.parametrize("name", ADAPTERS.names())
def test_eight_utterances_by_heart(name):
    """Who knows the eight texts but not which of them is spoken stays at ln 8 an utterance, 0.4 a token."""
    adapter, decoder = build(name)
    frames, spoken = speak(8, seed=1)
    batch = to_batch(frames, spoken)
    assert train(adapter, decoder, frames, batch, steps=600, lr=5e-3, good_enough=0.05) < 0.05
    others = [*range(1, 8), 0]
    wrong = Frames(frames.values[others], frames.lengths[others], frames.ctc_logits[others], SILENCE)
    assert losses(adapter, decoder, wrong, batch)[0] > 0.5, "it does not listen"


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_cif_counts_tokens_by_its_quantity_loss_alone(weight):
    """With the loss each utterance fires as often as it has tokens; without, scaling hides that it does not."""
    adapter, decoder = build("cif")
    frames, spoken = speak(8, seed=1)
    batch = to_batch(frames, spoken)
    tokens = torch.tensor([len(letters) for letters in spoken])
    train(
        adapter, decoder, frames, batch, steps=600 if weight else 300, lr=5e-3, weights={"ctc": 0.1, "quantity": weight}
    )
    output = adapter.eval()(frames)
    missed = (output.stats["quantity"] - tokens).abs()
    if weight:
        assert missed.max() < 0.3
        assert output.lengths.tolist() == tokens.tolist()
    else:
        assert missed.max() > 0.5


@pytest.mark.parametrize("name", [name for name in ADAPTERS.names() if "ctc" in ADAPTERS.get(name).loss_weights])
def test_ctc_head_spells_what_it_never_heard(name):
    """The head's best labels, repeats and blanks taken out, are the letters of 32 other utterances."""
    adapter = tiny_adapter(name, DIM, 8, vocabulary="characters", alphabet=LETTERS).train()
    frames, spoken = speak(32, seed=1)
    targets = adapter.encode_targets(to_batch(frames, spoken).transcripts)
    optimiser = torch.optim.Adam(adapter.parameters(), lr=1e-2)
    for _ in range(250):
        optimiser.zero_grad()
        adapter(frames, targets).losses["ctc"].mean().backward()
        optimiser.step()

    frames, spoken = speak(32, seed=2)
    logits = []
    adapter.head.register_forward_hook(lambda *call: logits.append(call[-1]))
    adapter.eval()(frames, adapter.encode_targets(to_batch(frames, spoken).transcripts))
    edits = 0
    for row, length, letters in zip(logits[0].argmax(dim=-1), frames.lengths.tolist(), spoken, strict=True):
        collapsed = [label for label in row[:length].unique_consecutive().tolist() if label != adapter.blank]
        edits += edit_distance(collapsed, list(letters))
    assert 1 - edits / sum(len(letters) for letters in spoken) > 0.95


def edit_distance(first, second):
    row = list(range(len(second) + 1))
    for i, one in enumerate(first, start=1):
        last, row[0] = row[0], i
        for j, other in enumerate(second, start=1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (one != other))
    return row[-1]
