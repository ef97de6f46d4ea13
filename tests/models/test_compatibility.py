"""Parts that cannot work together are refused before any weight is loaded."""

import pytest

from speechllm.data.corpora.synthetic import train_tokenizer
from speechllm.errors import UserError
from speechllm.models import SpeechLLM
from speechllm.models.compatibility import SENTENCE, frame_rate

# None of these names can be loaded: an error that comes first shows that nothing was tried.
WHISPER = {"name": "whisper", "pretrained": "none/whisper"}
SEAMLESS = {"name": "seamless", "pretrained": "none/seamless"}
HUBERT = {"name": "hubert", "pretrained": "none/hubert"}
LLM = {"name": "causal_lm", "pretrained": "none/llm"}
BYTES = {"name": "causal_lm", "config": {"model_type": "llama"}}


@pytest.mark.parametrize(
    ("encoder", "adapter", "decoder", "options", "message"),
    [
        (WHISPER, {"name": "ctc_collapse"}, LLM, {}, r"reads the CTC head of its encoder, and 'whisper' gives none"),
        (HUBERT, {"name": "ctc_collapse"}, LLM, {}, r"ctc_head: true"),
        (SEAMLESS, {"name": "ctc", "vocabulary": "characters"}, LLM, {}, r"in characters.* 'seamless' has 6.25"),
        (SEAMLESS, {"name": "cif", "vocabulary": "bytes"}, LLM, {}, r"in bytes.* `vocabulary: llm`"),
        (SEAMLESS, {"name": "ctc"}, BYTES, {}, r"in bytes"),
        (WHISPER, {"name": "conv"}, LLM, {"loss_weights": {"ctc": 0.1}}, r"no such loss. Its losses: none"),
        (WHISPER, {"name": "cif"}, LLM, {"loss_weights": {"quantiy": 1.0}}, r"Did you mean 'quantity'"),
    ],
)
def test_refused(encoder, adapter, decoder, options, message):
    with pytest.raises(UserError, match=message):
        SpeechLLM(encoder, adapter, decoder, **options)


@pytest.mark.parametrize(
    ("encoder", "adapter", "decoder"),
    [
        ({**HUBERT, "ctc_head": True}, {"name": "ctc_collapse"}, LLM),
        (SEAMLESS, {"name": "ctc"}, LLM),
        (WHISPER, {"name": "ctc", "vocabulary": "characters"}, LLM),
        (WHISPER, {"name": "ctc"}, BYTES),
        (SEAMLESS, {"name": "conv"}, BYTES),
    ],
)
def test_accepted(encoder, adapter, decoder):
    assert SpeechLLM(encoder, adapter, decoder).specs["adapter"] == adapter


def test_rate_of_parallel_streams():
    parallel = {"name": "parallel", "encoders": [WHISPER, SEAMLESS], "fusion": {"name": "concat"}}
    assert frame_rate(parallel) == 50.0
    assert frame_rate({**parallel, "frame_rate": 12.5}) == 12.5


@pytest.mark.parametrize(
    ("adapter", "options", "losses"),
    [
        ({"name": "conv"}, {}, []),
        ({"name": "ctc"}, {}, ["ctc"]),
        ({"name": "cif"}, {"loss_weights": {"ctc": 0.0}}, ["quantity"]),
    ],
)
def test_losses_learned_from_transcripts(adapter, options, losses):
    assert SpeechLLM(WHISPER, adapter, LLM, **options).transcript_losses() == losses


@pytest.mark.parametrize(("merges", "refused"), [(0, True), (300, False)])
def test_a_tokenizer_file_that_spells_is_found_out(merges, refused, tmp_path):
    """Characters do not fit into 6.25 frames per second, whatever file they come from."""
    path = tmp_path / "tokenizer.json"
    train_tokenizer([SENTENCE] * 5, 262 + merges).save(str(path))
    spec = {"name": "ctc", "vocabulary": str(path)}
    if refused:
        with pytest.raises(UserError, match=r"6\.25"):
            SpeechLLM(SEAMLESS, spec, LLM)
    else:
        SpeechLLM(SEAMLESS, spec, LLM)
